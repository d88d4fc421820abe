from dataclasses import replace

import jax
import pytest
from flax import nnx

from configs import AugmentConfig
from configs.presets.scenes import scenes
from configs.runs.plan import describe_plan, plan_space
from configs.runs.sizes import close_sizes
from fourm.model.transformer import FourM

TINY = {"dim": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}


def test_the_space_of_a_run_to_come_has_its_ranges():
    config = close_sizes(scenes())
    ranges = {each.name: each for each in plan_space(config).ranges}
    assert list(ranges) == list(config.modalities)
    assert ranges["rgb"].token_shape == (8, 8) and ranges["rgb"].feature_width == 64
    assert ranges["rgb"].vocab_size == config.modalities["rgb"].tokenizer.codebook_size
    assert ranges["caption"].special is not None and ranges["boxes"].special is not None


@pytest.mark.slow
def test_a_plan_counts_parameters_tokens_and_passes():
    config = close_sizes(scenes())
    config = replace(config, model=replace(config.model, **TINY))
    lines = describe_plan(config, with_memory=False)
    model = nnx.eval_shape(lambda: FourM(plan_space(config), config.model, nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert f"parameters: {count:,}" in lines
    assert any(line.startswith("samples: 12,000, in 1 views each") for line in lines)
    assert any(line.startswith("training: 1,500 steps of 32") for line in lines)
    assert not any("memory" in line for line in lines)
    crops = replace(config.crops, views=2, augment=AugmentConfig(hue=0.1))
    told = describe_plan(replace(config, crops=crops), with_memory=False)
    assert "shown changed in all views but the first: rgb" in told
