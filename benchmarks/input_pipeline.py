"""Measures stored tokens on their way to the device: `python -m benchmarks.input_pipeline`.

Modalities with the sizes of 4M-7 (five grids of 196 tokens, a caption, boxes) or of 4M-21 are
written to a token store, then read in shuffled order from disk, moved to the device and masked
there, for so many tokens shown and asked. Prints one line of JSON: samples per second of the whole,
with the next batches read while one is masked, and of each part alone. 4M's masking and collation
does 299 samples/s with 7 modalities and 117 with 21 on four CPU cores, in one process (apple/ml-4m
at cda590f, measured on another machine); it starts from tokens in memory.
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

from configs.published import MORE_OF_21, TOKENS_224
from data_pipeline.batches import BatchIterator, BatchOrder
from data_pipeline.source import Sample
from data_pipeline.token_store import TokenStore
from data_pipeline.token_writer import plan_store, write_tokens
from fourm.masking import MaskingComponent, MaskingConfig, mask_batch
from fourm.token_space import TokenSpace
from tokenizers.base import SequenceTokens, Tokenizer
from tokenizers.codes import Codes, CodeTokenizer
from tokenizers.features import PixelTokenizer

PUBLISHED = {7: 299.0, 21: 117.0}
"""Samples per second of apple/ml-4m."""

SPECIAL = SequenceTokens(end=0, first_sentinel=1, num_sentinels=200)
TEXTS = {"caption": 26, "det": 41, "metadata": 40, "human_poses": 60, "color_palette": 23}
"""Mean lengths of sequences, in tokens."""
GLOBAL = ("tok_dinov2_global", "tok_imagebind_global")
"""Grids of 16 tokens; those of `LARGE` have 256, and all others 196."""
LARGE = ("tok_dinov2@224", "tok_imagebind@224")


def build_tokenizers(modalities: int, with_pixels: bool) -> dict[str, Tokenizer]:
    """Builds what takes and gives ids of the published sizes."""
    names = ["caption", "det", *TOKENS_224, *(MORE_OF_21 if modalities == 21 else ())]
    tokenizers: dict[str, Tokenizer] = {}
    for name in names:
        if name in TEXTS or name == "sam_instance":
            tokenizers[name] = CodeTokenizer(Codes(30_000, (256,), is_sequence=True), SPECIAL)
        else:
            side = 4 if name in GLOBAL else 16 if name in LARGE else 14
            tokenizers[name] = CodeTokenizer(Codes(8192, (side, side)))
    if with_pixels:
        tokenizers["rgb@224"] = PixelTokenizer(224, 16)
    return tokenizers


class RandomSamples:
    """Samples of random tokens."""

    def __init__(self, tokenizers: dict[str, Tokenizer], length: int):
        self._tokenizers, self._length = tokenizers, length
        self._rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        return {name: self._value(name, each) for name, each in self._tokenizers.items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self[index] for index in indices]

    def _value(self, name: str, tokenizer: Any) -> np.ndarray:
        if tokenizer.vocab_size == 0:
            shape = (*tokenizer.picture_size, 3)
            return self._rng.integers(0, 256, shape, np.uint8)
        longest = tokenizer.token_shape
        shape = (TEXTS.get(name, 120),) if tokenizer.special else longest
        return self._rng.integers(201, tokenizer.vocab_size, shape, np.int32)


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
    parser.add_argument("--modalities", type=int, default=7, choices=sorted(PUBLISHED))
    parser.add_argument("--pixels", action="store_true", help="also the pixels of 224 x 224")
    parser.add_argument("--samples", type=int, default=8192, help="samples of the store")
    parser.add_argument("--shards", type=int, default=16, help="files of the store")
    parser.add_argument("--batch", type=int, default=256, help="samples at once")
    parser.add_argument("--budget", type=int, default=128, help="tokens shown, and tokens asked")
    parser.add_argument("--threads", type=int, default=2, help="threads that read ahead")
    parser.add_argument("--repeats", type=int, default=5, help="times that each part is measured")
    arguments = parser.parse_args()

    tokenizers = build_tokenizers(arguments.modalities, arguments.pixels)
    space = TokenSpace.build(tokenizers)
    asked = {name: 0.5 for name, each in tokenizers.items() if each.vocab_size}
    limits = (arguments.budget, arguments.budget)
    config = MaskingConfig(
        (MaskingComponent(dict.fromkeys(tokenizers, 0.5), asked, limits, limits),)
    )
    mask = jax.jit(lambda key, batch: mask_batch(key, batch, space, config))
    batch, steps = arguments.batch, 16
    order = BatchOrder(arguments.samples, batch)
    with tempfile.TemporaryDirectory() as folder:
        samples = RandomSamples(tokenizers, arguments.samples)
        made_by = dict.fromkeys(tokenizers, "")
        plan = plan_store(samples, tokenizers, made_by, {}, arguments.shards)
        write_tokens(samples, tokenizers, Path(folder), plan)
        store = TokenStore.open(Path(folder), in_memory=0)
        size = sum(shard.bytes for shard in store.index.shards) / arguments.samples

        def read() -> None:
            for step in range(steps):
                store.batch(order.indices(step))

        tokens = store.batch(order.indices(0))
        placed = jax.block_until_ready(jax.device_put(tokens))
        key = jax.random.key(0)
        jax.block_until_ready(mask(key, placed))

        def transfer() -> None:
            jax.block_until_ready([jax.device_put(tokens) for _ in range(steps)])

        def mask_alone() -> None:
            for _ in range(steps):
                jax.block_until_ready(mask(key, placed))

        def load(indices: np.ndarray) -> Any:
            return jax.device_put(store.batch(indices))

        with BatchIterator(order, load, ahead=4, threads=arguments.threads) as batches:

            def whole() -> None:
                for _ in range(steps):
                    jax.block_until_ready(mask(key, next(batches)))

            whole()
            count = steps * batch
            rates = {
                "samples_per_second": rate(count, whole, arguments.repeats),
                "read_alone": rate(count, read, arguments.repeats),
                "transfer_alone": rate(count, transfer, arguments.repeats),
                "masking_alone": rate(count, mask_alone, arguments.repeats),
            }
    published = None if arguments.pixels else PUBLISHED[arguments.modalities]
    result = {
        "benchmark": "input_pipeline",
        **rates,
        "published_samples_per_second": published,
        "times_as_fast": published and round(rates["samples_per_second"] / published, 1),
        "modalities": len(tokenizers),
        "batch": batch,
        "budget": arguments.budget,
        "shards": arguments.shards,
        "threads": arguments.threads,
        "bytes_per_sample": round(size),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
