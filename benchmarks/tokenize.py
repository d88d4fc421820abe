"""Times turning a data set into tokens: `python -m benchmarks.tokenize`.

The built-in scenes go through the tokenizers of the `scenes` preset, untrained (training changes no
shape), and into a token store, in one process. Prints one line of JSON, which also has each part
alone.
"""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks.measure import print_line, time_call
from configs.presets.scenes import scenes
from data_pipeline.tokens.records import build_layouts, pack_record
from data_pipeline.tokens.writer import encode_samples, plan_store, write_tokens
from fourm.run_directory.sample_set import SampleSet
from tokenizers.process.huge_pages import restart_with_huge_pages


@dataclass(frozen=True)
class Tokenize:
    """How much to encode."""

    samples: int = 2048
    """Samples of the store."""
    fitted_to: int = 256
    """Samples that tokenizers are fitted to."""


def run(config: Tokenize) -> dict[str, Any]:
    """Returns the figures."""
    preset = scenes()
    data = replace(preset.data, num_train=config.samples).open("train")
    values = {name: modality.values for name, modality in preset.modalities.items()}
    source = preset.crops.apply(data, values, preset.sizes, preset.seed, with_views=True)
    some = SampleSet.collect(source.__getitems__(list(range(config.fitted_to))), list(values))
    tokenizers = {
        name: modality.tokenizer.fit(modality.values, some.take(name, some.rows([name])), key)
        for (name, modality), key in zip(
            preset.modalities.items(), jax.random.split(jax.random.key(0), len(values)), strict=True
        )
    }

    def encode_all(samples: list[dict]) -> list[dict]:
        return encode_samples(tokenizers, samples, [""] * len(samples))

    def pack_all(tokens: list[dict]) -> list[bytes]:
        return [pack_record(str(row), own, layouts) for row, own in enumerate(tokens)]

    everything = list(range(config.samples))
    layouts = build_layouts(tokenizers)
    samples = source.__getitems__(everything)
    tokens = encode_all(samples)  # Compiles what the parts and the whole use.
    seconds = {
        "read": time_call(lambda: len(source.__getitems__(everything))),
        "encode": time_call(lambda: len(encode_all(samples))),
        "pack": time_call(lambda: len(pack_all(tokens))),
    }
    plan = plan_store(source, tokenizers, dict.fromkeys(tokenizers, ""), {})
    with tempfile.TemporaryDirectory() as folder:
        whole = time_call(lambda: write_tokens(source, tokenizers, Path(folder), plan))
    return {
        "samples_per_second": round(config.samples / whole, 1),
        **{
            f"{name}_samples_per_second": round(config.samples / each, 1)
            for name, each in seconds.items()
        },
        "modalities": len(tokenizers),
    }


if __name__ == "__main__":
    restart_with_huge_pages()
    options = tyro.cli(Tokenize, description=__doc__)
    print_line("tokenize", asdict(options), run(options))
