"""Token stores drawn from together, as if they were one data set."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from data_pipeline.batches import Batches, BatchOrder
from data_pipeline.tokens.records import Layouts, build_layouts
from data_pipeline.tokens.store import TokenStore
from tokenizers.base import TokenBatch, Tokenizer, shown

READERS = 4
"""Threads that read from disk. Of ids alone one would do; pixels are many times as large."""


class TokenMixture:
    """Several token stores with weights.

    Their samples are counted through, one store after the other; `TokenBatch.index` has these
    numbers. A modality that a store does not have is absent from all of its samples.
    """

    def __init__(self, stores: list[TokenStore], weights: tuple[float, ...]):
        """See `open`."""
        self.stores, self.weights = stores, weights
        self._starts = np.cumsum([0, *map(len, stores)])

    @classmethod
    def open(
        cls,
        weights: Mapping[str, float],
        tokenizers: Mapping[str, Tokenizer],
        fingerprints: Mapping[str, str],
    ) -> "TokenMixture":
        """Returns the stores of some folders.

        Args:
            weights: Of each folder, how often it is drawn from, in proportion.
            tokenizers: Of the modalities that batches are to have, in their order.
            fingerprints: `fingerprint_files` of each as it is saved.

        Raises:
            ValueError: If a folder has no complete store, tokens that other tokenizers made, or
                none of the modalities.
        """
        layouts = build_layouts(dict(tokenizers))
        stores = [open_store(folder, tokenizers, fingerprints, layouts) for folder in weights]
        found = {name for store in stores for name in store.index.layouts}
        if augmented := [name for name in tokenizers if shown(name) in found]:
            layouts = build_layouts(dict(tokenizers), augmented)
            stores = [TokenStore(store.folder, store.index, layouts) for store in stores]
        return cls(stores, tuple(weights.values()))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def threads(self) -> int:
        """In how many threads batches should be read: one is enough for what is in memory."""
        return 1 if all(store.is_in_memory for store in self.stores) else READERS

    def order(self, batch_size: int, seed: int) -> BatchOrder:
        """Returns which samples are in the batch of each step."""
        return BatchOrder(tuple(map(len, self.stores)), batch_size, seed, self.weights)

    def batches(
        self, batch_size: int, seed: int, rows: slice, put: Callable[[TokenBatch], TokenBatch]
    ) -> Batches[TokenBatch]:
        """Returns what a training on these tokens reads.

        Args:
            batch_size: Samples of a batch, those of all processes together.
            seed: Of the order.
            rows: Which part of every batch this process reads.
            put: Puts that part on the devices, ahead of its use.
        """
        order = self.order(batch_size, seed)
        return Batches(order, lambda i: put(self.batch(i)), self.keys, rows, self.threads)

    def batch(self, indices: Int[np.ndarray, "batch"]) -> TokenBatch:
        """Returns the tokens of some samples."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        rows, parts = [], []
        for number in np.unique(numbers):
            rows.append(np.flatnonzero(numbers == number))
            parts.append(self.stores[number].batch(indices[rows[-1]] - self._starts[number]))
        if len(parts) == 1:
            batch = parts[0]
        else:
            back = np.argsort(np.concatenate(rows))
            batch = jax.tree.map(lambda *arrays: np.concatenate(arrays)[back], *parts)
        return batch._replace(index=np.asarray(indices, np.int32))

    def keys(self, indices: Int[np.ndarray, "batch"]) -> list[str]:
        """Returns what names some samples: their keys in their data set, or else their indices."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        return [
            self.stores[number].keys(np.array([index - self._starts[number]]))[0]
            for number, index in zip(numbers, indices, strict=True)
        ]

    def marginal_entropy(self) -> dict[str, float]:
        """Returns, per modality with ids, the entropy in nats of its tokens' overall frequencies.

        It is the loss of a model that ignores its input and knows just how common every id is.
        """
        entropy = {}
        wanted = self.stores[0].wanted
        of_inputs = {shown(name) for name in wanted}
        for name in wanted:
            if name in of_inputs:  # Which nobody predicts.
                continue
            # How many of each id a draw brings on average.
            rates = [
                weight / sum(self.weights) * store.index.counts[name] / len(store)
                for store, weight in zip(self.stores, self.weights, strict=True)
                if name in store.index.counts
            ]
            if rates:
                shares = np.sum(rates, axis=0)
                shares = shares[shares > 0] / max(shares.sum(), np.finfo(float).tiny)
                entropy[name] = float(-(shares * np.log(shares)).sum())
        return entropy


def open_store(
    folder: str,
    modalities: Collection[str],
    fingerprints: Mapping[str, str],
    wanted: Layouts | None = None,
) -> TokenStore:
    """Returns the store of a folder, if its tokens are of use to a run.

    Args:
        folder: Where it is.
        modalities: Of the run.
        fingerprints: `fingerprint_files` of each saved tokenizer; others may have made any token.
        wanted: As `TokenStore.open` takes it.

    Raises:
        ValueError: If there is no complete store, or one of tokens that other tokenizers made, or
            of none of the modalities, or if its index does not belong to its shards.
    """
    store = TokenStore.open(Path(folder).expanduser(), wanted)
    made_by = store.index.tokenizers
    shared = [name for name in modalities if name in made_by]
    if not shared:
        raise ValueError(
            f"The tokens in {store.folder} are of {', '.join(made_by)}, of which this run has "
            f"none; its modalities are {', '.join(modalities)}."
        )
    others = [name for name in shared if made_by[name] != fingerprints.get(name, made_by[name])]
    if others:
        raise ValueError(
            f"The tokens in {store.folder} were made by other tokenizers of {', '.join(others)} "
            "than this run has; take the tokenizers they were made by, or make the tokens again."
        )
    store.index.check_plan(store.folder)
    return store
