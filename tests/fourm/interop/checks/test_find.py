"""The check as a command: what it prints, and its exit code."""

import json
import shutil

import numpy as np
import pytest

from fourm.interop.checks.find import find_recordings
from fourm.interop.ml4m import main
from tests.paths import ROOT

COMMITTED = ROOT / "tests" / "fixtures" / "goldens"
ALL = ROOT.parent / "shared" / "parity" / "goldens"


def test_a_folder_s_files_tell_what_it_holds():
    found = {name: check.__name__ for name, (_, check) in find_recordings(COMMITTED).items()}
    assert found["diffusion_schedules"] == "check_schedules"
    assert found["vqvae_tiny_mlp"] == "check_vqvae"
    assert found["fm_4m7_tiny_gelu"] == "check_fm"
    assert found["masking"] == "check_masking"


def test_all_arrays_of_a_folder_agree_and_the_last_line_says_so(capsys):
    assert main(["check", str(COMMITTED / "vqvae_tiny_mlp")]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) >= 5 and all(line.endswith(" ok") for line in lines)
    assert last.startswith(f"All {len(lines)} arrays agree")


def test_a_wrong_array_is_named_and_the_exit_code_is_one(tmp_path, capsys):
    folder = tmp_path / "recorded"
    shutil.copytree(COMMITTED / "vqvae_tiny_mlp", folder)
    with np.load(folder / "outputs.npz") as recorded:
        arrays = dict(recorded)
    arrays["x/recon"] = arrays["x/recon"] * 1.01
    np.savez(folder / "outputs.npz", **arrays)
    assert main(["check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "recorded/x/recon" in printed and "DIFFERS" in printed
    assert "1 of" in printed.splitlines()[-1]


def test_a_folder_without_recordings_is_refused_in_one_sentence(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    assert "holds no recorded outputs" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err


@pytest.mark.skipif(not ALL.is_dir(), reason="The other recordings are not at hand.")
def test_every_recording_has_a_check():
    manifest = json.loads((ALL / "MANIFEST.json").read_text())
    assert set(find_recordings(ALL)) == {name.split("/")[0] for name in manifest}
