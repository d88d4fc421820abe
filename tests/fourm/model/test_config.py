"""Every pair of options builds, each adds what it says, and impossible shapes are refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.model.config import ModelConfig
from fourm.model.positions import sincos_positions
from fourm.model.transformer import FourM
from tests.fourm.model.test_transformer import BATCH
from tests.fourm.tiny import SPACE, change_config

pytestmark = pytest.mark.xdist_group("fourm/model/test_transformer")


OPTIONS = dict(
    activation=("gelu", "swiglu"),
    norm=("layernorm", "rmsnorm"),
    qkv_bias=(False, True),
    out_bias=(False, True),
    mlp_bias=(False, True),
    norm_bias=(False, True),
    qk_norm=(False, True),
    num_registers=(0, 2),
    learned_positions=(False, True),
    separate_positions=((), ("map", "boxes")),
    share_token_embeddings=(False, True),
    share_modality_embeddings=(False, True),
    separate_targets=(False, True),
    causal_targets=(False, True),
    scan_layers=(False, True),
    remat=("none", "everything"),
    compute_dtype=("float32", "bfloat16"),
)


def build_shape(**options):
    config = change_config(
        ModelConfig(dim=16, num_heads=2, encoder_layers=2, decoder_layers=2), **options
    )

    def build():
        model = FourM(SPACE, config, nnx.Rngs(0))
        return nnx.state(model), model(BATCH)

    return jax.eval_shape(build)


# Plackett and Burman's twenty runs: any two of up to 19 options meet in all combinations.
ROW = [1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0]
DESIGN = np.array([np.roll(ROW, k) for k in range(19)] + [[0] * 19])


def test_the_runs_below_hold_every_pair_of_options():
    for a, b in itertools.combinations(range(len(OPTIONS)), 2):
        assert len(set(zip(DESIGN[:, a], DESIGN[:, b], strict=True))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("choices", DESIGN.tolist(), ids=str)
def test_every_pair_of_options_builds_and_runs(choices):
    options = {name: values[choices[i]] for i, (name, values) in enumerate(OPTIONS.items())}
    _, features = build_shape(**options)
    assert features.shape == (6, 18, 16)
    assert features.dtype == jnp.dtype(options["compute_dtype"])


def names_of(options):
    state, _ = build_shape(**options)
    leaves = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))[0]
    return {".".join(str(key.key) for key in path): leaf.shape for path, leaf in leaves}


@pytest.mark.slow
def test_biases_exist_only_where_asked_for_and_in_the_context_projection():
    def biases(**options):
        names = names_of(dict(norm="layernorm", **options))
        return {name for name in names if name.endswith("bias")} - {"context.bias"}

    assert biases() == set()
    parts = {
        "qkv_bias": ("query", "key", "value"),
        "out_bias": ("out",),
        "mlp_bias": ("gate", "up", "down"),
        "norm_bias": ("norm", "norm1", "norm2"),
    }
    for option, ends in parts.items():
        found = biases(**{option: True})
        assert found and all(name.split(".")[-2].endswith(ends) for name in found)
        for end in ends:
            assert any(name.startswith("encoder.") and f"{end}.bias" in name for name in found)


def test_a_gated_mlp_has_two_thirds_of_the_width():
    gated = names_of(dict(activation="swiglu"))
    plain = names_of(dict(activation="gelu"))
    assert gated["encoder.layers.mlp.gate.kernel"] == (2, 16, 42)
    assert plain["encoder.layers.mlp.up.kernel"] == (2, 16, 64)
    assert "encoder.layers.mlp.gate.kernel" not in plain


def test_positions_of_a_grid_are_sines_and_cosines_of_row_and_column():
    table, dim = sincos_positions(SPACE["picture"], 16), 16
    omega = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    for place in range(12):
        row, column = divmod(place, 4)
        blocks = [np.sin(row * omega), np.cos(row * omega)]
        blocks += [np.sin(column * omega), np.cos(column * omega)]
        np.testing.assert_allclose(table[place], np.concatenate(blocks), atol=1e-6)


def test_positions_of_a_sequence_are_sines_and_cosines_of_the_place():
    table = sincos_positions(SPACE["text"], 16)
    angles = np.arange(12)[:, None] * 10000.0 ** (-np.arange(8) / 8)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(table, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(dim=30, num_heads=4),
            r"ModelConfig.dim is 30; .* by 4 .* and by ModelConfig.num_heads, 4",
        ),
        (dict(dim=18, num_heads=2), r"ModelConfig.dim is 18; it must be divisible by 4"),
        (dict(encoder_layers=0), r"ModelConfig.encoder_layers is 0; it must be 1 to 1024"),
        (dict(decoder_layers=0), r"ModelConfig.decoder_layers is 0; it must be 1 to 1024"),
        (dict(registers_in_context=True), r"raise ModelConfig.num_registers from 0"),
    ],
)
def test_an_impossible_shape_gets_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        change_config(ModelConfig(), **changes)
