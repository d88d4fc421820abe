"""Every kind of modality: from its configuration to tokens, to disk, and back."""

import dataclasses

import jax
import numpy as np
import pytest

from tokenizers.base import PADDING, Boxes, Tokenizer
from tokenizers.boxes import BoxList, BoxTokenizerConfig
from tokenizers.images.patch_tokenizer import ImageTokenizerConfig
from tokenizers.labels import Label
from tokenizers.modality import TOKENIZERS, Modality, load_tokenizer
from tokenizers.rows import Row
from tokenizers.scalars import Scalar, ScalarTokenizerConfig
from tokenizers.signals.signal_tokenizer import SignalTokenizerConfig
from tokenizers.signals.values import Signal
from tokenizers.storage.folders import save_folder
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig
from tokenizers.values import Classes, Colors

RNG = np.random.default_rng(0)
SMALL = ImageTokenizerConfig(codebook_size=16, patch_size=4, width=8, code_dim=4)
TEXTS = [f"a {color} {shape} on grass" for color in ("red", "blue") for shape in ("cube", "ball")]


def make_boxes():
    low = RNG.uniform(0, 0.5, (2, 2))
    corners = np.concatenate([low, low + 0.3], axis=1).astype(np.float32)
    return Boxes(corners, RNG.integers(0, 2, 2).astype(np.int32))


CASES = {
    "image": (Modality(Colors(), SMALL), list(RNG.integers(0, 256, (6, 8, 8, 3), np.uint8))),
    "classes": (
        Modality(Classes(names=("sky", "sea")), SMALL),
        list(RNG.integers(0, 2, (6, 8, 8), np.uint8)),
    ),
    "text": (Modality(Text(), TextTokenizerConfig(vocab_size=330, max_tokens=24)), TEXTS),
    "boxes": (
        Modality(BoxList(class_names=("cube", "ball")), BoxTokenizerConfig(num_bins=16)),
        [make_boxes() for _ in range(4)],
    ),
    "label": (Modality(Label(names=("cat", "dog"))), [0, 1, 1]),
    "labels": (
        Modality(Label(names=("cat", "dog"), several=True)),
        [["cat"], [], ["cat", "dog"]],
    ),
    "row": (
        Modality(Row(numbers=("age",), categories={"sex": ("f", "m")})),
        [{"age": 3, "sex": "f"}, {"age": None, "sex": "m"}, {"age": 9}],
    ),
    "signal": (
        Modality(
            Signal(length=20, channels=2),
            SignalTokenizerConfig(patch_steps=4, codebook_size=16, width=8, code_dim=4),
        ),
        list(RNG.normal(size=(6, 20, 2))),
    ),
    "scalar": (Modality(Scalar(unit="m"), ScalarTokenizerConfig(num_bins=8)), [1.0, 2.0, 5.0, 9.0]),
}


@pytest.fixture(scope="module", params=CASES)
def fitted(request):
    modality, raw = CASES[request.param]
    raw = [modality.values.check(value, request.param) for value in raw]
    if isinstance(raw[0], np.ndarray):
        raw = np.stack(raw)
    return modality.tokenizer.fit(modality.values, raw, jax.random.key(0)), raw


def test_every_kind_keeps_the_contract_of_tokenizers(fitted):
    tokenizer, raw = fitted
    assert isinstance(tokenizer, Tokenizer)
    ids = np.asarray(tokenizer.encode(raw))
    assert ids.shape == (len(raw), *tokenizer.token_shape)
    assert ids.dtype == np.int32
    assert ids.max() < tokenizer.vocab_size
    assert ids.min() >= (PADDING if tokenizer.special else 0)
    assert len(tokenizer.decode(ids)) == len(raw)


def test_every_kind_is_loaded_by_what_was_saved_alone(fitted, tmp_path):
    tokenizer, raw = fitted
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert type(loaded) is type(tokenizer)
    ids = np.asarray(tokenizer.encode(raw))
    np.testing.assert_array_equal(loaded.encode(raw), ids)
    for a, b in zip(tokenizer.decode(ids), loaded.decode(ids), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_modality_is_a_value_that_can_be_derived():
    modality = CASES["scalar"][0]
    changed = dataclasses.replace(modality, tokenizer=ScalarTokenizerConfig(num_bins=4))
    assert changed.values is modality.values
    assert changed != modality


def test_an_empty_folder_gets_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"Nothing saved in .*; give the folder that was saved"):
        load_tokenizer(tmp_path)


def test_an_unknown_type_gets_one_sentence_with_those_that_are_known(tmp_path):
    save_folder(tmp_path / "t", {"tokenizer": "smell"}, {})
    with pytest.raises(ValueError, match=r"is of type 'smell'; known are image, text, boxes, scal"):
        load_tokenizer(tmp_path / "t")
    assert set(TOKENIZERS) >= {"image", "text", "boxes", "scalar"}
