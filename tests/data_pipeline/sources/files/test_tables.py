import gzip
import json

import numpy as np
import pytest

from data_pipeline.sources.files.locations import Location
from data_pipeline.sources.files.tables import (
    Table,
    TableColumn,
    cells_of,
    load_table,
    numbers_of,
    rows_of,
)
from tokenizers.base import Choices


def test_a_table_is_rows_by_key(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('key,scene,light\n1,"kitchen, \u2028 small",0.5\n2,office,\n', encoding="utf-8")
    table = load_table(file, "key")
    assert table.columns == ("scene", "light")
    assert table.rows == {
        "1": {"scene": "kitchen, \u2028 small", "light": "0.5"},
        "2": {"scene": "office", "light": ""},
    }


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("a.tsv", "file_name\tage\n1.png\t3\n", "utf-8"),
        ("a.tsv", 'file_name\tage\n1.png\t3\n"\t', "utf-8"),
        ("a.csv", "file_name;age\n1.png;3\n", "utf-8-sig"),
        ("a.csv", "file_name\tage\r\n1.png\t3\r\n", "utf-16"),
        ("a.jsonl", '{"file_name": "1.png", "age": "3"}\n\n', "utf-8"),
        ("a.csv.gz", gzip.compress(b"file_name,age\n1.png,3\n", mtime=0), ""),
        ("a.json", '[{"file_name": "1.png",\n "age": "3"}]', "utf-8"),
    ],
)
def test_kinds_of_tables_are_told_apart(tmp_path, name, text, encoding):
    data = text if isinstance(text, bytes) else text.encode(encoding)
    (tmp_path / name).write_bytes(data)
    assert load_table(tmp_path / name, "key").rows["1.png"] == {"age": "3"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,scene\n1,a\n", "has the columns id, scene; set key_column"),
        ("a.csv", "", "can't be read .it is empty"),
        ("a.csv", 'key,a\n1,"x\n2,y\n', "can't be read .unexpected end of data"),
        ("a.csv", "key,a,a\n1,x,y\n", "several columns of the name 'a'"),
        ("a.csv", None, "can't be read.*check `table`"),
        ("a.csv", b"key\n\xe9\n", "is no UTF-8 text, from byte 4 on; save it as UTF-8"),
        ("a.csv", "key,a\n", "has no row that can be used; check `table`"),
        ("a.csv", "key,a\n1,x,y\n", "no row that can be used: row 1 of .* has another length"),
        ("a.json", '{"a": 1}', "must be a list of objects"),
        ("a.json", "[" * 100_000, "can't be read"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load_table(tmp_path / name, "key")


@pytest.mark.parametrize(
    ("name", "text", "kinds"),
    [
        ("a.csv", "key,a\n1,x\n1,y\n2,z\n", ["listed twice"]),
        ("a.csv", "key,a\n1,x\n3\n4,a,b\n,e\n2,z\n", ["ignored"] * 3),
        ("a.jsonl", '{"key": 1, "a": "x"}\n[]\n{"a\n{"key": 2, "a": "z"}', ["ignored"] * 2),
    ],
)
def test_rows_that_are_of_no_use_are_noted(tmp_path, name, text, kinds):
    (tmp_path / name).write_text(text)
    table = load_table(tmp_path / name, "key")
    assert table.rows == {"1": {"a": "x"}, "2": {"a": "z"}}
    assert [note.kind for note in table.notes] == kinds


def files_of(**files: str) -> dict[str, dict[str, Location]]:
    return {"rgb": {key: Location(f"/data/{file}", 0, 0, "", "") for key, file in files.items()}}


def test_rows_meet_keys_with_or_without_extension_and_folder():
    names = ["1.png", "2", "train/3.JPG", "train/rgb/4.png", "val/2.png", "./5", "a.b"]
    table = Table({name: {"name": name} for name in names}, ("name",))
    files = files_of(**dict.fromkeys(["1", "2", "3", "4", "5", "a.b", "6"], ""))
    met = rows_of(table, files, "/data", ["train", "rgb", "train/rgb"])
    assert {key: row["name"] for key, row in met.rows.items()} == dict(
        zip(["1", "2", "3", "4", "val/2", "5", "a.b"], names, strict=True)
    )
    [note] = met.notes
    assert "has no row for 1 of 7 keys, such as '6'" in note.reason
    with pytest.raises(ValueError, match="upper and lower case"):
        rows_of(Table({"A": {}, "B": {}}, ()), files_of(a="", b=""), "", ())


def test_rows_may_name_files_whose_keys_are_shorter():
    files = files_of(
        a="photo/train/a_left.png", b="photo/train/b.rgb.png", c="train/c_left.png", d="x/d_l.png"
    )
    files["depth"] = {"e": Location("/data/s.tar", 0, 0, "y/d_l.png", "")}
    names = ["photo/train/a_left.png", "b.rgb", "c_left", "d_l", "s.tar/y/d_l.png", "y/d_l.png"]
    rows = rows_of(Table({name: {"name": name} for name in names}, ()), files, "/data", ["train"])
    met = {row["name"]: key for key, row in rows.rows.items()}
    assert [met[name] for name in names] == ["a", "b", "c", "d_l", "s.tar/y/d_l", "e"]


def read_all(column: TableColumn, *cells: object) -> list:
    rows = {str(key): {"x": cell} for key, cell in enumerate(cells)}
    found = cells_of(Table(rows, ("x",), file="a.csv"), "x", column)
    located = [found.get(str(key)) for key in range(len(cells))]
    return [each and column.read(each.content, each.extension) for each in located]


def test_cells_are_texts_numbers_or_classes():
    assert read_all(TableColumn(), " a ", " ", None, 3, ["a", "b"], []) == [
        *("a", None, None, "3", Choices(("a", "b")), None)
    ]
    assert read_all(TableColumn(holds="number"), "1.5", "", 2, float("nan"), "NaN") == [
        *(1.5, None, 2.0, None, None)
    ]
    classes = TableColumn(holds="class", class_names=("cat", "dog"))
    assert read_all(classes, "dog", "0", -1, "-1", 1, "", "cat") == [1, 0, None, None, 1, None, 0]
    numbers = read_all(TableColumn(holds="numbers"), [1, 2], "[3.5]")
    np.testing.assert_array_equal(numbers[0], [1, 2])
    np.testing.assert_array_equal(numbers[1], [3.5])


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        (TableColumn(holds="number"), "x", "not a number"),
        (TableColumn(holds="class", class_names=("cat",)), "cow", "no class; there are cat"),
        (TableColumn(holds="class", class_names=("cat",)), 1, "no class"),
        (TableColumn(holds="class"), "1.5", "no class"),
        (TableColumn(), {"a": 1}, "not a text"),
        (TableColumn(holds="numbers"), ["a"], "not a list of numbers"),
    ],
)
def test_cells_of_another_kind_are_refused(column, cell, message):
    with pytest.raises(ValueError, match=message):
        read_all(column, cell)


def test_an_empty_or_unknown_column_is_refused():
    with pytest.raises(ValueError, match="is empty in all rows"):
        read_all(TableColumn(), "", None)
    with pytest.raises(ValueError, match=r"which has x; set data\.modalities\.y\.column"):
        cells_of(Table({"1": {"x": "a"}}, ("x",)), "y", TableColumn())
    with pytest.raises(ValueError, match=r"TableColumn\(column='caption'\)"):
        TableColumn("caption")


@pytest.mark.parametrize(
    ("texts", "numbers", "names"),
    [
        (["3", "1"], [3, 1], ()),
        (["0", "-1", "2"], [0, None, 2], ()),
        (["-2", "-1"], [-2, -1], ()),
        (["0.5", "-1", "nan", "inf"], [0.5, -1.0, None, None], ()),
        (["b", "a", "NaN", "b"], [1, 0, None, 1], ("a", "b")),
        (["1_0", "a"], [0, 1], ("1_0", "a")),
    ],
)
def test_facts_are_numbers_or_words(texts, numbers, names):
    found, words = numbers_of({str(key): text for key, text in enumerate(texts)})
    assert [found.get(str(key)) for key in range(len(texts))] == numbers
    assert words == names


def test_a_million_words_are_numbered_in_no_time():
    words = {str(key): f"word {key}" for key in range(50_000)}
    assert len(numbers_of(words)[1]) == len(json.loads(json.dumps(words)))
