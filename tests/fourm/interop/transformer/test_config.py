"""Configurations of published models: read with care, and the same both ways."""

import dataclasses
import json

import pytest

from fourm.interop.transformer import config as fm_config
from fourm.interop.transformer.config import (
    ACTIVATION_NAMES,
    build_space,
    complete_config,
    from_ours,
    read_config,
    to_model_config,
    write_metadata,
)
from fourm.interop.transformer.modalities import PUBLISHED, find_published
from fourm.model.config import ACTIVATIONS
from fourm.token_space import TokenSpace
from tests.fourm.tiny import change_config

GIVEN = dict(
    domains_in=["caption", "rgb@224", "tok_dinov2_global", "tok_rgb@448"],
    domains_out=["caption", "tok_clip@224", "tok_dinov2_global"],
    image_size=224,
    patch_size=16,
    norm_bias=False,
    act_layer="SiLU",
    gated_mlp=True,
    dim=32,
    num_heads=4,
    encoder_depth=1,
    decoder_depth=2,
)


def both_ways(given):
    config = complete_config(given)
    return config, from_ours(build_space(config, {}), to_model_config(config))


def test_every_activation_of_ours_has_a_name_there_and_the_other_way_round():
    assert set(ACTIVATION_NAMES.values()) == set(ACTIVATIONS)
    assert len(set(ACTIVATION_NAMES.values())) == len(ACTIVATION_NAMES)
    for (_, is_gated), name in ACTIVATION_NAMES.items():
        assert is_gated == ACTIVATIONS[name][1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(qkv_bias=False),
        dict(proj_bias=False),
        dict(mlp_bias=False),
        dict(norm_bias=True),
        dict(qk_norm=True),
        dict(mlp_ratio=3.5),
        dict(num_register_tokens=2),
        dict(decoder_causal_mask=True),
        dict(decoder_sep_mask=False),
        dict(share_modality_embeddings=False),
        dict(use_act_checkpoint=True),
        dict(act_layer="GELU"),
        dict(act_layer="ReLU", gated_mlp=False),
    ],
    ids=str,
)
def test_every_key_says_the_same_after_a_way_through_ours(changes):
    plain, _ = both_ways(GIVEN)
    config, again = both_ways(GIVEN | changes)
    assert again == config
    assert not changes or to_model_config(config) != to_model_config(plain)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        *((key, 10**9, "a whole number, ") for key in ("encoder_depth", "decoder_depth", "dim")),
        ("num_heads", 0, "a whole number, 1 to "),
        ("dim", "32", "a whole number, 4 to "),
        ("dim", -32, "a whole number, 4 to "),
        ("dim", True, "a whole number, 4 to "),
        ("dim", 32.0, "a whole number, 4 to "),
        ("encoder_depth", 0, "a whole number, 1 to "),
        ("num_register_tokens", 10**30, "a whole number, 0 to "),
        ("mlp_ratio", float("inf"), "a number, 0.01 to "),
        ("mlp_ratio", float("nan"), "a number, 0.01 to "),
        ("mlp_ratio", None, "a number, 0.01 to "),
        ("image_size", [224], "a whole number, 1 to "),
        ("patch_size", 0, "a whole number, 1 to "),
        ("norm_bias", 1, "True or False"),
        ("act_layer", {}, "a name"),
        ("domains_in", "caption", "a list of names"),
        ("domains_in", [3], "a list of names"),
    ],
)
def test_an_impossible_value_is_refused_at_once(key, value, kind):
    with pytest.raises(ValueError, match=rf"configuration's {key} is .*; it must be {kind}"):
        complete_config(GIVEN | {key: value})


def test_metadata_are_read_as_they_are_written(tmp_path):
    given = GIVEN | dict(num_register_tokens=2, decoder_sep_mask=False)
    metadata = write_metadata(complete_config(given))
    assert metadata["domains_out"] == "['caption', 'tok_clip@224', 'tok_dinov2_global']"
    assert metadata["norm_bias"] == "False" and "decoder_causal_mask" not in metadata
    assert read_config(tmp_path / "model.safetensors", metadata) == complete_config(given)


def test_a_configuration_beside_the_weights_counts_before_their_metadata(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GIVEN | dict(dim=64)))
    metadata = write_metadata(complete_config(GIVEN))
    assert read_config(tmp_path / "model.safetensors", metadata)["dim"] == 64


def test_what_is_not_given_has_the_published_default():
    required = {key: GIVEN[key] for key in fm_config.REQUIRED}
    ours = to_model_config(complete_config(required))
    assert (ours.dim, ours.encoder_layers, ours.num_heads) == (768, 12, 12)
    assert (ours.activation, ours.qk_norm) == ("silu", False)
    published = ours.published
    assert published.qkv_bias and published.out_bias and published.mlp_bias
    assert (published.separate_targets, published.causal_targets) == (True, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dimm=3), "The configuration has dimm, which no published model has"),
        (dict(dim="wide"), "dim is 'wide'; it must be a whole number"),
        (dict(dim=32.5), "dim is 32.5; it must be a whole number"),
        (dict(dim=-4), "dim is -4"),
        (dict(num_heads=0), "num_heads is 0"),
        (dict(qk_norm="yes"), "qk_norm is 'yes'; it must be True or False"),
        (dict(act_layer="Mish"), "act_layer is 'Mish'; known are GELU, ReLU, SiLU"),
        (dict(act_layer=3), "act_layer is 3; it must be a name"),
        (dict(domains_in="caption"), "domains_in is 'caption'; it must be a list of names"),
        (dict(domains_out=[]), "domains_out is empty"),
        (dict(domains_in=["captions"]), r"has a modality 'captions'; did you mean 'caption'\?"),
        (dict(dim=30), "ModelConfig.dim is 30"),
    ],
    ids=str,
)
def test_what_is_not_known_gets_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        both_ways(GIVEN | changes)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="lacks image_size, act_layer; put"):
        complete_config({k: v for k, v in GIVEN.items() if k not in ("image_size", "act_layer")})


def test_a_model_that_they_don_t_have_is_not_written():
    config = complete_config(GIVEN)
    space, ours = build_space(config, {}), to_model_config(config)
    with pytest.raises(ValueError, match=r"no norm 'rmsnorm', learned_positions True; this model"):
        from_ours(space, change_config(ours, norm="rmsnorm", learned_positions=True))
    first = dataclasses.replace(space.ranges[0], token_shape=(20,))
    with pytest.raises(
        ValueError, match=r"caption is not laid out .* shape \(20,\), there \(256,\)"
    ):
        from_ours(TokenSpace((first, *space.ranges[1:])), ours)


def test_the_published_modalities_have_their_sizes():
    sizes = {name: known.token_shape(224) for name, known in PUBLISHED.items()}
    assert sizes["tok_rgb@224"] == sizes["rgb@224"] == (14, 14)
    assert sizes["tok_rgb@448"] == (28, 28) and sizes["tok_dinov2@224"] == (16, 16)
    assert sizes["tok_imagebind_global"] == (16,) and sizes["sam_instance"] == (290,)
    assert len([name for name in PUBLISHED if not name.endswith("@448")]) == 19
    assert find_published("caption").special(30_000) == (3, 5, 199)
    assert find_published("caption").special(20).num_sentinels == 15


def test_a_modality_is_read_or_predicted_only_where_the_configuration_says_so():
    space = build_space(complete_config(GIVEN | dict(domains_out=["tok_clip@224", "rgb@224"])), {})
    roles = {entry.name: (entry.is_input, entry.is_target) for entry in space.ranges}
    assert roles["caption"] == (True, False) and roles["tok_clip@224"] == (False, True)
    assert roles["rgb@224"] == (True, False)
    assert space["rgb@224"].feature_width == 768 and space["rgb@224"].vocab_size == 0
