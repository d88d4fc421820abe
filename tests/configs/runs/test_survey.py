import json

import numpy as np
import pytest
from PIL import Image

from configs import (
    ArrayFile,
    Colors,
    CropConfig,
    FilesData,
    Modality,
    RunConfig,
    Text,
    TextFile,
)
from configs.runs.samples import Samples, open_sources
from configs.runs.survey import list_left_out, read_samples, survey_run, tabulate
from data_pipeline.census import TooDamagedError
from data_pipeline.tokens.index import StoreIndex
from fourm.run_directory.lock import undone_if_refused
from tests.data_pipeline.token_samples import Grid, write

NUM_SAMPLES = 40


@pytest.fixture
def config(tmp_path) -> RunConfig:
    """Forty pictures with captions, and ten more to evaluate."""
    for split, count in (("train", NUM_SAMPLES), ("val", 10)):
        for name in ("rgb", "caption"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
        for index in range(count):
            folder = tmp_path / "data" / split
            picture = np.full((8, 8, 3), index, np.uint8)
            Image.fromarray(picture).save(folder / f"rgb/{index:02}.png")
            (folder / f"caption/{index:02}.txt").write_text("a picture")
    return RunConfig(
        modalities={"rgb": Modality(Colors()), "caption": Modality(Text())},
        data=FilesData(
            str(tmp_path / "data"), modalities={"rgb": ArrayFile(), "caption": TextFile()}
        ),
        crops=CropConfig(size=8, views=2),
        run_dir=str(tmp_path / "run"),
    )


def damage(tmp_path, indices, split="train") -> None:
    for index in indices:
        (tmp_path / "data" / split / f"rgb/{index:02}.png").write_bytes(b"\x89PNG nothing")


def listed(tmp_path) -> list[dict]:
    lines = (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_too_much_damage_ends_with_a_list_of_all_though_a_part_was_read(tmp_path, config):
    damage(tmp_path, [3, 20, 35])
    (tmp_path / "run").mkdir()
    with pytest.raises(TooDamagedError, match=r"3 of 40 values of rgb in the split train") as error:
        read_samples(config, open_sources(config)["train"], "train", [0, 6, 7, 20, 30, 40, 41, 50])
    assert "left_out.jsonl lists all" in str(error.value)
    assert [line["key"] for line in listed(tmp_path)] == ["03", "20", "35"]
    assert all(
        line["split"] == "train" and line["kind"] == "unreadable" for line in listed(tmp_path)
    )


def test_a_wrong_setting_is_told_without_reading_everything(tmp_path, config, monkeypatch):
    damage(tmp_path, range(NUM_SAMPLES))
    source = open_sources(config)["train"]
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("configs.runs.survey._read_all", lambda *_: pytest.fail("reads everything"))
    with pytest.raises(TooDamagedError, match=r"4 of 4 values of rgb"):
        read_samples(config, source, "train", [0, 2, 4, 6])


def test_the_samples_of_a_run_say_what_they_lack(tmp_path, config, capsys):
    damage(tmp_path, [5])
    damage(tmp_path, [2], "val")
    (tmp_path / "data/train/caption/07.txt").unlink()
    sources = open_sources(config)
    samples = Samples(config, sources)
    samples.keep_heldout(tmp_path / "run")
    assert len(samples.training.rows(["rgb"])) == 2 * (NUM_SAMPLES - 1)
    write(tmp_path / "run/tokens", sources["train"], {"rgb": Flat()}, max_damaged=0.1)
    assert StoreIndex.read(tmp_path / "run/tokens").census.samples == NUM_SAMPLES
    censuses = survey_run(config, sources)
    list_left_out(config, censuses)
    assert [(line["split"], line["key"]) for line in listed(tmp_path)] == [
        ("train", "05"),
        ("validation", "02"),
    ]
    assert "2 of 99 values were left out; noted: 2 unreadable rgb." in capsys.readouterr().out
    names = ("split", "modality", "samples", "present", "missing", "left_out")
    assert [tuple(row[name] for name in names) for row in tabulate(config, censuses)] == [
        ("train", "rgb", 40, 39, 0, 1),
        ("train", "caption", 40, 39, 1, 0),
        ("validation", "rgb", 10, 9, 0, 1),
        ("validation", "caption", 10, 10, 0, 0),
    ]


def test_a_refused_run_keeps_its_list_and_nothing_else(tmp_path, config):
    damage(tmp_path, [3, 20])
    with pytest.raises(TooDamagedError), undone_if_refused(tmp_path / "run"):
        (tmp_path / "run").mkdir()
        Samples(config, open_sources(config)).keep_heldout(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["left_out.jsonl"]


class Flat(Grid):
    """Encodes a picture by its first pixels."""

    def encode(self, values):
        return np.asarray(values, np.int32)[:, :2, :3, 0]
