"""What a run is asked besides plain generation: several draws, edits, likelihoods."""

import jax
import numpy as np
import pytest

from fourm.inference.likelihood import likelihood_of_tokens
from fourm.inference.settings import GenerationConfig
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run
from tokenizers.base import PADDING, Boxes

pytestmark = [pytest.mark.xdist_group("fourm/test_any2any"), pytest.mark.slow]


@pytest.fixture(scope="module")
def run():
    return make_run()


def pictures(count=2):
    return make_pictures(count)


def test_several_draws_become_one_value_with_its_spread(run):
    inputs = {"caption": CAPTIONS[:3]}
    one = run.generate(inputs, ["depth", "caption"][:1])
    found = run.generate(inputs, "depth", num_draws=4)
    every = run.generate(inputs, "depth", num_draws=4, combine="none")
    assert one.spread == {} and one.draws == {}
    assert np.array_equal(every.values["depth"], one.values["depth"])
    assert np.array_equal(every.ids["depth"], one.ids["depth"])
    draws = np.stack(every.draws["depth"])
    assert draws.shape[0] == 4 and len({d.tobytes() for d in draws}) > 1
    draws = np.where(draws == 0, np.nan, draws)  # Of which distance is not known.
    known = 2 * np.isfinite(draws).sum(axis=0) >= len(draws)
    assert np.array_equal(found.values["depth"] > 0, known)
    assert np.array_equal(np.isfinite(found.spread["depth"]), known)
    np.testing.assert_allclose(
        found.values["depth"][known], np.nanmean(draws[:, known], axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(
        found.spread["depth"][known], np.nanstd(draws[:, known], axis=0), rtol=1e-4, atol=1e-6
    )
    assert found.token_spread["depth"].shape == found.ids["depth"].shape
    small = run.generate(inputs, "depth", num_draws=4, batch_size=5)
    assert np.array_equal(small.values["depth"], found.values["depth"], equal_nan=True)
    fewer = run.generate(inputs, "depth", num_draws=2, combine="none").draws["depth"]
    assert all(np.array_equal(a, b) for a, b in zip(fewer, every.draws["depth"], strict=False))


def test_what_is_kept_of_a_picture_stays_and_the_rest_is_made_anew(run):
    given = pictures()
    height, width = given.shape[1:3]
    box = (0.0, 0.0, 0.5, 1.0)
    found = run.complete({"rgb": given}, {"caption": CAPTIONS[:2]}, redo=box)
    left, right = np.split(found.values["rgb"], [width // 2], axis=2)
    assert np.array_equal(right, given[:, :, width // 2 :])
    assert (left != given[:, :, : width // 2]).any()
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    by_mask = run.complete({"rgb": given}, {"caption": CAPTIONS[:2]}, redo=mask)
    by_keep = run.complete({"rgb": given}, {"caption": CAPTIONS[:2]}, keep=~mask)
    assert np.array_equal(by_mask.values["rgb"], found.values["rgb"])
    assert np.array_equal(by_keep.values["rgb"], found.values["rgb"])
    decoded = run.complete({"rgb": given}, {"caption": CAPTIONS[:2]}, redo=box, paste=False)
    assert np.array_equal(decoded.ids["rgb"], found.ids["rgb"])
    nothing = run.complete({"rgb": given}, redo=0.0)
    assert np.array_equal(nothing.values["rgb"], given)


def test_a_text_with_blanks_is_filled_and_keeps_its_words(run):
    words = CAPTIONS[0].split()
    found = run.complete({"caption": f"{words[0]} ___"}, {"rgb": pictures(1)}).values["caption"]
    assert len(found) == 1 and found[0].startswith(words[0]) and "_" not in found[0]


def test_a_region_is_of_the_picture_that_is_given_not_of_the_part_that_the_model_sees(run):
    wide = np.random.default_rng(0).integers(0, 256, (1, 8, 16, 3)).astype(np.uint8)
    seen = wide[:, :, 4:12]
    inputs = {"caption": CAPTIONS[0]}
    for box, cut in [((0.25, 0.0, 0.5, 1.0), (0.0, 0.0, 0.5, 1.0)), ((0.0, 0.0, 0.2, 1.0), 0.0)]:
        found = run.complete({"rgb": wide}, inputs, redo=box)
        assert np.array_equal(
            found.values["rgb"], run.complete({"rgb": seen}, inputs, redo=cut)[0]["rgb"]
        )
    mask = np.zeros((8, 16), bool)
    mask[:, 4:8] = True
    by_mask = run.complete({"rgb": wide}, inputs, redo=mask)
    by_box = run.complete({"rgb": wide}, inputs, redo=(0.25, 0.0, 0.5, 1.0))
    assert np.array_equal(by_mask.values["rgb"], by_box.values["rgb"])
    with pytest.raises(ValueError, match="does not have the aspect ratio of its picture"):
        run.complete({"rgb": wide}, inputs, redo=np.ones((8, 8), bool))


def test_draws_of_an_edit_keep_what_is_kept_too(run):
    given = pictures()
    config = GenerationConfig(num_steps=2)
    found = run.complete(
        {"rgb": given}, redo=(0.0, 0.0, 0.5, 1.0), num_draws=2, combine="none", settings=config
    )
    assert all(np.array_equal(draw[:, :, 4:], given[:, :, 4:]) for draw in found.draws["rgb"])
    # As in generation, a place takes its sample's random choices with it.
    both = run.complete({"rgb": given}, redo=0.5, places=[7, 9], settings=config)
    one = run.complete({"rgb": given[1:]}, redo=0.5, places=[9], settings=config)
    assert np.array_equal(one.values["rgb"][0], both.values["rgb"][1])


def test_what_a_neighbour_lacks_does_not_change_by_way_of_what_a_sample_is_generated(run):
    config = {"depth": GenerationConfig(num_steps=1, via=("count",))}
    alone = run.generate({"caption": CAPTIONS[:1]}, "depth", settings=config)
    both = run.generate({"caption": CAPTIONS[:2], "count": [None, 2.0]}, "depth", settings=config)
    assert np.array_equal(alone.ids["depth"][0], both.ids["depth"][0])
    given = {"caption": CAPTIONS[1:2], "count": 2.0}
    second = run.generate(given, "depth", settings=config, places=[1])
    assert np.array_equal(second.ids["depth"][0], both.ids["depth"][1])
    # What a condition shows is not generated, either.
    shown = [({"count": 2.0}, 1.5)]
    run.generate({"caption": CAPTIONS[:1]}, "depth", settings=config, conditions=shown)


@pytest.mark.parametrize("score", ["likelihood", "read-back"])
def test_the_best_of_several_draws_is_taken_of_all_targets_together(run, score):
    inputs = {"caption": CAPTIONS[:2]}
    ask = dict(targets=["count", "boxes"], num_draws=3, settings=GenerationConfig(num_steps=2))
    found = run.generate(inputs, **ask, combine="best", score=score)
    every = run.generate(inputs, **ask, combine="none")
    assert found.scores.shape == (2, 3) and np.isfinite(found.scores).all()
    for row, draw in enumerate(found.scores.argmax(axis=1)):
        assert found.values["count"][row] == every.draws["count"][draw][row]
        ours, theirs = found.values["boxes"][row], every.draws["boxes"][draw][row]
        assert np.array_equal(ours.corners, theirs.corners)
    if score == "read-back":  # Of the first draws, from their tokens.
        asked = run.tokenize(inputs)["caption"]
        keys = jax.random.split(jax.random.key(0), 2)
        back = likelihood_of_tokens(run.model, every.ids, "caption", asked, keys, 2)
        np.testing.assert_allclose(found.scores[:, 0], back.total, rtol=1e-3)


def test_a_function_may_score_draws_and_the_first_of_equals_wins(run):
    inputs = {"caption": CAPTIONS[:2]}
    ask = dict(targets="depth", num_draws=3, settings=GenerationConfig(num_steps=2))
    every = run.generate(inputs, **ask, combine="none").draws["depth"]

    def nearness(values):
        return -np.nanmean(values["depth"], axis=(1, 2))

    found = run.generate(inputs, **ask, combine="best", score=nearness)
    scores = np.stack([nearness({"depth": draw}) for draw in every], axis=1)
    np.testing.assert_allclose(found.scores, scores)
    for row, draw in enumerate(scores.argmax(1)):
        assert np.array_equal(found.values["depth"][row], every[draw][row], equal_nan=True)
    equal = run.generate(inputs, **ask, combine="best", score=lambda values: np.zeros(2))
    assert np.array_equal(equal.values["depth"], every[0], equal_nan=True)
    for wrong in (lambda values: 3.0, lambda values: np.array([1, np.nan])):
        with pytest.raises(ValueError, match="it must return a finite number for each"):
            run.generate(inputs, **ask, combine="best", score=wrong)


@pytest.mark.parametrize("target", ["rgb", "caption"])
def test_one_who_watches_sees_every_pass_and_changes_no_bit(run, target):
    inputs = {"depth": np.full((3, 8, 8), 2.0, np.float32)}
    config = GenerationConfig(num_steps=3, choice_noise=1.0, guidance=2.0)
    seen = []
    ask = dict(targets=target, settings=config, num_draws=2, batch_size=4)
    found = run.generate(inputs, **ask, watch=seen.append)
    plain = run.generate(inputs, **ask)
    assert np.array_equal(found.ids[target], plain.ids[target])
    assert [each.target for each in seen] == [target] * len(seen)
    last = {
        (int(sample), int(draw)): ids
        for each in seen
        for sample, draw, ids in zip(each.samples, each.draws, each.ids, strict=True)
    }
    assert sorted(last) == [(sample, draw) for sample in range(3) for draw in range(2)]
    assert all(np.array_equal(last[row, 0], plain.ids[target][row]) for row in range(3))
    first = [each for each in seen if each.done == 1]
    assert all((each.ids == PADDING).any() for each in first) and len(first) == 2
    assert "of" in repr(seen[0])

    def stop(progress):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        run.generate(inputs, **ask, watch=stop)


def test_results_say_what_they_are_draw_themselves_and_are_saved(run, tmp_path):
    found = run.generate({"caption": CAPTIONS[:2]}, ["depth", "count"], num_draws=2)
    assert repr(found).startswith("Generated(2 samples: depth float32 [8, 8], count ")
    assert found._repr_png_().startswith(b"\x89PNG") and "data:image/png" in found._repr_html_()
    found.save(tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"depth_000.npy", "depth_001.spread.png", "count_001.txt", "generated.png"}
    assert np.array_equal(np.load(tmp_path / "out" / "depth_001.npy"), found.values["depth"][1])


def test_likelihoods_come_from_raw_values(run):
    given = pictures(3)
    found = run.log_likelihood({"caption": CAPTIONS[:3]}, {"rgb": given})
    assert found.total.shape == (3,) and (found.total < 0).all() and (found.error == 0).all()
    alone = run.log_likelihood({"caption": CAPTIONS[:3]})
    relative = run.log_likelihood({"caption": CAPTIONS[:3]}, {"rgb": given}, relative=True)
    np.testing.assert_allclose(relative.total, found.total - alone.total, rtol=1e-4, atol=1e-4)
    grid = run.log_likelihood({"rgb": given}, {"caption": CAPTIONS[:3]}, num_draws=3)
    assert (grid.error > 0).all() and grid.tokens.shape == (3, run.space["rgb"].num_tokens)
    small = run.log_likelihood({"rgb": given}, {"caption": CAPTIONS[:3]}, num_draws=3, batch_size=2)
    np.testing.assert_allclose(small.total, grid.total, rtol=1e-5)
    one_for_all = run.log_likelihood({"caption": CAPTIONS[:3]}, {"rgb": given[:1]})
    assert one_for_all.total[0] == pytest.approx(found.total[0])
    nothing = run.log_likelihood({"rgb": given}, relative=True, num_draws=2)
    np.testing.assert_allclose(nothing.total, 0, atol=1e-9)


def test_tokens_with_their_numbers_may_be_known(run):
    ids = run.encode_inputs({"rgb": pictures(2)})
    by_tokens = run.generate({}, "depth", known=ids, settings=GenerationConfig(num_steps=1))
    by_values = run.generate({"rgb": pictures(2)}, "depth", settings=GenerationConfig(num_steps=1))
    assert np.array_equal(by_tokens.ids["depth"], by_values.ids["depth"])


def test_a_plan_says_on_one_line_what_is_generated_and_how(run):
    inputs = {"caption": CAPTIONS[:2]}
    planned = run.generate(inputs, "count -> depth[num_steps=1, guidance=2]")
    config = {"depth": GenerationConfig(num_steps=1, guidance=2.0)}
    listed = run.generate(inputs, ["count", "depth"], settings=config)
    assert list(planned.ids) == ["count", "depth"]
    assert all(np.array_equal(planned.ids[name], listed.ids[name]) for name in planned.ids)
    common = GenerationConfig(temperature=0.0)
    both = run.generate(inputs, "count -> depth[num_steps=1]", settings=common)
    config = {"count": common, "depth": GenerationConfig(temperature=0.0, num_steps=1)}
    listed = run.generate(inputs, ["count", "depth"], settings=config)
    assert all(np.array_equal(both.ids[name], listed.ids[name]) for name in both.ids)
    with pytest.raises(ValueError, match="no modality 'dept' in this run; did you mean depth"):
        run.generate(inputs, "dept[num_steps=1]")


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda run: run.complete({}, redo=0.5), "One modality is edited; none is given"),
        (lambda run: run.complete({"rgb": pictures()}), "Give either redo or keep"),
        (
            lambda run: run.complete({"rgb": pictures()}, redo=0.5, keep=0.5),
            "Give either redo or keep",
        ),
        (
            lambda run: run.complete({"caption": "a ___"}, redo=0.5),
            "caption is a sequence; write ___",
        ),
        (lambda run: run.complete({"caption": "a"}), "has no blank"),
        (
            lambda run: run.complete({"rgb": pictures()}, {"rgb": pictures()}, redo=0.5),
            "can't be an input, too",
        ),
        (
            lambda run: run.complete({"rgb": pictures()}, redo={"sem": ["a"]}),
            "no modality 'sem'",
        ),
        (
            lambda run: run.generate({"caption": "a"}, "depth", num_draws=0),
            "num_draws is 0; it must be a whole",
        ),
        (
            lambda run: run.generate({"caption": "a"}, "depth", num_draws=2, combine="vote"),
            "depth can't be combined by 'vote'",
        ),
        (
            lambda run: run.generate({"caption": "a"}, "depth[num_steps=2, num_steps=3]"),
            "num_steps of depth is set twice",
        ),
        (
            lambda run: run.generate({"caption": ["a", "b"]}, "depth", places=[-1, 1]),
            "places is .*; give a whole number for each sample",
        ),
        (
            lambda run: run.generate({}, "depth", known={"rgb": np.full((1, 4), 0.5)}),
            "are float64; ids are whole numbers",
        ),
        (
            lambda run: run.generate({"caption": "a"}, "depth", num_draws=2, combine="best"),
            'combine="best" goes with a score',
        ),
        (
            lambda run: run.generate({"caption": "a"}, "depth", num_draws=2, score="likelihood"),
            'combine="best" goes with a score',
        ),
        (
            lambda run: run.generate(
                {}, "depth", num_samples=1, num_draws=2, combine="best", score="read-back"
            ),
            "no modality with tokens is given that could be read back",
        ),
        (
            lambda run: run.complete({"boxes": [Boxes(np.zeros((0, 4)), np.zeros(0, int))]}),
            "boxes is no text; of sequences only texts",
        ),
        (
            lambda run: run.complete({"rgb": pictures()}, redo={"depth": ["a"]}),
            "depth is no map of classes",
        ),
        (lambda run: run.reconstruct("rgb", [pictures()[0], None]), "no rgb to reconstruct"),
        (lambda run: run.embed({"rgb": pictures()}, batch_size=0), "batch_size is 0"),
        (lambda run: run.log_likelihood({}), "One target is asked; none is given"),
        (
            lambda run: run.log_likelihood({"rgb": pictures()}, {"rgb": pictures()}),
            "rgb is given and asked",
        ),
        (
            lambda run: run.log_likelihood({"caption": CAPTIONS[:3]}, {"rgb": pictures(2)}),
            "numbers of samples differ",
        ),
    ],
)
def test_what_can_not_be_asked_is_one_sentence(run, ask, told):
    with pytest.raises(ValueError, match=told):
        ask(run)
