"""Times the way from stored tokens to masked batches: `python -m benchmarks.input_pipeline`.

Tokens of published sizes are written to a token store, then read in shuffled order, moved to the
device and masked there, the next batches being read meanwhile. The store is in the page cache, as
files just written are. Prints one line of JSON, which also has each part alone. ml-4m's masking and
collation, which starts from tokens in memory, does 299 samples/s with 7 modalities and 117 with 21
on four CPU cores, in one process (apple/ml-4m at cda590f, measured on another machine).
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks.measure import print_line, summarize, time_calls
from benchmarks.workloads import Modalities, build_mixture, build_workload, draw_tokens
from data_pipeline.batches import BatchIterator, BatchOrder
from data_pipeline.sources.source import Sample
from data_pipeline.tokens.store import TokenStore
from data_pipeline.tokens.writer import plan_store, write_tokens
from fourm.interop.import_run import codes_tokenizer_for
from fourm.masking.mask import mask_batch
from fourm.token_space import TokenRange, TokenSpace
from tokenizers.base import TokenBatch
from tokenizers.process.huge_pages import restart_with_huge_pages

PUBLISHED: dict[Modalities, float] = {"7": 299.0, "21": 117.0}
"""Samples per second of apple/ml-4m."""
STEPS = 16
"""Batches that are timed together."""
DIFFERENT = 256
"""Different samples; the store holds them again and again."""


@dataclass(frozen=True)
class InputPipeline:
    """What to read and to mask."""

    modalities: Modalities = "7"
    """Those of 4M-7 or 4M-21 that have tokens: 7 or 17."""
    features: bool = False
    """Also those that are only ever read: pixels, T5 embeddings."""
    batch: int = 256
    """Samples at once."""
    budget: int = 128
    """Tokens shown, and tokens asked."""
    samples: int = 8192
    """Samples of the store."""
    shards: int = 16
    """Files of the store."""
    threads: int = 4
    """Batches that are read at the same time."""
    repeats: int = 10
    """Times that 16 batches are timed."""


class RandomSamples:
    """Samples of random tokens, as the stand-ins for tokenizers take them."""

    def __init__(self, space: TokenSpace, length: int):
        self._space, self._length = space, length
        self._tokens: TokenBatch = jax.device_get(draw_tokens(space, DIFFERENT))
        self._rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        return {each.name: self._value(each, index % DIFFERENT) for each in self._space.ranges}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self[index] for index in indices]

    def _value(self, entry: TokenRange, row: int) -> np.ndarray:
        count = self._tokens.num_real[entry.name][row]
        match entry.kind, len(entry.token_shape):
            case "sequence", _:
                return self._tokens.ids[entry.name][row][:count]
            case "grid", _:
                return self._tokens.ids[entry.name][row].reshape(entry.token_shape)
            case _, 1:
                return self._tokens.features[entry.name][row][:count]
            case _:  # Pixels, which a store keeps as they are.
                side = entry.token_shape[0] * round((entry.feature_width / 3) ** 0.5)
                return self._rng.integers(0, 256, (side, side, 3), np.uint8)


def run(config: InputPipeline) -> dict[str, Any]:
    """Returns the figures."""
    space, _ = build_workload(modalities=config.modalities, features=config.features)
    mixture = build_mixture(space, config.budget)
    mask = jax.jit(partial(mask_batch, space=space, config=mixture))
    key = jax.random.key(0)
    order = BatchOrder(config.samples, config.batch)
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder), space, config)

        def load(indices: np.ndarray) -> TokenBatch:
            return jax.device_put(store.batch(indices))

        tokens = store.batch(order.indices(0))
        placed = jax.device_put(tokens)

        def times(call: Callable[[int], Any]) -> dict[str, float]:
            return summarize(
                time_calls(
                    lambda: [jax.block_until_ready(call(step)) for step in range(STEPS)],
                    config.repeats,
                ),
                STEPS * config.batch,
            )

        with BatchIterator(order, load, threads=config.threads) as batches:
            whole = times(lambda step: mask(key, next(batches)))
        parts = {
            "read": times(lambda step: store.batch(order.indices(step)).index),
            "transfer": times(lambda step: jax.device_put(tokens)),
            "mask": times(lambda step: mask(key, placed)),
        }
        stored = sum(shard.bytes for shard in store.index.shards)
    figures = whole | {
        f"{name}_samples_per_second": part["samples_per_second"] for name, part in parts.items()
    }
    if not config.features:
        figures["ml4m_samples_per_second"] = PUBLISHED[config.modalities]
        ratio = whole["samples_per_second"] / PUBLISHED[config.modalities]
        figures["times_as_fast"] = round(ratio, 1)
    return figures | {"bytes_per_sample": round(stored / config.samples)}


def write_store(folder: Path, space: TokenSpace, config: InputPipeline) -> TokenStore:
    """Writes random tokens, and opens them to be read from disk."""
    tokenizers = {entry.name: codes_tokenizer_for(entry) for entry in space.ranges}
    samples = RandomSamples(space, config.samples)
    plan = plan_store(samples, tokenizers, dict.fromkeys(tokenizers, ""), {}, config.shards)
    write_tokens(samples, tokenizers, folder, plan)
    return TokenStore.open(folder, in_memory=0)


if __name__ == "__main__":
    restart_with_huge_pages()
    options = tyro.cli(InputPipeline, description=__doc__)
    print_line("input_pipeline", asdict(options), run(options))
