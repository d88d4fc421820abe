"""Tokens of a whole data set, computed once and kept on disk.

A folder of chunks, each written under a temporary name and then renamed, and one file of
fingerprints that says what the tokens were made from. Work that was interrupted continues with
the first missing chunk; tokens made by other tokenizers, or from other data, are never used.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from data_pipeline.source import Sample, Source
from tokenizers.base import PADDING, RawBatch, TokenBatch, Tokenizer

FORMAT = 1
"""Version of the files' layout, part of every fingerprint."""


def fingerprint_files(folder: Path) -> str:
    """Returns a hash of all files of a folder, such as a saved tokenizer's: names and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def build_token_store(
    source: Source,
    tokenizers: dict[str, Tokenizer],
    folder: Path,
    fingerprints: dict[str, str],
    chunk: int = 1024,
    progress: Callable[[int, int], None] | None = None,
    on_chunk: Callable[[range, list[Sample]], None] | None = None,
) -> "TokenStore":
    """Encodes every sample of a source, or what is still missing, and returns the tokens.

    Args:
        source: Of samples as the tokenizers take them.
        tokenizers: By modality. A sample without a modality gets no token of it.
        folder: Where to keep the tokens; made if it is not there.
        fingerprints: What the tokens depend on, by name, say `fingerprint_files` of each saved
            tokenizer and the data set's configuration as text. If any differs from what the
            folder was made with, a warning names it and all is computed again.
        chunk: Samples read and encoded at once, and per file.
        progress: Called with the samples done and in all, after every chunk.
        on_chunk: Called with the indices and raw samples of every chunk, in order, whether or
            not its tokens had been there already, to keep what else is needed of them.

    Raises:
        ValueError: If a tokenizer returns ids outside its vocabulary or of the wrong shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = len(source)
    chunks = [range(start, min(start + chunk, total)) for start in range(0, total, chunk)]
    made_from = {
        "format": str(FORMAT),
        "samples": f"{total} in chunks of {chunk}",
        "modalities": ", ".join(f"{n} {t.vocab_size}" for n, t in tokenizers.items()),
        **fingerprints,
    }
    _discard_stale_chunks(folder, made_from)
    for number, indices in enumerate(chunks):
        file = folder / f"chunk-{number:05d}.npz"
        is_missing = not file.exists()
        if is_missing or on_chunk is not None:
            samples = source.__getitems__(list(indices))
            if is_missing:
                _write_arrays(file, _encode(samples, tokenizers, indices))
            if on_chunk is not None:
                on_chunk(indices, samples)
        if progress is not None:
            progress(indices.stop, total)
    return TokenStore.load(folder)


@dataclass(frozen=True)
class TokenStore:
    """The tokens of a data set, in memory."""

    ids: dict[str, Int32[np.ndarray, "samples _"]]
    """Per modality, row-major if a grid, `PADDING` after the end of a sequence or where absent."""
    num_real: dict[str, Int32[np.ndarray, "samples"]]
    """Per modality, how many leading ids are real; 0 where absent."""

    @classmethod
    def load(cls, folder: Path) -> "TokenStore":
        """Returns the tokens that `build_token_store` wrote.

        Raises:
            ValueError: If there are none, some are missing, or a file is damaged.
        """
        made_from = _read_fingerprints(folder)
        if made_from is None:
            raise ValueError(f"There are no tokens in {folder}; they have to be computed first.")
        parts = [_read_arrays(file) for file in sorted(folder.glob("chunk-*.npz"))]
        arrays = {
            name: np.concatenate([part[name] for part in parts]).astype(np.int32)
            for name in (parts[0] if parts else ())
        }
        ids, num_real = {}, {}
        for name in [name.removeprefix("ids/") for name in arrays if name.startswith("ids/")]:
            stored, num_real[name] = arrays[f"ids/{name}"], arrays[f"num_real/{name}"]
            is_real = np.arange(stored.shape[1]) < num_real[name][:, None]
            ids[name] = np.where(is_real, stored, np.int32(PADDING))
        store = cls(ids, num_real)
        expected = int(made_from["samples"].split()[0])
        if len(store) != expected:
            raise ValueError(
                f"{folder} has tokens of {len(store)} of {expected} samples; run again what "
                "computes them and it will continue."
            )
        return store

    def __len__(self) -> int:
        return max((len(each) for each in self.num_real.values()), default=0)

    def batch(self, indices: Int[np.ndarray, "batch"]) -> TokenBatch:
        """Returns the tokens of some samples."""
        return TokenBatch(
            ids={name: ids[indices] for name, ids in self.ids.items()},
            num_real={name: counts[indices] for name, counts in self.num_real.items()},
            index=np.asarray(indices, np.int32),
        )

    def marginal_entropy(self) -> dict[str, float]:
        """Returns, per modality, the entropy in nats of its tokens' overall frequencies.

        It is the loss of a model that ignores its input and knows just how common every id is.
        """
        entropy = {}
        for name, ids in self.ids.items():
            counts = np.bincount(ids[ids != PADDING])
            shares = counts[counts > 0] / max(counts.sum(), 1)
            entropy[name] = float(-(shares * np.log(shares)).sum())
        return entropy


def _encode(
    samples: list[Sample], tokenizers: dict[str, Tokenizer], indices: range
) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tokenizer in tokenizers.items():
        rows = [row for row, sample in enumerate(samples) if name in sample]
        length = int(np.prod(tokenizer.token_shape))
        ids = np.zeros((len(samples), length), np.min_scalar_type(tokenizer.vocab_size - 1))
        num_real = np.zeros(len(samples), np.int32)
        if rows:
            encoded = np.asarray(tokenizer.encode(_stack([samples[row][name] for row in rows])))
            if encoded.shape != (len(rows), *tokenizer.token_shape):
                raise ValueError(
                    f"The tokenizer of {name} returned ids of shape {encoded.shape} for "
                    f"{len(rows)} samples; its token_shape is {tokenizer.token_shape}."
                )
            encoded = encoded.reshape(len(rows), length)
            is_real = encoded != PADDING
            num_real[rows] = is_real.sum(axis=1)
            leads = is_real == (np.arange(length) < num_real[rows][:, None])
            is_id = ~is_real | ((encoded >= 0) & (encoded < tokenizer.vocab_size))
            wrong = ~(leads & is_id).all(axis=1)
            if wrong.any():
                raise ValueError(
                    f"The tokenizer of {name} returned wrong ids for the sample "
                    f"{indices[rows[int(wrong.argmax())]]}; they must be in "
                    f"[0, {tokenizer.vocab_size}), with {PADDING} only after the end."
                )
            ids[rows] = np.where(is_real, encoded, 0)
        arrays[f"ids/{name}"] = ids
        arrays[f"num_real/{name}"] = num_real
    return arrays


def _stack(values: list[Any]) -> RawBatch:
    """Returns arrays of one shape, or numbers, as one array; anything else as a list."""
    first = values[0]
    if isinstance(first, np.ndarray) and all(value.shape == first.shape for value in values):
        return np.stack(values)
    if isinstance(first, int | float | np.number):
        return np.asarray(values)
    return values


def _discard_stale_chunks(folder: Path, made_from: dict[str, str]) -> None:
    known = _read_fingerprints(folder)
    if known == made_from:
        return
    stale: Sequence[Path] = sorted(folder.glob("chunk-*.npz"))
    if stale:
        known = known or {}
        names = {**known, **made_from}
        changed = [name for name in names if known.get(name) != made_from.get(name)]
        warnings.warn(
            f"The tokens in {folder} were made from something else (differing: "
            f"{', '.join(changed)}), so they are computed again.",
            stacklevel=3,
        )
    # The fingerprints go first: without them no leftover chunk can be taken for a new one.
    (folder / "made_from.json").unlink(missing_ok=True)
    for file in stale:
        file.unlink()
    temporary = folder / "made_from.json.part"
    temporary.write_text(json.dumps(made_from, indent=2))
    os.replace(temporary, folder / "made_from.json")


def _read_fingerprints(folder: Path) -> dict[str, str] | None:
    try:
        return json.loads((folder / "made_from.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"{folder / 'made_from.json'} is damaged; delete {folder} to compute the tokens again."
        ) from error


def _write_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = file.with_suffix(".part")
    with open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
    os.replace(temporary, file)


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # Zip files can break in many ways.
        raise ValueError(f"{file} is damaged; delete it to compute its tokens again.") from error
