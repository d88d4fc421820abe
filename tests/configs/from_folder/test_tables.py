"""Tables with a row per sample, beside files and alone."""

import csv
import io
import json

import numpy as np
import pytest

from configs import Label, Row, Scalar, SplitByColumn, SplitByFolder, TableColumn, TableRow, Text
from configs.from_folder.tables import infer_column
from tests.configs.from_folder.folders import RANDOM, colors, infer, kinds, samples, save, write

BREEDS = ("beagle", "boxer", "pug")


def table(rows: list[dict], dialect: str = "excel") -> str:
    """Returns rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), dialect=dialect)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def row_of(number: int, **more) -> dict:
    return {
        "file_name": f"{number}.png",
        "text": f"a photograph of the dog number {number}",
        "breed": BREEDS[number % 3],
        "weight": number / 4 + 3,
        "id": 1000 + number,
        **more,
    }


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.tsv", "about.csv"])
def test_columns_beside_pictures_become_modalities(tmp_path, name):
    rows = [row_of(number) for number in range(12)]
    for number in range(12):
        save(tmp_path / f"train/{number}.png", colors())
    if name.endswith("jsonl"):
        text = "\n".join(map(json.dumps, rows))
    else:
        text = table(rows, "excel-tab" if name.endswith("tsv") else "excel")
    write(tmp_path / "train" / name, text)
    config, told = infer(tmp_path)
    assert {key: each.values for key, each in config.modalities.items() if key != "rgb"} == {
        "caption": Text(),
        "breed": Label(BREEDS),
        "weight": Scalar(),
    }
    assert config.data.table == f"{{split}}/{name}" or config.data.table == f"train/{name}"
    sample = samples(config)["7"]
    assert sample["caption"] == "a photograph of the dog number 7"
    assert sample["weight"] == 4.75 and sample["breed"] == 1
    assert sample["metadata"]["id"] == 1007
    assert any(line.startswith("the column id is a fact") for line in told)


def test_a_table_of_many_columns_is_a_row(tmp_path):
    rows = [
        row_of(number, age=number * 1.5, height=40 - number / 3, tail=number % 7 / 2)
        for number in range(12)
    ]
    rows[4]["height"] = ""
    for number in range(12):
        save(tmp_path / f"images/{number}.png", colors())
    write(tmp_path / "dogs.csv", table([{**row, "label": number % 2} for number, row in
                                         enumerate(rows)]))  # fmt: skip
    config, _ = infer(tmp_path)
    assert config.modalities["label"].values == Label(("class_0", "class_1"))
    assert config.modalities["row"].values == Row(
        ("weight", "age", "height", "tail"), {"breed": BREEDS}
    )
    assert config.data.modalities["row"] == TableRow(
        columns=("weight", "age", "height", "tail", "breed")
    )
    assert samples(config)["4"]["row"]["height"] is None


def test_a_table_alone(tmp_path):
    rows = [
        {"petal": RANDOM.normal(), "sepal": RANDOM.normal(), "species": ["iris", "rose"][n % 2]}
        for n in range(20)
    ]
    write(tmp_path / "flowers.csv", table(rows))
    for path in (tmp_path, tmp_path / "flowers.csv"):
        config, _ = infer(path)
        assert kinds(config) == {"petal": "Scalar", "sepal": "Scalar", "species": "Label"}
        assert config.data.key_column == "" and config.data.path == str(tmp_path)
        found = samples(config)
        assert len(found) == 20
        assert found["5"]["petal"] == pytest.approx(rows[5]["petal"])


def test_a_table_for_every_split(tmp_path):
    for split, count in (("train", 9), ("test", 3)):
        lines = [
            json.dumps({"text": f"something of number {n} in {split}", "score": n / 3})
            for n in range(count)
        ]
        write(tmp_path / f"{split}.jsonl", "\n".join(lines))
    config, _ = infer(tmp_path)
    assert config.data.table == "{split}.jsonl"
    assert config.data.splits_by == SplitByFolder({"train": "train", "test": "test"})
    assert len(config.data.open("train")) == 9 and len(config.data.open("test")) == 3
    assert config.data.open("test")[2]["caption"] == "something of number 2 in test"


def test_tables_may_divide_files_that_lie_together(tmp_path):
    for number in range(14):
        save(tmp_path / f"images/{number}.png", np.full((16, 16, 3), number, np.uint8))
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        rows = [{"image": f"{number}.png", "label": BREEDS[number % 2]} for number in numbers]
        write(tmp_path / f"{split}.csv", table(rows))
    config, told = infer(tmp_path)
    assert kinds(config) == {"images": "Colors", "label": "Label"}
    assert config.data.splits_by == SplitByFolder({"train": "train", "validation": "val"})
    for split, numbers in (("train", range(8)), ("validation", range(8, 12))):
        source = config.data.open(split)
        assert source.keys == [str(number) for number in numbers]
        for index, number in enumerate(numbers):
            assert source[index]["images"][0, 0, 0] == number
            assert source[index]["label"] == number % 2
    assert any("without label, of none" in line for line in told)


def test_a_column_may_say_the_split(tmp_path):
    rows = []
    for number in range(12):
        save(tmp_path / f"images/{number}.png", colors())
        split = "train" if number < 8 else "valid"
        rows.append({"image": f"images/{number}.png", "split": split, "y": number * 1.1})
    write(tmp_path / "all.csv", table(rows))
    for path in (tmp_path, tmp_path / "all.csv"):
        config, _ = infer(path)
        assert config.data.splits_by == SplitByColumn(
            "split", {"train": "train", "validation": "valid"}
        )
        assert config.data.key_column == "image"
        assert config.data.modalities["y"] == TableColumn(column="y", holds="number")
        assert len(config.data.open("train")) == 8


def test_several_rows_of_a_picture_and_other_tables_are_said(tmp_path):
    rows = []
    for number in range(6):
        save(tmp_path / f"Images/{number}.jpg", colors())
        for which in range(3):
            text = f"caption {which} of the picture {number}"
            rows.append({"image": f"{number}.jpg", "caption": text})
    write(tmp_path / "captions.csv", table(rows))
    write(tmp_path / "prices.csv", table([{"fruit": "apple", "price": 99}]))
    config, told = infer(tmp_path)
    assert kinds(config) == {"images": "Colors", "caption": "Text"}
    assert any("12 are of samples that have one" in line for line in told)
    assert "left alone: prices.csv, of which no column names the files" in told
    assert samples(config)["2"]["caption"] == "caption 0 of the picture 2"


def test_class_numbers_and_missing_cells(tmp_path):
    rows = []
    for number in range(12):
        save(tmp_path / f"{number}.png", colors())
        label = "" if number == 5 else -1 if number == 6 else number % 3
        rows.append({"file_name": f"{number}.png", "label": label})
    write(tmp_path / "metadata.csv", table(rows))
    config, _ = infer(tmp_path)
    assert config.modalities["label"].values == Label(("class_0", "class_1", "class_2"))
    found = samples(config)
    assert found["4"]["label"] == 1
    assert "label" not in found["5"] and "label" not in found["6"]


@pytest.mark.parametrize(
    ("name", "cells", "holds"),
    [
        ("title", ["A long way home", "The other day at sea", "Three of them"], "text"),
        ("url", [f"https://host/{n}.jpg" for n in range(9)], "fact"),
        ("name", ["Ann", "Bob", "Cid"], "fact"),
        ("caption", ["dog", "cat", "cow"], "text"),
        ("colour", ["red", "blue", "red", "blue"], "label"),
        ("number", list(range(9)), "fact"),
        ("size", [3, 3, 8, 90, 4], "number"),
        ("constant", ["1", "1", "1"], "fact"),
        ("class", ["0", "2", "0", "2"], "label"),
        ("tags", [["a b", "c"], ["d"]], "text"),
        ("odd", [{"a": 1}], "fact"),
    ],
)
def test_columns_are_told_by_their_cells(name, cells, holds):
    assert infer_column(name, cells).holds == holds


def test_rows_of_another_picture_are_not_taken(tmp_path):
    for number in range(6):
        save(tmp_path / f"{number}.png", np.full((16, 16, 3), number, np.uint8))
    rows = [{"file_name": f"{number}.png", "shade": number * 2.5} for number in range(6)]
    write(tmp_path / "metadata.csv", table(rows[::-1]))
    config, _ = infer(tmp_path)
    for sample in samples(config).values():
        assert sample["shade"] == sample["rgb"][0, 0, 0] * 2.5
