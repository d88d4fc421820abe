"""Tokens of what is shown of augmented views, beside those that are asked."""

import numpy as np
import pytest

from data_pipeline.tokens.mixture import TokenMixture
from data_pipeline.tokens.records import build_layouts
from data_pipeline.tokens.store import TokenStore
from tests.data_pipeline.token_samples import (
    Grid,
    Samples,
    assert_same,
    build_tokenizers,
    everything,
    write,
)
from tokenizers.base import AUGMENTED, PADDING
from tokenizers.features import PackedFeatures

TOKENIZERS = build_tokenizers()
MADE_BY = {name: name for name in TOKENIZERS}


class ChangedSamples(Samples):
    """Samples whose pictures are shown changed where the index is odd."""

    augmented = ("grid", "pixels")

    def __getitem__(self, index: int) -> dict:
        sample = super().__getitem__(index)
        if index % 2:
            sample[AUGMENTED] = {
                name: change(sample[name], name) for name in self.augmented if name in sample
            }
        return sample


def change(value: np.ndarray, name: str) -> np.ndarray:
    return (value + 1) % 300 if name == "grid" else 255 - value


class DescribedGrid(Grid):
    """Describes each token by its number."""

    feature_width = 1
    packed = PackedFeatures("float16")

    def pack(self, values):
        return list(np.asarray(values, np.float32).reshape(len(values), 6, 1))


def test_changed_views_have_tokens_of_both_and_others_of_their_own(tmp_path):
    write(tmp_path / "plain", Samples(), made_from={"data": "a"})
    write(tmp_path / "changed", ChangedSamples(), made_from={"data": "a"})
    plain, changed = (everything(TokenStore.open(tmp_path / n)) for n in ("plain", "changed"))
    assert set(changed.ids) - set(plain.ids) == {"grid:shown"}
    for name in ("grid", "text"):
        np.testing.assert_array_equal(changed.ids[name], plain.ids[name])
    np.testing.assert_array_equal(changed.features["vectors"], plain.features["vectors"])
    is_changed = (np.arange(23) % 2 > 0) & (plain.num_real["grid"] > 0)
    assert (changed.num_real["grid:shown"] == 6 * is_changed).all()
    shown = changed.ids["grid:shown"]
    np.testing.assert_array_equal(shown[is_changed], (plain.ids["grid"][is_changed] + 1) % 300)
    assert (shown[~is_changed] == PADDING).all()
    same = (changed.features["pixels"] == plain.features["pixels"]).all(axis=(1, 2))
    has_pixels = plain.num_real["pixels"] > 0
    np.testing.assert_array_equal(same, ~((np.arange(23) % 2 > 0) & has_pixels))


def test_numbers_beside_ids_are_of_what_is_shown(tmp_path):
    write(tmp_path / "a", ChangedSamples(), tokenizers={"grid": DescribedGrid()})
    batch = everything(TokenStore.open(tmp_path / "a"))
    has_shown, has_own = batch.num_real["grid:shown"] > 0, batch.num_real["grid"] > 0
    read = np.where(has_shown[:, None], batch.ids["grid:shown"], batch.ids["grid"])
    numbers = batch.features["grid:features"][..., 0]
    np.testing.assert_array_equal(numbers[has_own], read[has_own])
    assert has_shown.sum() == 7


def test_stores_with_and_without_are_drawn_from_together(tmp_path):
    write(tmp_path / "a", ChangedSamples())
    write(tmp_path / "b", Samples(11))
    weights = {str(tmp_path / name): 1.0 for name in "ba"}
    mixture = TokenMixture.open(weights, TOKENIZERS, MADE_BY)
    batch = mixture.batch(np.arange(34))
    assert not batch.num_real["grid:shown"][:11].any()
    assert batch.num_real["grid:shown"][11:].sum() == 6 * 7
    # Nobody predicts what is only shown.
    assert set(mixture.marginal_entropy()) == {"grid", "text"}
    alone = TokenMixture.open({str(tmp_path / "b"): 1.0}, TOKENIZERS, MADE_BY)
    assert "grid:shown" not in alone.batch(np.arange(3)).ids


def test_a_store_read_from_disk_is_that_in_memory(tmp_path):
    write(tmp_path / "a", ChangedSamples())
    from_disk = TokenStore.open(tmp_path / "a", in_memory=0)
    assert_same(everything(from_disk), everything(TokenStore.open(tmp_path / "a")))


def test_sequences_can_not_be_shown_changed():
    with pytest.raises(ValueError, match="changes text, whose tokens are a sequence"):
        build_layouts(TOKENIZERS, ("text",))
