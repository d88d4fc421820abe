"""Masking of whole samples, as properties over many draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.masking.mask import mask_batch
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.token_space import MASK_ID, TokenSpace
from tests.fourm.tiny import SPACE, Shape, make_tokens
from tokenizers.base import SequenceTokens

pytestmark = pytest.mark.slow

NAMES = SPACE.names


def symmetric(alpha, **options) -> MaskingComponent:
    alphas = {name: alpha for name in NAMES}
    return MaskingComponent(**dict(inputs=alphas, targets=alphas) | options)


def of(*components) -> MaskingConfig:
    return MaskingConfig(components=components)


EVEN = of(symmetric(1000.0, num_inputs=(16, 16), num_targets=(20, 20)))
MIXTURE = of(
    symmetric(0.01, num_inputs=(4, 16), num_targets=(10, 20)),
    symmetric(1000.0, num_inputs=(16, 16), num_targets=(20, 20), keep="all"),
    symmetric(0.5, num_inputs=(1, 24), num_targets=(1, 24), keep="binary", weight=2.0),
    MaskingComponent(
        inputs={"picture": 1.0, "text": 0.5},
        targets={"map": 1.0, "text": 1.0, "boxes": 1.0},
        num_inputs=(12, 12),
        num_targets=(16, 16),
    ),
)
AS_ML4M = dataclasses.replace(MIXTURE, rules="ml4m")
COMPILED = {}


def mask(config, batch, seed=0, space=SPACE):
    """Masks a batch, compiled once per configuration and shape."""
    if id(config) not in COMPILED:
        jitted = jax.jit(
            lambda key, batch: mask_batch(key, batch, space, config),
            compiler_options={"xla_backend_optimization_level": 0},  # quicker to compile
        )
        COMPILED[id(config)] = config, jitted  # holding the config keeps its id its own
    return jax.device_get(COMPILED[id(config)][1](jax.random.key(seed), batch))


def draw_samples(config, present, rounds=4, batch=32):
    """Yields (sample's tokens, its real inputs, its real targets), by modality, local ids."""
    for seed in range(rounds):
        tokens = make_tokens(batch, seed, present=present)
        masked = mask(config, tokens, seed)
        for row in range(batch):
            sample = {
                name: np.asarray(tokens.ids[name][row][: int(tokens.num_real[name][row])])
                for name in NAMES
            }
            yield sample, by_modality(masked.inputs, row), by_modality(masked.targets, row)


def fields_of(side):
    return [(name, value) for name, value in side._asdict().items() if name != "features"]


def by_modality(side, row):
    """The real tokens of one sample per modality: fields -> arrays, ids and positions local."""
    real = {name: np.asarray(value[row]) for name, value in fields_of(side)}
    parts = {}
    for entry in SPACE.ranges:
        own = real["is_real"] & (real["modality"] == entry.index)
        parts[entry.name] = {
            "ids": real["ids"][own] - entry.first_id,
            "position": real["position"][own] - entry.first_position,
        }
        if "previous" in real:
            parts[entry.name]["previous"] = real["previous"][own] - entry.first_id
    return parts


GRIDS = [entry for entry in SPACE.ranges if entry.kind == "grid"]
SEQUENCES = [entry for entry in SPACE.ranges if entry.kind == "sequence"]


def sentinel_number(entry, ids):
    """Number of the sentinel per id, -1 for ids that are none."""
    number = np.asarray(ids) - entry.special.first_sentinel
    return np.where((number >= 0) & (number < entry.special.num_sentinels), number, -1)


def read_spans(entry, stream):
    """Splits a target stream into {number of the sentinel: tokens that follow it}."""
    spans, current = {}, None
    for token, number in zip(stream, sentinel_number(entry, stream), strict=True):
        if number >= 0:
            current = int(number)
            assert current not in spans
            spans[current] = []
        else:
            spans[current].append(int(token))
    return spans


@pytest.mark.parametrize("present", [1.0, 0.5])
@pytest.mark.parametrize("config", [MIXTURE, AS_ML4M], ids=["ours", "ml4m"])
def test_grid_tokens_are_true_disjoint_and_asked_by_the_mask(config, present):
    for sample, inputs, targets in draw_samples(config, present):
        for entry in GRIDS:
            shown, asked = inputs[entry.name], targets[entry.name]
            truth = sample[entry.name]
            np.testing.assert_array_equal(truth[shown["position"]], shown["ids"])
            np.testing.assert_array_equal(truth[asked["position"]], asked["ids"])
            np.testing.assert_array_equal(asked["previous"], MASK_ID - entry.first_id)
            places = np.concatenate([shown["position"], asked["position"]])
            assert len(set(places.tolist())) == len(places)


@pytest.mark.parametrize("present", [1.0, 0.5])
@pytest.mark.parametrize("config", [MIXTURE, AS_ML4M], ids=["ours", "ml4m"])
def test_sequence_tokens_are_those_of_the_text_at_their_places_in_the_streams(config, present):
    for sample, inputs, targets in draw_samples(config, present):
        for entry in SEQUENCES:
            shown, asked, text = inputs[entry.name], targets[entry.name], sample[entry.name]
            np.testing.assert_array_equal(shown["position"], np.arange(len(shown["ids"])))
            np.testing.assert_array_equal(asked["position"], np.arange(len(asked["ids"])))
            np.testing.assert_array_equal(asked["previous"][1:], asked["ids"][:-1])
            if not len(asked["ids"]):
                continue
            window = [*asked["previous"][:1], *asked["ids"]]
            assert sentinel_number(entry, window[0]) >= 0  # given free, and says what is asked
            spans = read_spans(entry, window)
            assert sorted(spans) == list(range(min(spans), min(spans) + len(spans)))
            # The tokens of a text are all different, so that its spans follow from the inputs.
            for number, span in spans.items():
                start = span_start(entry, text, shown["ids"], number)
                np.testing.assert_array_equal(text[start : start + len(span)], span)
                closed = number + 1 in spans
                if closed and len(shown["ids"]):
                    after = start + len(span)
                    assert after == len(text) or text[after] in shown["ids"]


def span_start(entry, text, shown, number):
    """Where in the text the span of a sentinel begins; at its end if there is no such span."""
    at = np.flatnonzero(sentinel_number(entry, shown) == number)
    if len(shown) == 0:
        return 0 if number == 0 else len(text)
    if len(at) == 0:
        return len(text)
    return 0 if at[0] == 0 else int(np.flatnonzero(text == shown[at[0] - 1])[0]) + 1


@pytest.mark.parametrize("present", [1.0, 0.5])
def test_everything_that_is_left_is_asked_up_to_the_budget(present):
    for sample, inputs, targets in draw_samples(EVEN, present):
        left = 0
        for entry in GRIDS:
            left += len(sample[entry.name]) - len(inputs[entry.name]["ids"])
        for entry in SEQUENCES:
            numbers = sentinel_number(entry, inputs[entry.name]["ids"])
            spans = (numbers >= 0).sum() if len(numbers) else len(sample[entry.name]) > 0
            left += len(sample[entry.name]) - (numbers < 0).sum() + spans
        assert sum(len(part["ids"]) for part in targets.values()) == min(20, left)


def test_what_span_corruption_saves_is_given_to_the_grids():
    for _, inputs, _ in draw_samples(EVEN, 1.0):
        grids = sum(len(inputs[entry.name]["ids"]) for entry in GRIDS)
        total = sum(len(part["ids"]) for part in inputs.values())
        assert total == 16 or grids == sum(entry.num_tokens for entry in GRIDS)


@pytest.mark.parametrize("config", [MIXTURE, AS_ML4M], ids=["ours", "ml4m"])
def test_padding_follows_the_real_tokens_and_is_zero(config):
    masked = mask(config, make_tokens(32, 3, present=0.6))
    for side in masked:
        real = np.asarray(side.is_real)
        assert (real[:, :-1] >= real[:, 1:]).all()
        for field, value in fields_of(side):
            assert not np.asarray(value)[~real].any(), field


@pytest.mark.parametrize("config", [MIXTURE, AS_ML4M], ids=["ours", "ml4m"])
def test_absent_modalities_are_never_drawn(config):
    for sample, inputs, targets in draw_samples(config, 0.4):
        for name in NAMES:
            if not len(sample[name]):
                assert len(inputs[name]["ids"]) == len(targets[name]["ids"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_one_modality_always_has_something_to_predict(name):
    for seed in range(2):
        tokens = make_tokens(32, seed)
        num_real = {other: tokens.num_real[other] * (other == name) for other in NAMES}
        masked = mask(MIXTURE, tokens._replace(num_real=num_real), seed)
        assert masked.targets.is_real.any(1).all()


def test_a_sample_of_one_grid_is_shown_in_all_shares():
    shown = []
    for seed in range(4):
        tokens = make_tokens(32, seed)
        num_real = {name: tokens.num_real[name] * (name == "picture") for name in NAMES}
        masked = mask(EVEN, tokens._replace(num_real=num_real), seed)
        shown += masked.inputs.is_real.sum(1).tolist()
    assert set(shown) == set(range(12))


def test_a_sample_without_anything_is_all_padding():
    masked = mask(MIXTURE, make_tokens(32, present=0.0))
    assert not masked.inputs.is_real.any()
    assert not masked.targets.is_real.any()
    assert all(not np.asarray(array).any() for array in jax.tree.leaves(masked))


@pytest.mark.parametrize("config", [MIXTURE, AS_ML4M], ids=["ours", "ml4m"])
def test_a_sample_is_masked_alike_in_any_batch_and_place(config):
    tokens = make_tokens(32, 1, present=0.8)
    order = np.random.default_rng(0).permutation(32)
    moved = jax.tree.map(lambda array: array[order], tokens)
    # The other half of the batch is other samples altogether.
    other = make_tokens(32, 2)
    moved = jax.tree.map(lambda a, b: jnp.concatenate([a[:16], b[16:]]), moved, other)
    here, there = mask(config, tokens), mask(config, moved)
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(a[order[:16]], b[:16])


def test_masks_differ_between_keys_and_between_sample_indices():
    tokens = make_tokens(1)
    same = jax.tree.map(lambda array: jnp.repeat(array, 32, axis=0), tokens)
    same = same._replace(index=jnp.arange(32))
    shown = mask(EVEN, same).inputs.position
    assert len({row.tobytes() for row in shown}) == 32
    assert not np.array_equal(shown, mask(EVEN, same, seed=1).inputs.position)


def test_masks_do_not_depend_on_how_the_program_is_compiled():
    space = TokenSpace.build(
        {"grid": Shape(9, (1, 3)), "text": Shape(20, (4,), SequenceTokens(0, 1, 3))}
    )
    alphas = {"grid": 0.5, "text": 2.0}
    config = of(MaskingComponent(alphas, alphas, num_inputs=(2, 4), num_targets=(3, 3)))
    tokens, key = make_tokens(16, 5, space), jax.random.key(7)
    masks = [
        jax.jit(
            lambda key, tokens: mask_batch(key, tokens, space, config), compiler_options=options
        )
        for options in (
            {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False},
            {"xla_backend_optimization_level": 0},
        )
    ]
    first, second = [jax.device_get(compiled(key, tokens)) for compiled in masks]
    jax.tree.map(np.testing.assert_array_equal, first, second)


def shows(name, asks, weight=1.0, keep="random") -> MaskingComponent:
    return MaskingComponent(
        inputs={name: 1.0},
        targets={asks: 1.0},
        num_inputs=(12, 12),
        num_targets=(12, 12),
        weight=weight,
        keep=keep,
    )


CHOICE = of(
    shows("picture", "map", 3.0),
    shows("map", "picture", 1.0),
    shows("text", "number", 0.0),
    shows("number", "text", 1e-6),
)


def without(tokens, *names):
    absent = {name: jnp.zeros_like(tokens.num_real[name]) for name in names}
    return tokens._replace(num_real=tokens.num_real | absent)


def test_components_are_drawn_by_weight():
    first = mask(CHOICE, make_tokens(500)).inputs.modality[:, 0]
    assert abs((first == SPACE["picture"].index).mean() - 0.75) < 0.08
    assert set(first.tolist()) == {SPACE["picture"].index, SPACE["map"].index}


def test_components_that_a_sample_can_not_serve_are_not_drawn():
    first = mask(CHOICE, without(make_tokens(500), "picture")).inputs.modality[:, 0]
    assert set(first.tolist()) == {SPACE["number"].index}


def test_a_sample_that_no_component_can_serve_is_shown_and_asked_what_it_has():
    masked = mask(CHOICE, without(make_tokens(500), "picture", "map", "number"))
    assert masked.targets.is_real.any(1).all()
    shown = set(masked.inputs.modality[masked.inputs.is_real].tolist())
    assert shown == {SPACE["text"].index, SPACE["boxes"].index}


def test_keep_says_how_much_of_a_shown_sequence_is_kept():
    asks = {"all": "map", "binary": "picture", "random": "number"}  # tells the components apart
    config = of(*(shows("text", name, keep=keep) for keep, name in asks.items()))
    tokens = make_tokens(200)
    masked = mask(config, tokens)
    ids = masked.inputs.ids - SPACE["text"].first_id
    real = masked.inputs.is_real & (sentinel_number(SPACE["text"], ids) < 0)
    kept = real.sum(1) / np.asarray(tokens.num_real["text"])
    asked = masked.targets.modality[:, 0]
    kept = {keep: kept[asked == SPACE[name].index] for keep, name in asks.items()}
    assert (kept["all"] == 1).all()
    assert set(kept["binary"].tolist()) == {0.0, 1.0}
    assert 0.3 < kept["random"].mean() < 0.7
    assert len(set(kept["random"].tolist())) > 10


def test_a_long_text_is_cut_to_a_window_that_begins_at_a_sentinel_drawn_anew():
    config = of(
        MaskingComponent(
            inputs={"text": 1.0}, targets={"text": 1.0}, num_inputs=(8, 8), num_targets=(2, 2)
        )
    )
    tokens = make_tokens(1)
    ids = tokens.ids["text"].at[0].set(jnp.arange(10) + 10)
    tokens = tokens._replace(
        ids=tokens.ids | {"text": ids}, num_real=tokens.num_real | {"text": jnp.array([10])}
    )
    same = jax.tree.map(lambda array: jnp.repeat(array, 200, axis=0), tokens)
    targets = mask(config, same._replace(index=jnp.arange(200))).targets
    first = sentinel_number(SPACE["text"], targets.previous[:, 0] - SPACE["text"].first_id)
    asked = targets.is_real.sum(1)
    assert (asked <= 2).all()
    assert (first[asked > 0] >= 0).all()
    assert len(set(first[asked > 0].tolist())) > 1


def test_a_sequence_may_have_a_keep_rule_of_its_own():
    alphas = {"text": 1.0, "boxes": 1.0}
    component = MaskingComponent(
        alphas, {"map": 1.0}, (16, 16), (6, 6), keep="all", keep_of={"boxes": "binary"}
    )
    tokens = make_tokens(200)
    masked = mask(of(component), tokens)
    shares = {}
    for name in alphas:
        own = masked.inputs.is_real & (masked.inputs.modality == SPACE[name].index)
        is_token = sentinel_number(SPACE[name], masked.inputs.ids - SPACE[name].first_id) < 0
        shares[name] = (own & is_token).sum(1) / np.asarray(tokens.num_real[name])
    # What doesn't fit into its budget is not kept by either rule.
    assert (shares["text"] > 0).mean() > 0.9
    assert 0.3 < (shares["boxes"] > 0).mean() < 0.7


# What is read without ids


def with_features() -> TokenSpace:
    shapes = {
        "pixels": Shape(0, (2, 2)),
        "map": Shape(7, (2, 3)),
        "text": Shape(30, (6,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=4)),
        "vectors": Shape(0, (5,)),
    }
    ranges = TokenSpace.build(shapes).ranges
    widths = {"pixels": 3, "vectors": 2}
    return TokenSpace(
        tuple(
            dataclasses.replace(entry, feature_width=widths.get(entry.name, 0)) for entry in ranges
        )
    )


@pytest.mark.parametrize("rules", ["ours", "ml4m"])
def test_features_are_shown_by_position_and_never_asked(rules):
    space, rows = with_features(), 64
    alphas = {name: 1.0 for name in space.names}
    config = MaskingConfig(
        (MaskingComponent(alphas, alphas, num_inputs=(6, 14), num_targets=(9, 9)),), rules=rules
    )
    config.check_fits(space)
    only_ids = TokenSpace(tuple(space[name] for name in ("map", "text")))
    tokens = make_tokens(rows, 0, only_ids)
    length = np.random.default_rng(1).integers(0, 6, rows)
    pixels = np.random.default_rng(0).random((rows, 4, 3)).astype(np.float32)
    # Vectors that say which they are, and NaN after the last one.
    vectors = np.tile(np.arange(1, 6, dtype=np.float32)[:, None], (rows, 1, 2))
    vectors[np.arange(5) >= length[:, None]] = np.nan
    tokens = tokens._replace(
        num_real=tokens.num_real
        | {"pixels": jnp.full(rows, 4), "vectors": jnp.asarray(length, jnp.int32)},
        features={"pixels": jnp.asarray(pixels), "vectors": jnp.asarray(vectors)},
    )
    masked = mask(config, tokens, space=space)
    is_asked = masked.targets.is_real
    named = {space["map"].index, space["text"].index}
    assert set(masked.targets.modality[is_asked].tolist()) == named
    np.testing.assert_array_equal(masked.inputs.features["pixels"], pixels)
    places, dropped = [], 0
    for row in range(rows):
        own = masked.inputs.is_real[row] & (masked.inputs.modality[row] == space["vectors"].index)
        assert not masked.inputs.ids[row][own].any()
        np.testing.assert_array_equal(
            masked.inputs.position[row][own] - space["vectors"].first_position, np.arange(own.sum())
        )
        shown = masked.inputs.features["vectors"][row]
        assert np.isfinite(shown).all()
        assert not shown[own.sum() :].any()
        numbers = shown[: own.sum(), 0]
        kept = numbers[numbers > 0]
        assert (np.diff(kept) > 0).all()
        assert (kept <= length[row]).all()
        assert not ((numbers[1:] == 0) & (numbers[:-1] == 0)).any()  # one vector for each run
        if len(numbers):
            places.append(len(kept))
            dropped += (numbers == 0).sum()
            runs = np.diff(np.concatenate([[0], kept, [length[row] + 1]])) > 1
            assert (numbers == 0).sum() == runs.sum()
    assert len(set(places)) > 3
    assert dropped > 10
