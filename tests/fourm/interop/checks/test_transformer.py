"""Recorded models, stage by stage: ours agree, and what does not agree shows."""

import json
import shutil

import numpy as np
import pytest

from fourm.interop.checks.transformer import check_fm
from tests.paths import ROOT

SMALL = ROOT / "tests" / "fixtures" / "goldens" / "fm_4m7_tiny_gelu"
GOLDENS = ROOT.parent / "shared" / "parity" / "goldens"


@pytest.mark.slow
def test_every_array_of_a_recorded_model_is_compared_and_ours():
    found = {comparison.name: comparison for comparison in check_fm(SMALL)}
    with np.load(SMALL / "outputs.npz") as outputs:
        expected = set(outputs.files)
    expected |= {f"grad_norms/{n}" for n in json.loads((SMALL / "grad_norms.json").read_text())}
    expected |= {f"export/{n}" for n in json.loads((SMALL / "tensors.json").read_text())}
    expected |= {path.name for path in SMALL.glob("*.json")} - {"grad_norms.json"}
    assert set(found) == expected
    assert [comparison for comparison in found.values() if not comparison.is_equal] == []


@pytest.mark.slow
@pytest.mark.skipif(not GOLDENS.is_dir(), reason="only the small recordings are at hand")
@pytest.mark.parametrize(
    "name",
    [
        "fm_4m7_tiny",
        "fm_4m21_tiny",
        "fm_4m7_tiny_qknorm",
        "fm_4m7_tiny_registers",
        "fm_4m7_tiny_causal_nosep",
    ],
)
def test_models_of_every_kind_compute_what_was_recorded(name):
    assert [comparison for comparison in check_fm(GOLDENS / name) if not comparison.is_equal] == []


@pytest.mark.slow
def test_what_differs_or_is_not_known_shows_unless_it_is_padding(tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(SMALL, folder)
    with np.load(folder / "outputs.npz") as arrays:
        outputs = {name: arrays[name] for name in arrays.files}
    outputs["loss_mod"] += 0.01
    outputs["target_ids"][0, 0] += 1
    is_real = ~outputs["dec_mask"]
    outputs["dec_block1"][is_real] *= 1.001
    outputs["dec_block0"][~is_real] += 1
    outputs["grad/mask_token"] *= 1.001
    outputs["train_losses"][5] += 0.01
    outputs["third_moment"] = np.zeros(3)
    np.savez(folder / "outputs.npz", **outputs)
    (folder / "ids.json").write_text('{"caption": 1}')
    wrong = {"loss_mod", "target_ids", "dec_block1", "grad/mask_token", "train_losses"}
    found = {comparison.name for comparison in check_fm(folder) if not comparison.is_equal}
    assert found == wrong | {"third_moment", "ids.json"}
