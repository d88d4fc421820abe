"""Making token stores: whole shards or none, each once."""

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.crops import CropConfig
from data_pipeline.tokens import writer as token_writer
from data_pipeline.tokens.store import TokenStore
from data_pipeline.tokens.writer import (
    close_folder,
    describe_source,
    missing_shards,
    plan_store,
    write_shards,
)
from tests.data_pipeline.token_samples import (
    Grid,
    Letters,
    Samples,
    assert_same,
    build,
    build_tokenizers,
    everything,
    write,
)
from tokenizers.base import PADDING
from tokenizers.features import PackedFeatures, Vectors, VectorTokenizer


def test_neither_shards_nor_chunks_change_tokens(tmp_path, monkeypatch):
    whole = everything(build(tmp_path / "whole", num_shards=1))
    for num_shards, chunk in ((5, 1024), (23, 1024), (2, 3), (1, 1)):
        monkeypatch.setattr(token_writer, "CHUNK", chunk)
        folder = tmp_path / f"{num_shards} {chunk}"
        assert_same(everything(build(folder, num_shards=num_shards)), whole)


def test_only_samples_that_have_a_modality_are_encoded(tmp_path):
    grid = Grid()
    write(tmp_path, tokenizers={"grid": grid})
    assert grid.calls == [2, 4, 2, 4, 3]


def test_interrupted_work_continues_with_the_first_missing_shard(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", Samples(fail_from=12))
    leftover = tmp_path / "a" / ".shard-00002-of-00005.array_record.partial-1"
    leftover.write_bytes(b"half a file")
    source = Samples()
    store = build(tmp_path / "a", source)
    assert source.reads == list(range(9, 23))
    assert_same(everything(store), everything(build(tmp_path / "b")))
    assert not [path for path in (tmp_path / "a").iterdir() if "partial" in path.name]


def test_finished_work_is_not_repeated(tmp_path):
    write(tmp_path)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    source = Samples()
    write(tmp_path, source)
    assert source.reads == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made


def test_shards_made_anywhere_in_any_order_are_the_same_bytes(tmp_path):
    write(tmp_path / "a")
    source, tokenizers = Samples(), build_tokenizers()
    plan = plan_store(source, tokenizers, {n: n for n in tokenizers}, {"data": "a"}, 5)
    token_writer.open_folder(tmp_path / "b", plan)
    for missing, numbers in ((3, (4, 1)), (2, (0,)), (0, (3, 2))):
        for number in numbers:
            write_shards(source, tokenizers, tmp_path / "b", plan, [number], lambda samples: None)
        assert close_folder(tmp_path / "b", plan) == missing
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_shards_can_be_compared_with_their_checksums(tmp_path):
    write(tmp_path)
    source, tokenizers = Samples(), build_tokenizers()
    plan = plan_store(source, tokenizers, {n: n for n in tokenizers}, {"data": "a"}, 5)
    assert missing_shards(Samples(), tmp_path, plan, range(5), check=True) == []
    shard = tmp_path / plan.file_of(3)
    content = bytearray(shard.read_bytes())
    content[700] ^= 255
    shard.write_bytes(content)
    assert missing_shards(Samples(), tmp_path, plan, range(5)) == []
    assert missing_shards(Samples(), tmp_path, plan, range(5), check=True) == [3]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"made_from": {"data": "b"}}, "made_from.data"),
        ({"made_from": {"data": "a", "crops": "x"}}, "made_from.crops"),
        ({"source": Samples(22)}, "samples"),
        ({"num_shards": 6}, "num_shards"),
        ({"tokenizers": {"grid": Grid()}}, "modalities.text"),
    ],
)
def test_tokens_made_from_something_else_are_made_again(tmp_path, changes, named):
    both = {"grid": Grid(), "text": Letters()}
    write(tmp_path / "a", tokenizers=both)
    changes = {"tokenizers": both} | changes
    with pytest.warns(UserWarning, match=rf"differing: {named}\), so they are computed again"):
        store = build(tmp_path / "a", **changes)
    assert_same(everything(store), everything(build(tmp_path / "b", **changes)))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())


@dataclass(frozen=True)
class Photographs:
    """A source as a user's own file defines one."""

    path: Path = Path("photographs")
    limits: tuple[float, float] = (0.0, float("inf"))
    longest: int = 0


def test_tokens_of_an_earlier_version_are_those_of_this_one(tmp_path):
    made_from = describe_source(Photographs(), CropConfig(size=8), 3, "train")
    write(tmp_path, made_from=made_from)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["made_from"]["data"]["longest"] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def write_earlier(data: object, crops: object, **layout: object) -> None:
        """Writes a store as a version did that knew fewer knobs."""
        for path in tmp_path.iterdir():
            path.write_bytes(before[path.name])
        plain = copy.deepcopy({k: v for k, v in index.items() if k != "sha256"})
        plain["made_from"] |= {"data": data, "crops": crops}
        for each in plain["modalities"].values():
            if not each["mean"]:
                del each["mean"]
        plan = {k: v for k, v in plain.items() if k not in ("shards", "counts")}
        store = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
        (tmp_path / "index.json").write_text(json.dumps(plain))
        for path in tmp_path.glob("shard-*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"store": store}))

    shown = "Photographs(path=PosixPath('photographs'), limits=(0.0, inf))"
    written = {"class": "Photographs", "path": "photographs"}
    crops = repr(CropConfig(size=8)).replace(", flip=True", "")
    assert crops != repr(CropConfig(size=8))
    for data, earlier_crops in ((shown, crops), (written, {"class": "CropConfig", "size": 8})):
        write_earlier(data, earlier_crops)
        calls = []
        write(tmp_path, made_from=made_from, progress=calls.append)
        assert calls == [23], "Shards were made again."
        assert json.loads((tmp_path / "index.json").read_text())["made_from"]["data"] == data
        TokenStore.open(tmp_path)
    other = describe_source(Photographs(longest=7), CropConfig(size=8), 3, "train")
    with pytest.warns(UserWarning, match=r"differing: made_from\.data\.longest\), so they are"):
        write(tmp_path, made_from=other)


def test_a_store_under_way_to_other_tokens_is_not_taken_for_complete(tmp_path):
    write(tmp_path)
    with pytest.warns(UserWarning, match="computed again"), pytest.raises(KeyboardInterrupt):
        write(tmp_path, Samples(fail_from=12), made_from={"data": "b"})
    with pytest.raises(ValueError, match="tokens of 9 of 23 samples"):
        TokenStore.open(tmp_path)


def test_progress_counts_what_is_done_and_what_was_there(tmp_path):
    calls = []
    write(tmp_path, progress=calls.append)
    assert calls == [0, 4, 5, 4, 5, 5]
    calls.clear()
    (tmp_path / "shard-00001-of-00005.array_record").unlink()
    write(tmp_path, progress=calls.append)
    assert calls == [18, 5]


class Wrong(Grid):
    def __init__(self, ids):
        super().__init__()
        self.ids = ids

    def encode(self, values):
        return np.repeat(np.asarray(self.ids, np.int32)[None], len(values), axis=0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, 1, 2], [3, 4, 300]], r"wrong ids for the sample 'a/ü1'; they must be in \[0, 300\)"),
        ([[0, 1, 2], [3, 4, -2]], "wrong ids for the sample 'a/ü1'"),
        ([[0, 1, PADDING], [3, 4, 5]], "wrong ids for the sample 'a/ü1'"),
        ([[0, 1, 2]], r"shape \(2, 1, 3\) for 2 samples; its token_shape is \(2, 3\)"),
    ],
)
def test_wrong_ids_are_refused_before_they_are_written(tmp_path, ids, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, Samples(with_keys=True), tokenizers={"grid": Wrong(ids)})
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]


def test_vectors_too_large_for_half_precision_are_refused(tmp_path):
    class Large(Samples):
        def __getitem__(self, index):
            return {"vectors": np.full((1, 3), 70_000.0, np.float32)}

    tokenizers = {"vectors": VectorTokenizer(Vectors(width=3, longest=4))}
    with pytest.raises(ValueError, match=r"the number 70000.0; at most 65504 .* half precision"):
        write(tmp_path, Large(), tokenizers=tokenizers)


def test_samples_must_go_round(tmp_path):
    for num_shards in (0, 24):
        with pytest.raises(ValueError, match=f"23 samples .* into {num_shards} shards"):
            write(tmp_path, num_shards=num_shards)
    assert plan_store(Samples(1), {}, {}, {}).num_shards == 1
    assert plan_store(Samples(12_000), {}, {}, {}).num_shards == 12
    assert plan_store(Samples(10**6), {}, {}, {}).num_shards == 64


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    source, tokenizers = Samples(), build_tokenizers()
    plan = plan_store(source, tokenizers, {n: n for n in tokenizers}, {}, 5)
    with pytest.raises(ValueError, match=r"partial-\d+ can't be written .*; make room"):
        write_shards(source, tokenizers, tmp_path / "none", plan, [0], lambda samples: None)


class Described(Grid):
    """A grid each of whose tokens is described by two numbers, beside its id."""

    feature_width = 2
    packed = PackedFeatures("uint8", (0.5,), (1 / 16,))

    def pack(self, values):
        return list(np.stack([values, 255 - values % 256], -1).reshape(len(values), 6, 2) % 256)


def test_numbers_that_describe_tokens_lie_beside_their_ids(tmp_path):
    tokenizers = build_tokenizers() | {"grid": Described()}
    store = build(tmp_path / "both", tokenizers=tokenizers, num_shards=3)
    assert "grid:features" in store.index.layouts
    bare = build(tmp_path / "ids", num_shards=3)
    both, ids = everything(store), everything(bare)
    assert set(both.features) - set(ids.features) == {"grid:features"}
    for name in ids.ids:
        np.testing.assert_array_equal(both.ids[name], ids.ids[name])
    source = Samples()
    for index in range(len(source)):
        has_grid = "grid" in source[index]
        assert both.num_real["grid:features"][index] == 6 * has_grid
        if has_grid:
            stored = np.uint8(Described().pack(source[index]["grid"][None])[0])
            expected = (stored / np.float32(255) - 0.5) * 16
            np.testing.assert_allclose(both.features["grid:features"][index], expected, atol=1e-5)
    # A model that reads them trains on tokens that have none, and the other way round.
    wanted = TokenStore.open(tmp_path / "ids", store.index.layouts)
    without = everything(wanted)
    assert not without.num_real["grid:features"].any()
    assert without.features["grid:features"].shape == (23, 6, 2)
    fewer = everything(TokenStore.open(tmp_path / "both", bare.index.layouts))
    assert_same(fewer, ids)
