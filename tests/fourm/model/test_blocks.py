"""What layers keep in memory, and how precisely they compute.

What they compute is tested with the model.
"""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from fourm.model.config import ModelConfig
from fourm.model.saved_model import load_shape, save_model
from fourm.model.transformer import FourM
from tests.fourm.model.test_transformer import BATCH
from tests.fourm.tiny import SPACE, build_model


@pytest.mark.slow
def test_what_is_computed_again_need_not_be_kept():
    shape = dict(encoder_layers=64, decoder_layers=64, scan_layers=True, activation="gelu")
    config = ModelConfig(dim=32, num_heads=2, **shape)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((64, *x.shape[1:]), x.dtype), BATCH)

    def kept(remat) -> int:
        """Bytes beside the arguments and results of a gradient."""
        again = replace(config, remat=remat)
        graph, state = nnx.split(nnx.eval_shape(lambda: FourM(SPACE, again, nnx.Rngs(0))))
        loss = jax.grad(lambda state, batch: jnp.sum(nnx.merge(graph, state)(batch) ** 2))
        compiled = jax.jit(loss).lower(state, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    nothing, blocks, everything = map(kept, ("none", "blocks", "everything"))
    # Of 64 + 64 blocks: all that they compute; their inputs; every eighth input, and eight more at
    # a time. Beside that, what one block computes.
    assert blocks < 0.1 * nothing
    assert everything < 0.6 * blocks


@pytest.mark.parametrize(("before", "now"), [(False, "none"), (True, "blocks")])
def test_a_model_saved_when_this_was_a_switch_is_read(tmp_path, before, now):
    save_model(tmp_path / "model", build_model())
    file = tmp_path / "model" / "description.json"
    record = json.loads(file.read_text())
    assert record["description"]["model"]["remat"] == "none"
    record["description"]["model"]["remat"] = before
    file.write_text(json.dumps(record))
    assert load_shape(tmp_path / "model")[0].remat == now


@pytest.mark.parametrize(
    ("backend", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")]
)
def test_precision_is_settled_when_a_model_is_made(monkeypatch, backend, dtype):
    def build():
        model = FourM(SPACE, ModelConfig(), nnx.Rngs(0))
        features = model(BATCH)
        assert model.config.compute_dtype == dtype
        return nnx.state(model), features, model.logits(features, SPACE.ranges[0])

    assert ModelConfig().compute_dtype == "auto"
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    state, features, logits = jax.eval_shape(build)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    assert features.dtype == jnp.dtype(dtype) and logits.dtype == jnp.float32
