"""Spread is measured against error where both are known; a model that knows its errors is told."""

from types import SimpleNamespace

import numpy as np
import pytest

from fourm.evaluation.calibration import format_calibration, measure_calibration
from fourm.evaluation.config import CalibrationConfig, EvaluationConfig
from fourm.evaluation.directions import Evaluator
from fourm.inference.settings import GenerationConfig
from fourm.presentation.calibration_curves import draw_calibration
from tests.fourm.fakes import FakeModel, make_set


class Drawing(FakeModel):
    """Says how wrong it is (or a random number) as its spread of depth."""

    settings = {"depth": GenerationConfig(num_steps=1, temperature=0.0)}  # noqa: RUF012

    def __init__(self, is_honest):
        super().__init__()
        self.is_honest, self.asked = is_honest, []

    def generate(self, inputs, targets, *, seed=0, settings=None, num_draws=1, **options):
        self.asked.append((num_draws, settings))
        (target,) = targets
        made = super().generate(inputs, targets)
        if target != "depth":
            return SimpleNamespace(
                values=made.values, spread={target: np.zeros(len(inputs["rgb"]))}
            )
        random = np.random.default_rng(seed)
        size = made.values["depth"].shape
        noise = random.gamma(1.0, 0.5, size)
        made.values["depth"] = (made.values["depth"] + noise).astype(np.float32)
        spread = noise / 2 if self.is_honest else random.gamma(1.0, 0.5, size)
        return SimpleNamespace(values=made.values, spread={"depth": spread})


def measure(is_honest, pairs=("rgb->depth",), **options):
    model = Drawing(is_honest)
    evaluator = Evaluator(model, make_set(20, seed=1), make_set(9), EvaluationConfig(pairs, seed=4))
    return measure_calibration(evaluator, evaluator.pairs, CalibrationConfig(**options)), model


def test_a_spread_that_is_the_error_is_told_from_one_that_is_noise():
    (honest,), model = measure(True, num_samples=12, num_draws=3, num_bins=5)
    assert honest["rank_correlation"] > 0.999 and honest["within_samples"] > 0.999
    assert honest["of_samples"] > 0.9 and honest["ratio"] == pytest.approx(2, rel=1e-3)
    assert (honest["samples"], honest["draws"], len(honest["bins"])) == (12, 3, 5)
    errors = [each["error"] for each in honest["bins"]]
    assert errors == sorted(errors)
    ((draws, settings),) = model.asked
    assert draws == 3 and settings["depth"].temperature == 1
    (noise,), _ = measure(False)
    low, high = noise["interval"]
    assert low < noise["rank_correlation"] < high and abs(noise["rank_correlation"]) < 0.1


def test_what_can_not_be_measured_has_a_note_and_all_is_shown(tmp_path):
    rows, _ = measure(True, ("rgb->depth", "rgb->semseg", "rgb->boxes"))
    assert "has 1 places and its error 64" in rows[1]["note"]
    assert np.isnan(rows[2]["rank_correlation"]) and rows[2]["interval"] is None
    text = format_calibration(rows)
    assert len(text.splitlines()) == 3 and "rgb -> depth" in text
    draw_calibration(tmp_path / "c.png", rows)
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    draw_calibration(tmp_path / "none.png", [])


@pytest.mark.parametrize("knob", ["num_draws", "num_samples", "num_bins"])
def test_too_few_are_refused(knob):
    with pytest.raises(ValueError, match=f"{knob} is 0; it must be at least"):
        CalibrationConfig(**{knob: 0})
