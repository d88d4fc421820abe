"""What is generated tells of what was given: by definition, and of true values more than chance."""

import jax
import numpy as np
import pytest

from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.directions import Evaluator
from fourm.evaluation.mutual_information import information, measure_information
from fourm.inference.likelihood import likelihood_of_tokens
from fourm.run_directory.sample_set import SampleSet
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run


@pytest.fixture(scope="module")
def run():
    return make_run()


@pytest.mark.slow
def test_a_caption_is_scored_given_the_ids_of_its_picture(run):
    pictures, others = make_pictures(4), make_pictures(4, seed=9)
    row = measure_information(run, {"caption": CAPTIONS}, "rgb", others, pictures, seed=0)
    ids, captions = run.tokenize({"rgb": pictures})["rgb"], run.tokenize({"caption": CAPTIONS})
    keys = jax.random.split(jax.random.key(5), 1)
    alone = [
        likelihood_of_tokens(
            run.model, {"rgb": ids[[r]]}, "caption", captions["caption"][[r]], keys, 2, True
        ).total[0]
        for r in range(4)
    ]
    assert row["ceiling"] == pytest.approx(np.mean(alone), rel=1e-3, abs=1e-4)
    assert row["value"] != row["ceiling"] and row["floor"] != row["value"]
    assert (row["target"], row["metric"], row["better"]) == ("rgb", "pmi", "higher")


@pytest.mark.slow
def test_a_grid_is_scored_given_all_that_was_shown(run):
    pictures = make_pictures(3)
    shown = {"caption": CAPTIONS[:3], "count": [1.0, 2.0, 5.0]}
    row = measure_information(run, shown, "rgb", pictures, pictures, seed=1)
    assert row["value"] == row["ceiling"] != row["floor"]
    ids = run.tokenize({"rgb": pictures})["rgb"]
    expected = information(run, run.encode_inputs(shown), "rgb", ids, 1).mean()
    assert row["value"] == pytest.approx(expected)


@pytest.mark.slow
def test_directions_have_it_among_the_metrics_of_what_is_generated(run):
    captions = [CAPTIONS[number % 4] for number in range(6)]
    samples = [
        {"rgb": picture, "caption": text}
        for picture, text in zip(make_pictures(6), captions, strict=True)
    ]
    kept = SampleSet.collect(samples, ("rgb", "caption"))
    config = EvaluationConfig(("caption->rgb",), rivals=False, distributions=True)
    rows = Evaluator(run, kept, kept, config).evaluate()
    assert [row["metric"] for row in rows] == ["psnr", "frechet", "precision", "recall", "pmi"]
    assert all(row["inputs"] == ["caption"] and "note" not in row for row in rows)
