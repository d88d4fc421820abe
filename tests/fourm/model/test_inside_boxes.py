"""What targets of grids read of the boxes around them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.model.config import ModelConfig
from fourm.model.positions import cells_of, cells_of_boxes, has_boxes
from fourm.model.transformer import FourM
from fourm.token_space import Inputs, Targets, TokenSpace
from tests.fourm.tiny import Shape
from tokenizers.base import Boxes
from tokenizers.boxes import BoxList, BoxTokenizerConfig

BINS = 9
TOKENIZER = BoxTokenizerConfig(num_bins=BINS, num_sentinels=2).fit(BoxList(("a", "b"), 3), [])
SPACE = TokenSpace.build(
    {"boxes": TOKENIZER, "words": Shape(6, (4,)), "others": TOKENIZER, "grid": Shape(5, (4, 4))}
)
CORNERS = np.array([[0, 0, 4, 8], [2, 2, 8, 6]], np.float32) / (BINS - 1)
"""Left, top, right, bottom: the left half, and what lies in the middle and to the right."""
CONFIG = ModelConfig(dim=8, num_heads=2, encoder_layers=1, decoder_layers=1)


def inputs_of(*names: str, hidden: tuple[int, ...] = (), seed: int | None = None) -> Inputs:
    """Returns the two boxes of each modality, one after another, with some inputs left out."""
    ids, modality, position = [], [], []
    for name in names:
        entry = SPACE[name]
        own = TOKENIZER.encode([Boxes(CORNERS, np.array([0, 1]))])[0]
        own = own[own >= 0]
        if seed is not None:
            own = np.random.default_rng(seed).permutation(own)
        ids += [*(own + entry.first_id)]
        modality += [entry.index] * len(own)
        position += [*(entry.first_position + np.arange(len(own)))]
    kept = [number for number in range(len(ids)) if number not in hidden]
    parts = (np.array(part, np.int32)[kept][None] for part in (ids, modality, position))
    return Inputs(*map(jnp.asarray, parts), jnp.ones((1, len(kept)), bool))


def boxes_in(inputs: Inputs) -> dict[int, list[float]]:
    """Returns left, top, right, bottom of boxes by the place of their last token."""
    cells = np.asarray(cells_of_boxes(SPACE, inputs))[0]
    return {int(i): cells[i, [2, 0, 3, 1]].tolist() for i in np.flatnonzero(cells.any(1))}


def test_a_box_is_known_at_its_last_token():
    assert boxes_in(inputs_of("boxes")) == {4: CORNERS[0].tolist(), 9: CORNERS[1].tolist()}
    assert boxes_in(inputs_of("boxes", "others")).keys() == {4, 9, 15, 20}


@pytest.mark.parametrize("hidden", range(5))
def test_a_box_of_which_a_token_is_hidden_is_not_known(hidden):
    assert list(boxes_in(inputs_of("boxes", hidden=(hidden,)))) == [8]


def test_padding_ends_no_box():
    inputs = inputs_of("boxes")
    inputs = inputs._replace(is_real=inputs.is_real.at[0, 9].set(False))
    assert list(boxes_in(inputs)) == [4]


def test_tokens_of_two_modalities_make_no_box():
    both = inputs_of("boxes", "others")
    order = np.array([0, 1, 2, 3, 15])  # The class comes from the other modality.
    mixed = Inputs(*(part[:, order] for part in both[:4]))
    assert not boxes_in(mixed)


def test_tokens_in_another_order_make_no_box():
    assert not boxes_in(inputs_of("boxes", seed=1))


def test_corners_in_the_wrong_order_are_put_in_order():
    first, start = SPACE["boxes"].first_id, TOKENIZER.box_starts
    ids = first + np.array([[start[0] + 4, start[1] + 8, start[2], start[3] + 2, start[4]]])
    inputs = Inputs(jnp.asarray(ids), *[jnp.zeros((1, 5), int)] * 2, jnp.ones((1, 5), bool))
    assert boxes_in(inputs) == {4: [0.0, 0.25, 0.5, 1.0]}


@pytest.fixture(scope="module")
def model() -> FourM:
    return nnx.jit(lambda: FourM(SPACE, CONFIG, nnx.Rngs(0)))()


def ask_grid() -> Targets:
    entry = SPACE["grid"]
    position = (entry.first_position + jnp.arange(entry.num_tokens))[None]
    nothing = jnp.zeros_like(position)
    return Targets(nothing, nothing, nothing + entry.index, position, position >= 0)


def test_targets_start_from_the_boxes_around_them(model):
    inputs, context = inputs_of("boxes"), jax.random.normal(jax.random.key(0), (1, 11, 8))
    kernels = jax.random.normal(jax.random.key(1), (4, 8, 8))
    reader = nnx.clone(model)
    reader.inside_boxes.kernel[...] = kernels.reshape(32, 8)
    found = np.asarray(reader.gather_boxes(ask_grid(), context, inputs))[0]
    own = cells_of(SPACE)[SPACE["grid"].first_position :][:16]
    for place, (top, bottom, left, right) in enumerate(own):
        weights, offsets = [], []
        for x_min, y_min, x_max, y_max in CORNERS:
            width = max(min(right, x_max) - max(left, x_min), 0)
            height = max(min(bottom, y_max) - max(top, y_min), 0)
            weights.append(width * height)
            down = 2 * (top + bottom - y_min - y_max) / (y_max - y_min)
            along = 2 * (left + right - x_min - x_max) / (x_max - x_min)
            offsets.append([1.0, down, along, down * along])
        weights = np.array(weights) / max(sum(weights), 1e-9)
        boxes = np.asarray(context[0])[[4, 9]]
        expected = np.einsum("b,bk,bd,kde->e", weights, np.array(offsets), boxes, kernels)
        np.testing.assert_allclose(found[place], expected, atol=1e-4)
    assert not found[3].any() and found[0].any()  # No box reaches the upper right corner.


def test_it_starts_from_nothing(model):
    """So that a model that takes its weights from one without predicts the same."""
    context = jnp.ones((1, 11, 8))
    assert not np.asarray(model.gather_boxes(ask_grid(), context, inputs_of("boxes"))).any()


def test_it_is_there_only_where_boxes_and_grids_are():
    def has(space: TokenSpace, **knobs: bool) -> bool:
        config = dataclasses.replace(CONFIG, **knobs)
        return nnx.eval_shape(lambda: FourM(space, config, nnx.Rngs(0))).inside_boxes is not None

    assert has_boxes(SPACE) and has(SPACE)
    assert not has(SPACE, inside_boxes=False)
    assert not has(TokenSpace.build({"boxes": TOKENIZER, "words": Shape(6, (4,))}))
    assert not has(TokenSpace.build({"grid": Shape(5, (4, 4))}))
