"""What a run is asked besides plain generation: several draws, edits, likelihoods."""

import numpy as np
import pytest

from fourm.inference.settings import GenerationConfig
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run

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
    known = ~np.isnan(draws).all(axis=0)
    assert np.array_equal(~np.isnan(found.values["depth"]), known)
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
    assert len(found) == 1 and found[0].split()[0] == words[0] and "_" not in found[0]


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
