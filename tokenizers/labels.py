"""Labels: one of several names per sample, or any number of them, and their indices as ids."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from tokenizers.base import Better, Crop, RawBatch, SequenceTokens, check_ids
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.settings.plain import to_part
from tokenizers.storage.folders import load_folder, read_part, save_folder
from tokenizers.text.sequences import pad_sequences, read_sequences

NONE = -1
"""The index of what has no label: such a sample has no value."""


@dataclass(frozen=True)
class Label(Checked):
    """One of `names` per sample, an index; or with `several` any number of them, none included.

    A value is an integer, or with `several` bool [names]. Names are understood, too.
    """

    names: tuple[str, ...]
    """Name of every label, in the order of the indices."""
    several: bool = False
    """Whether a sample may have any number of them, as a film has genres."""

    def check_knobs(self, knob: str) -> None:
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise ValueError(
                f"{name_knob(knob, 'names')} are {len(self.names)}, {len(set(self.names))} of them "
                "different; give at least 2 different names."
            )

    @property
    def is_sequence(self) -> bool:
        """True if tokens are in order and their number varies."""
        return self.several

    @property
    def metrics(self) -> dict[str, Better]:
        """Of one label: the share that is right, and its mean over the labels that occur.

        Of several: F1 of all decisions together, and its mean over the labels that occur.
        """
        if self.several:
            return {"f1": "higher", "f1_macro": "higher"}
        return {"accuracy": "higher", "macro_recall": "higher"}

    def check(self, value: Any, name: str) -> int | Bool[np.ndarray, "names"]:
        """Returns the index, -1 for none; or whether each label holds.

        Raises:
            ValueError: If a label is unknown, or one is wanted and others are given.
        """
        if self.several:
            return self._check_several(value, name)
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "iuU":
            raise ValueError(
                f"{name} is {_brief(value)}; one index or name is allowed (Label.several takes "
                "more)."
            )
        return self._index(array.reshape(()).item(), name)

    def _check_several(self, value: Any, name: str) -> Bool[np.ndarray, "names"]:
        if isinstance(value, str):
            # A word that is none of the names may be a list of them.
            value = [value] if value in self.names else [v for v in value.split(",") if v.strip()]
        array = np.asarray(value)
        if array.shape == (len(self.names),) and _are_flags(array):
            return array.astype(bool)
        if array.ndim > 1 or (array.dtype.kind not in "iuU" and array.size):
            raise ValueError(
                f"{name} is {_brief(value)}; allowed are names or indices, or bool "
                f"[{len(self.names)}]."
            )
        found = np.zeros(len(self.names), bool)
        for each in np.atleast_1d(array).tolist():
            index = self._index(each, name)
            if index == NONE:
                raise ValueError(
                    f"{name} has the index {NONE} for no label; leave the modality out of samples "
                    "whose labels are not known, and give an empty list where none holds."
                )
            found[index] = True
        return found

    def _index(self, given: int | str, name: str) -> int:
        if isinstance(given, str):
            word = given.strip()
            if word in self.names:
                return self.names.index(word)
            if not word.lstrip("+-").isdecimal():
                raise ValueError(f"{name} is {word[:40]!r}; allowed are {self._shown}.")
            given = int(word)
        if not NONE <= given < len(self.names):
            raise ValueError(
                f"{name} is {given}; 0 to {len(self.names) - 1} is allowed, for {self._shown}, and "
                f"{NONE} for none."
            )
        return given

    @property
    def _shown(self) -> str:
        return ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")

    def crop(self, value: Any, crop: Crop, size: tuple[int, int]) -> Any:
        """Returns the value as it is, and None where there is no label."""
        return None if not self.several and value == NONE else value

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric; `where` does not apply to labels and is ignored."""
        found, true = self._as_flags(predicted), self._as_flags(truth)
        hits, occurs = (found & true).sum(axis=0), true.any(axis=0)
        counts = true.sum(axis=0)
        if not self.several:
            recall = hits[occurs] / counts[occurs]
            return {
                "accuracy": float(hits.sum() / max(len(true), 1)),
                "macro_recall": float(recall.mean()) if recall.size else float("nan"),
            }
        either = found.sum(axis=0) + counts
        of_each = 2 * hits[occurs] / either[occurs]
        # There is nothing to find where no label holds, and who finds nothing is right.
        overall = 2 * hits.sum() / either.sum() if either.sum() else 1.0
        macro = float(of_each.mean()) if of_each.size else float("nan")
        return {"f1": float(overall), "f1_macro": macro}

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns what the commonest label scores; of several, those commonest ones that do best.

        No other set of labels has a higher F1.
        """
        shares = self._as_flags(training).mean(axis=0)
        order = np.argsort(-shares, kind="stable")
        if not self.several:
            return self.score(np.full(len(truth), order[0]), truth)
        hits = np.concatenate([[0.0], np.cumsum(shares[order])])
        f1 = 2 * hits / np.maximum(np.arange(len(hits)) + shares.sum(), 1e-12)
        answer = np.zeros(len(order), bool)
        answer[order[: f1.argmax()]] = True
        # The mean over labels asks for every label that occurs.
        every = np.ones((len(truth), len(order)), bool)
        return {
            "f1": self.score(np.tile(answer, (len(truth), 1)), truth)["f1"],
            "f1_macro": self.score(every, truth)["f1_macro"],
        }

    def draw(self, value: Any, size: tuple[int, int]) -> str:
        """Returns the name, or the names."""
        if not self.several:
            return self.names[int(value)] if 0 <= int(value) < len(self.names) else "none"
        return ", ".join(self.names[index] for index in np.flatnonzero(value)) or "-"

    def vectors(self, values: RawBatch) -> Float[np.ndarray, "batch n"]:
        """Returns which labels hold, for simple methods."""
        return self._as_flags(values).astype(np.float64)

    def _as_flags(self, values: RawBatch) -> Bool[np.ndarray, "batch names"]:
        if self.several:
            return np.asarray(values, bool).reshape(len(values), len(self.names))
        return np.asarray(values).reshape(-1, 1) == np.arange(len(self.names))


@dataclass(frozen=True)
class LabelTokenizerConfig(Checked):
    """One id for a label; for several a sequence of ids, in the order of their names."""

    most: int = 0
    """Most labels of a sample that are kept; 0 for all that there are. Further ones are left
    out."""
    num_sentinels: int = 8
    """Ids that stand for masked spans, where there are several labels."""

    def check_knobs(self, knob: str) -> None:
        if self.most < 0 or self.num_sentinels < 1:
            raise ValueError(
                f"{name_knob(knob, 'most')} is {self.most} and "
                f"{name_knob(knob, 'num_sentinels')} {self.num_sentinels}; at least 0 and 1 are "
                "allowed."
            )

    def most_tokens(self, values: Label) -> int:
        """Returns the most tokens of a value, the end included."""
        if not values.several:
            return 1
        return min(self.most or len(values.names), len(values.names)) + 1

    def fit(self, values: Label, training: RawBatch, key: Array | None = None) -> "LabelTokenizer":
        """Returns the tokenizer, which learns nothing of the samples."""
        return LabelTokenizer(self, values)


class LabelTokenizer:
    """Labels to ids and back; several are preceded by the end and the sentinels."""

    def __init__(self, config: LabelTokenizerConfig, values: Label) -> None:
        self._config, self.values = config, values
        self.special: SequenceTokens | None = None
        self._first = 0
        if values.several:
            self.special = SequenceTokens(0, 1, config.num_sentinels)
            self._first = 1 + config.num_sentinels
        self.vocab_size = self._first + len(values.names)
        self.token_shape = (config.most_tokens(values),)

    def encode(self, values: RawBatch) -> Int32[np.ndarray, "batch tokens"]:
        """Returns ids [batch, 1], or sequences of them.

        Raises:
            ValueError: If there is no label where one is wanted.
        """
        if self.special is not None:
            rows: Sequence[np.ndarray] = [np.flatnonzero(each) + self._first for each in values]
            return pad_sequences(rows, self.special.end, *self.token_shape)
        ids = np.asarray(values, np.int32).reshape(-1, 1)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise ValueError(
                f"Label tokenizer: there is no label {wrong[0]}; 0 to {self.vocab_size - 1} are "
                "allowed. Leave the modality out of samples that have none."
            )
        return ids

    def decode(self, ids: Int[np.ndarray, "batch tokens"]) -> np.ndarray:
        """Returns int [batch], or bool [batch, names].

        Raises:
            ValueError: If an id is out of range.
        """
        if self.special is None:
            check_ids(ids, self.vocab_size)
            return np.asarray(ids[:, 0], np.int32)
        found = np.zeros((len(ids), len(self.values.names)), bool)
        sequences = read_sequences(ids, self.special, self.vocab_size)
        for row, kept in zip(found, sequences, strict=True):
            row[kept - self._first] = True
        return found

    def decode_expected(
        self, probabilities: Float[np.ndarray | Array, "batch 1 vocab"]
    ) -> Int[np.ndarray, "batch"]:
        """Returns the likeliest label: names have no mean."""
        return np.asarray(probabilities)[:, 0].argmax(axis=-1).astype(np.int32)

    def save(self, folder: Path) -> None:
        """Writes the names into `folder`."""
        config = asdict(self._config)
        save_folder(
            folder, {"tokenizer": "label", "config": config, "values": to_part(self.values)}, {}
        )

    @classmethod
    def load(cls, folder: Path) -> "LabelTokenizer":
        """Returns the tokenizer that `save` wrote.

        Raises:
            ValueError: If the folder is absent, damaged or of another kind.
        """
        description, _, _ = load_folder(folder, "label")
        config = read_part(description, "config", LabelTokenizerConfig, folder)
        return cls(config, read_part(description, "values", Label, folder))


def _are_flags(array: np.ndarray) -> bool:
    """True for a flag per name; zeros and ones that repeat would be no indices of labels."""
    if array.dtype.kind == "b":
        return True
    is_repeated = array.dtype.kind in "iuf" and len(array) > 2
    return is_repeated and bool(np.isin(array, (0, 1)).all())


def _brief(value: Any) -> str:
    shape = np.shape(value)
    return f"an array of shape {shape}" if shape else repr(value)[:40]
