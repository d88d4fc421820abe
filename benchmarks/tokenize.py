"""Measures how fast a data set is turned into tokens: `python -m benchmarks.tokenize`.

The built-in scenes go through the tokenizers of the `scenes` preset, untrained (training changes no
shape), and into a token store. Prints one line of JSON: samples per second of the whole, and of
each part alone.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from configs.scenes import scenes
from data_pipeline.token_records import build_layouts, pack_record
from data_pipeline.token_writer import CHUNK, encode, plan_store, write_tokens
from fourm.sample_set import SampleSet


class Kept:
    """Samples that were read before."""

    def __init__(self, samples: list):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict:
        return self._samples[index]

    def __getitems__(self, indices) -> list[dict]:
        return [self._samples[index] for index in indices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=4 * CHUNK, help="samples to be encoded")
    arguments = parser.parse_args()

    config = scenes()
    values = {name: modality.values for name, modality in config.modalities.items()}
    data = config.data.open("train")
    source = config.crops.apply(data, values, config.sizes, config.seed, with_views=True)
    some = SampleSet.collect(source.__getitems__(list(range(256))), list(values))
    tokenizers = {
        name: modality.tokenizer.fit(modality.values, some.take(name, some.rows([name])), key)
        for (name, modality), key in zip(
            config.modalities.items(), jax.random.split(jax.random.key(0), len(values)), strict=True
        )
    }

    def seconds(work) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def encode_all(samples: list[dict]) -> dict[str, list[np.ndarray]]:
        keys = [""] * len(samples)
        return {
            name: encode(each, name, [sample[name] for sample in samples], keys)
            for name, each in tokenizers.items()
        }

    def pack_all() -> None:
        for row in range(CHUNK):
            pack_record(str(row), {name: rows[row] for name, rows in tokens.items()}, layouts)

    layouts = build_layouts(tokenizers)
    samples = source.__getitems__(list(range(CHUNK)))
    encode_all(samples)  # Compiles.
    reading = seconds(lambda: source.__getitems__(list(range(CHUNK, 2 * CHUNK))))
    encoding = seconds(lambda: encode_all(samples))
    tokens = encode_all(samples)
    packing = seconds(pack_all)
    count = min(arguments.samples, len(source))
    kept = Kept(samples * (count // CHUNK))
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_store(kept, tokenizers, dict.fromkeys(tokenizers, ""), {})
        writing = seconds(lambda: write_tokens(kept, tokenizers, Path(folder), plan))
    whole = writing / len(kept) + reading / CHUNK
    result = {
        "benchmark": "tokenize",
        "samples_per_second": round(1 / whole, 1),
        "reading_alone": round(CHUNK / reading, 1),
        "encoding_alone": round(CHUNK / encoding, 1),
        "packing_alone": round(CHUNK / packing, 1),
        "modalities": len(tokenizers),
        "samples": len(kept),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
