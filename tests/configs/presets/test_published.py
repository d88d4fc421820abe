"""The published models, built without their numbers: sizes and names of tensors."""

import json

import pytest

from configs.presets.published import DOMAINS, fourm_b, fourm_l, fourm_xl, mixture
from fourm.interop.checks.masking_statistics import build_mixture
from fourm.interop.transformer.modalities import find_published
from fourm.interop.transformer.weights import build_abstract, count_trunk, list_tensors
from tests.paths import GOLDENS

STATISTICS = GOLDENS / "masking" / "stats.json"
MODELS = {"b": (fourm_b, 198e6), "l": (fourm_l, 705e6), "xl": (fourm_xl, 2.8e9)}


def expected_names(config) -> set[str]:
    """Lists the tensors of a bias-free SwiGLU model's file, as ml-4m names them."""

    def norm(name):
        return {f"{name}.weight", f"{name}.bias"}

    mlp = {f"mlp.fc{number}.weight" for number in (1, 2, 3)}
    encoder = norm("norm1") | norm("norm2") | mlp | {"attn.qkv.weight", "attn.proj.weight"}
    decoder = norm("norm1") | norm("norm2") | norm("query_norm") | norm("context_norm") | mlp
    decoder |= {"self_attn.qkv.weight", "self_attn.proj.weight"}
    decoder |= {f"cross_attn.{part}.weight" for part in ("q", "kv", "proj")}
    names = {"mask_token", "decoder_proj_context.weight", "decoder_proj_context.bias"}
    names |= norm("encoder_norm") | norm("decoder_norm")
    for layer in range(config["encoder_depth"]):
        names |= {f"encoder.{layer}.{name}" for name in encoder}
        names |= {f"decoder.{layer}.{name}" for name in decoder}
    for name in config["domains_in"]:
        match find_published(name).kind:
            case "pixels":
                own = {"proj.weight"}
            case "embeddings":
                own = {"emb_proj.weight", "emb_proj.bias"}
            case _:
                own = {"token_emb.weight"}
        names |= {f"encoder_embeddings.{name}.{part}" for part in own | {"mod_emb", "pos_emb"}}
    own = {"mod_emb", "pos_emb", "token_emb.weight", "to_logits.weight"}
    for name in config["domains_out"]:
        names |= {f"decoder_embeddings.{name}.{part}" for part in own}
    return names


@pytest.mark.slow
@pytest.mark.parametrize("modalities", DOMAINS)
@pytest.mark.parametrize("size", MODELS)
def test_every_published_model_has_its_parameters_and_its_tensors(size, modalities):
    build, parameters = MODELS[size]
    config = build(modalities)
    model = build_abstract(config)
    assert count_trunk(model) == pytest.approx(parameters, rel=0.01)
    assert set(list_tensors(model.space, model.config)) == expected_names(config)


def test_there_are_as_many_modalities_as_published():
    inputs, targets = DOMAINS["7"]
    assert len(inputs) == 8 and set(inputs) - set(targets) == {"rgb@224"}
    inputs, targets = DOMAINS["21"]
    assert len(inputs) == 19 and set(inputs) - set(targets) == {"rgb@224", "t5_caption"}
    inputs, targets = DOMAINS["sr"]
    assert all(name.endswith("@448") for name in targets)
    model = build_abstract(fourm_l("sr"))
    assert {model.space[name].num_tokens for name in targets} == {784}


@pytest.mark.parametrize(
    ("modalities", "setting"), [("7", "mod7_a0.5_128_128"), ("21", "mod21_mix7_256_256")]
)
def test_the_mixtures_are_those_that_were_recorded(modalities, setting):
    recorded = build_mixture(json.loads(STATISTICS.read_text())[setting])
    ours = mixture(modalities)
    assert ours.rules == recorded.rules == "ml4m"
    assert len(ours.components) == len(recorded.components)
    for own, other in zip(ours.components, recorded.components, strict=True):
        assert (own.inputs, own.targets, own.weight) == (other.inputs, other.targets, other.weight)
        assert (own.num_inputs, own.num_targets) == (other.num_inputs, other.num_targets)
        # What is not said is kept at random.
        told = {name: keep for name, keep in other.keep_of.items() if keep != own.keep}
        assert own.keep_of == told


@pytest.mark.parametrize("modalities", DOMAINS)
def test_every_mixture_can_be_drawn(modalities):
    mixture(modalities).check_fits(build_abstract(fourm_b(modalities)).space)
