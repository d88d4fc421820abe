"""Measures stored tokens on their way to the device: `python -m benchmarks.input_pipeline`.

Tokens of the sizes of 4M-7 or 4M-21 are written to a store, then read in shuffled order from disk,
moved to the device and masked there, 128 shown and 128 asked. Prints one line of JSON: samples per
second of the whole, the next batches being read while one is masked, and of each part alone. The
store is read from the page cache, not from a cold disk. ml-4m's masking and collation, which starts
from tokens in memory, does 299 samples/s with 7 modalities and 117 with 21 on four CPU cores, in
one process (apple/ml-4m at cda590f, measured on another machine).
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs.published import fourm_b
from data_pipeline.batches import BatchIterator, BatchOrder
from data_pipeline.source import Sample
from data_pipeline.token_store import TokenStore
from data_pipeline.token_writer import plan_store, write_tokens
from fourm.interop.fm_config import build_space, complete_config
from fourm.interop.import_run import stand_in
from fourm.masking import MaskingComponent, MaskingConfig, mask_batch
from fourm.streams import can_be_asked
from fourm.token_space import TokenRange, TokenSpace

PUBLISHED = {"7": 299.0, "21": 117.0}
"""Samples per second of apple/ml-4m."""
MEAN_LENGTHS = {"caption": 26, "det": 41}
"""Mean tokens of texts in 4M's data; other sequences are taken as full."""
STEPS = 16
"""Batches that are timed together."""


class RandomSamples:
    """Samples of random tokens, none of them lacking a modality."""

    def __init__(self, space: TokenSpace, length: int):
        self._space, self._length = space, length
        self._rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        return {entry.name: self._value(entry) for entry in self._space.ranges}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self[index] for index in indices]

    def _value(self, entry: TokenRange) -> np.ndarray:
        length = MEAN_LENGTHS.get(entry.name, entry.num_tokens)
        match entry.kind, len(entry.token_shape):
            case "sequence", _:  # Past the ids that have a role.
                return self._rng.integers(256, entry.vocab_size, length, np.int32)
            case "grid", _:
                return self._rng.integers(0, entry.vocab_size, entry.token_shape, np.int32)
            case "features", 1:
                return self._rng.normal(size=(length, entry.feature_width)).astype(np.float32)
            case _:
                side = entry.token_shape[0] * round((entry.feature_width / 3) ** 0.5)
                return self._rng.integers(0, 256, (side, side, 3), np.uint8)


def rate(samples: int, work: Callable[[], Any], repeats: int) -> float:
    """Returns samples per second: those of the median of several repetitions."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(samples / float(np.median(times)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modalities", default="7", choices=PUBLISHED)
    parser.add_argument("--features", action="store_true", help="also pixels and T5 embeddings")
    parser.add_argument("--samples", type=int, default=8192, help="samples of the store")
    parser.add_argument("--shards", type=int, default=16, help="files of the store")
    parser.add_argument("--batch", type=int, default=256, help="samples at once")
    parser.add_argument("--budget", type=int, default=128, help="tokens shown, and tokens asked")
    parser.add_argument("--threads", type=int, default=2, help="threads that read ahead")
    parser.add_argument("--repeats", type=int, default=5, help="times that each part is measured")
    arguments = parser.parse_args()

    entries = build_space(complete_config(fourm_b(arguments.modalities)), {}).ranges
    tokenizers = {
        entry.name: stand_in(entry)
        for entry in entries
        if arguments.features or entry.kind != "features"
    }
    space = TokenSpace.build(tokenizers)
    limits = (arguments.budget, arguments.budget)
    component = MaskingComponent(
        inputs=dict.fromkeys(space.names, 0.5),
        targets={entry.name: 0.5 for entry in space.ranges if can_be_asked(entry)},
        num_inputs=limits,
        num_targets=limits,
    )
    mask = jax.jit(lambda key, batch: mask_batch(key, batch, space, MaskingConfig((component,))))
    order = BatchOrder(arguments.samples, arguments.batch)
    with tempfile.TemporaryDirectory() as folder:
        samples = RandomSamples(space, arguments.samples)
        plan = plan_store(samples, tokenizers, dict.fromkeys(tokenizers, ""), {}, arguments.shards)
        write_tokens(samples, tokenizers, Path(folder), plan)
        store = TokenStore.open(Path(folder), in_memory=0)

        def read() -> None:
            for step in range(STEPS):
                store.batch(order.indices(step))

        tokens = store.batch(order.indices(0))
        placed = jax.block_until_ready(jax.device_put(tokens))
        key = jax.random.key(0)
        jax.block_until_ready(mask(key, placed))

        def transfer() -> None:
            jax.block_until_ready([jax.device_put(tokens) for _ in range(STEPS)])

        def mask_alone() -> None:
            for _ in range(STEPS):
                jax.block_until_ready(mask(key, placed))

        def load(indices: np.ndarray) -> Any:
            return jax.device_put(store.batch(indices))

        with BatchIterator(order, load, ahead=4, threads=arguments.threads) as batches:

            def whole() -> None:
                for _ in range(STEPS):
                    jax.block_until_ready(mask(key, next(batches)))

            whole()
            parts = {
                "samples_per_second": whole,
                "read_alone": read,
                "transfer_alone": transfer,
                "masking_alone": mask_alone,
            }
            count = STEPS * arguments.batch
            rates = {name: rate(count, part, arguments.repeats) for name, part in parts.items()}
        stored = sum(shard.bytes for shard in store.index.shards)
    published = None if arguments.features else PUBLISHED[arguments.modalities]
    result = {
        "benchmark": "input_pipeline",
        **rates,
        "published_samples_per_second": published,
        "times_as_fast": published and round(rates["samples_per_second"] / published, 1),
        "modalities": arguments.modalities,
        "with_tokens_or_features": len(tokenizers),
        "batch": arguments.batch,
        "budget": arguments.budget,
        "shards": arguments.shards,
        "threads": arguments.threads,
        "bytes_per_sample": round(stored / arguments.samples),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
