"""Samples' tokens as bytes, and back."""

import struct
import zlib

import numpy as np
import pytest

from data_pipeline.tokens.records import (
    DamagedRecordError,
    ModalityLayout,
    build_layouts,
    pack_record,
    unpack_keys,
    unpack_records,
)
from tests.data_pipeline.token_samples import Grid, build_tokenizers
from tokenizers.base import PADDING

LAYOUTS = build_layouts(build_tokenizers())
RNG = np.random.default_rng(0)


def random_tokens() -> dict[str, np.ndarray]:
    """Returns tokens of a random choice of the modalities."""
    tokens = {
        "grid": RNG.integers(0, 300, 6),
        "text": RNG.integers(0, 128, RNG.integers(1, 6)),
        "pixels": RNG.integers(0, 256, (4, 12)).astype(np.uint8),
        "vectors": RNG.normal(size=(RNG.integers(1, 5), 3)).astype(np.float16),
    }
    return {name: each for name, each in tokens.items() if RNG.random() < 0.7}


def test_what_is_packed_comes_out_of_a_whole_batch_at_once():
    packed = [random_tokens() for _ in range(200)]
    records = [pack_record(str(n), tokens, LAYOUTS) for n, tokens in enumerate(packed)]
    batch = unpack_records(records, LAYOUTS, LAYOUTS, np.arange(200) + 7)
    assert batch.index.tolist() == list(range(7, 207)) and batch.index.dtype == np.int32
    assert list(batch.ids) == ["grid", "text"] and list(batch.features) == ["pixels", "vectors"]
    for row, tokens in enumerate(packed):
        for name, layout in LAYOUTS.items():
            own = tokens.get(name, np.zeros((0, layout.width)))
            assert batch.num_real[name][row] == len(own)
            if layout.kind == "features":
                found = batch.features[name][row]
                assert found[: len(own)].tobytes() == layout.unpack(own).tobytes()
                assert (found[len(own) :] == 0).all()
            else:
                padding = [PADDING] * (layout.num_tokens - len(own))
                assert batch.ids[name][row].tolist() == [*own.ravel().tolist(), *padding]
    for name in ("grid", "text"):
        assert batch.ids[name].dtype == batch.num_real[name].dtype == np.int32


def test_a_record_is_laid_out_as_its_page_says():
    tokens = {"grid": np.arange(6) + 250, "vectors": np.array([[1, -2, 0.5]], np.float16)}
    record = pack_record("ü7", tokens, LAYOUTS)
    # Modalities in the order grid, text, pixels, vectors: the first and the last are there.
    content = b"".join(
        [
            bytes([0b1001]),
            struct.pack("<H6H", 6, *range(250, 256)),
            struct.pack("<H3e", 1, 1.0, -2.0, 0.5),
            "ü7".encode(),
        ]
    )
    assert record == struct.pack("<I", zlib.crc32(content)) + content


def test_ids_are_kept_in_the_smallest_type():
    layouts = {}
    for vocab_size in (256, 257, 2**16, 2**16 + 1):
        tokenizer = Grid()
        tokenizer.vocab_size = vocab_size
        layouts[vocab_size] = ModalityLayout.of(tokenizer, "x").dtype
    assert list(layouts.values()) == ["uint8", "uint16", "uint16", "uint32"]


def test_a_missing_modality_has_no_bytes_and_a_sequence_those_of_its_tokens():
    nothing = len(pack_record("", {}, LAYOUTS))
    assert nothing == 4 + 1  # A checksum, and a bit per modality.
    for length in (1, 5):
        text = np.ones(length, np.int32)
        assert len(pack_record("", {"text": text}, LAYOUTS)) == nothing + 2 + length


def test_only_the_modalities_that_are_wanted_come_out_in_their_order():
    records = [pack_record("", random_tokens() | {"text": np.array([5])}, LAYOUTS)]
    wanted = {name: LAYOUTS[name] for name in ("text", "grid")}
    batch = unpack_records(records, LAYOUTS, wanted, np.array([0]))
    assert set(batch.ids) == set(batch.num_real) == {"text", "grid"} and batch.features is None
    assert batch.ids["text"][0, 0] == 5


def test_what_records_do_not_have_is_absent():
    few = {name: LAYOUTS[name] for name in ("text",)}
    batch = unpack_records(
        [pack_record("", {"text": np.array([5])}, few)], few, LAYOUTS, np.array([3])
    )
    assert (batch.ids["grid"] == PADDING).all() and batch.ids["grid"].shape == (1, 6)
    assert batch.features["pixels"].shape == (1, 4, 12) and not batch.features["pixels"].any()
    assert {name: int(n[0]) for name, n in batch.num_real.items()} == {
        **{"grid": 0, "pixels": 0, "text": 1, "vectors": 0}
    }


def test_many_modalities_need_more_bits():
    tokenizers = {f"grid{n:02d}": Grid() for n in range(19)}
    layouts = build_layouts(tokenizers)
    tokens = {name: np.full(6, n) for n, name in enumerate(layouts) if n % 3 == 0}
    record = pack_record("key", tokens, layouts)
    assert len(record) == 4 + 3 + 7 * (2 + 12) + 3
    batch = unpack_records([record], layouts, layouts, np.array([0]))
    present = [name for name in layouts if batch.num_real[name][0]]
    assert present == list(tokens)
    assert all((batch.ids[name] == n).all() for n, name in enumerate(layouts) if n % 3 == 0)
    assert unpack_keys([record], layouts) == ["key"]


@pytest.mark.parametrize("place", [0, 4, 6, -1])
def test_damage_anywhere_is_noticed(place):
    good = pack_record("key", {"grid": np.arange(6)}, LAYOUTS)
    bad = bytearray(good)
    bad[place] ^= 1
    for unpack in (
        lambda records: unpack_records(records, LAYOUTS, LAYOUTS, np.arange(2)),
        lambda records: unpack_keys(records, LAYOUTS),
    ):
        with pytest.raises(DamagedRecordError) as caught:
            unpack([good, bytes(bad)])
        assert caught.value.row == 1


def test_more_tokens_than_a_record_can_count_are_refused():
    tokenizer = Grid()
    tokenizer.token_shape = (256, 256)
    with pytest.raises(ValueError, match=r"sky has 65536 tokens per sample; .* up to 65535"):
        build_layouts({"sky": tokenizer})
