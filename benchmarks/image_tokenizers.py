"""Trains image tokenizers on the built-in scenes: `python -m benchmarks.image_tokenizers`.

Prints one line of JSON per modality and seed: the round trip of held-out scenes beside its
floor, the health of the codebook, and the seconds it took. Any setting of the tokenizers can be
given, as in `--steps 800 --distance cosine`. Quantisers are compared at the same time and seeds by
`--compare vq simvq fsq ifsq --seconds 30 --seeds 0 1 2`.
"""

import dataclasses
import itertools
import json
import os
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image

from data_pipeline.sources.scenes.data import SEMSEG_CLASSES, ScenesData
from fourm.devices.layout import Layout
from fourm.training.train_state import (
    OptimizerConfig,
    build_optimizer,
    create_state,
    make_train_step,
    merge_state,
)
from tokenizers.images.patch_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizers.images.quantizers import diversity
from tokenizers.process.huge_pages import restart_with_huge_pages
from tokenizers.values import Classes, Colors, DenseValues, Directions, Distances

VALUES: dict[str, DenseValues] = {
    "rgb": Colors(),
    "depth": Distances(min_distance=2.0, max_distance=20.0),
    "normals": Directions(),
    "semseg": Classes(SEMSEG_CLASSES),
}

QUANTIZERS: dict[str, dict[str, str]] = {
    "vq": {"quantizer": "vq"},
    "simvq": {"quantizer": "simvq"},
    "fsq": {"quantizer": "fsq", "bounding": "tanh"},
    "ifsq": {"quantizer": "fsq", "bounding": "sigmoid"},
}
TIMED_STEPS = 50
"""By which it is measured how many steps fit into the time given."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Which tokenizers to train, and on what."""

    modalities: tuple[str, ...] = tuple(VALUES)
    """Those of the scenes to train a tokenizer for."""
    codebook_sizes: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"rgb": 2048, "depth": 256, "normals": 256, "semseg": 256}
    )
    """Number of codes of each modality, which goes before --codebook-size."""
    train: int = 8000
    """Training scenes."""
    held_out: int = 512
    """Scenes of the validation split for the round trip."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    compare: tuple[Literal["vq", "simvq", "fsq", "ifsq"], ...] = ()
    """Quantisers to train one tokenizer with each, in place of --quantizer and --bounding."""
    seconds: float = 0.0
    """For how long each is trained, compilation left out, in place of --steps; 0 for --steps. True
    only where nothing else runs, since the first steps tell how many fit."""
    pictures: Path | None = None
    """Where to write a PNG of truths over reconstructions."""
    tokenizer: tyro.conf.OmitArgPrefixes[ImageTokenizerConfig] = dataclasses.field(
        default_factory=ImageTokenizerConfig
    )
    """Settings of all tokenizers."""


def load(split: str, count: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the first `count` scenes of a split, per modality."""
    source = ScenesData(num_train=count, num_validation=count).open(split)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for start in range(0, count, 1024):
        for sample in source.__getitems__(range(start, min(start + 1024, count))):
            for name in names:
                parts[name].append(sample[name])
    return {name: np.stack(values) for name, values in parts.items()}


def train(
    config: ImageTokenizerConfig, values: DenseValues, raw: np.ndarray, seed: int
) -> tuple[ImageTokenizer, dict[str, float]]:
    """Returns a trained tokenizer, and the seconds up to and after its first step."""
    start = time.perf_counter()
    tokenizer = config.fit(values, raw, jax.random.key(seed))
    layout = Layout.single()
    optimizer = build_optimizer(
        OptimizerConfig(
            learning_rate=config.learning_rate,
            warmup_steps=config.steps // 20,
            weight_decay=config.weight_decay,
        ),
        config.steps,
        layout,
    )
    _, state = create_state(tokenizer, optimizer, layout)
    step = make_train_step(
        tokenizer,
        lambda model, batch, key: model.loss(batch, key),
        optimizer,
        layout,
        average_decay=0.99,
    )
    rng = np.random.default_rng(seed)
    order = np.concatenate(
        [rng.permutation(len(raw)) for _ in range(config.steps * config.batch_size // len(raw) + 1)]
    )
    for number in range(config.steps):
        chosen = order[number * config.batch_size :][: config.batch_size]
        state, metrics = step(state, jnp.asarray(raw[chosen]), jax.random.key(seed))
        if number == 0:
            jax.block_until_ready(metrics)
            first = time.perf_counter()
    jax.block_until_ready(state)
    merge_state(tokenizer, state)
    return tokenizer, {
        "seconds_to_first_step": first - start,
        "seconds": time.perf_counter() - start,
    }


def fit_steps(
    config: ImageTokenizerConfig, values: DenseValues, raw: np.ndarray, seconds: float
) -> ImageTokenizerConfig:
    """Returns settings with as many steps as fit into `seconds`, by the time of the first few."""
    _, taken = train(dataclasses.replace(config, steps=TIMED_STEPS), values, raw, 0)
    step = (taken["seconds"] - taken["seconds_to_first_step"]) / (TIMED_STEPS - 1)
    return dataclasses.replace(config, steps=max(1, int(seconds / step)))


def main(options: Options) -> None:
    training = load("train", options.train, options.modalities)
    held_out = load("validation", options.held_out, options.modalities)
    rows = []
    for name in options.modalities:
        values, truth = VALUES[name], held_out[name]
        size = options.codebook_sizes.get(name, options.tokenizer.codebook_size)
        config = dataclasses.replace(options.tokenizer, codebook_size=size)
        floors = {
            constant: values.floor(training[name], truth, constant=constant)
            for constant in ("picture", "value")
        }
        configs = [dataclasses.replace(config, **QUANTIZERS[each]) for each in options.compare]
        configs = configs or [config]
        if options.seconds:
            configs = [fit_steps(each, values, training[name], options.seconds) for each in configs]
        for config, seed in itertools.product(configs, options.seeds):
            tokenizer, seconds = train(config, values, training[name], seed)
            ids = tokenizer.encode(truth)
            decoded = tokenizer.decode(ids)
            scores = values.score(decoded, truth)
            metric, better = next(iter(values.metrics.items()))
            counts = jnp.asarray(np.bincount(ids.ravel(), minlength=tokenizer.vocab_size))
            health = {k: round(float(v), 3) for k, v in diversity(counts * 1.0).items()}
            result = {
                "benchmark": "image_tokenizers",
                "modality": name,
                "seed": seed,
                "quantizer": config.quantizer,
                "bounding": config.bounding if config.quantizer == "fsq" else None,
                "metric": metric,
                "better": better,
                "value": round(scores[metric], 4),
                "floor": round(floors["picture"][metric], 4),
                "floor_of_one_value": round(floors["value"][metric], 4),
                "scores": {k: round(v, 4) for k, v in scores.items()},
                "codes": tokenizer.vocab_size,
                **health,
                **{k: round(v, 1) for k, v in seconds.items()},
                "steps": config.steps,
                "train": options.train,
                "cores": len(os.sched_getaffinity(0)),
                "device": jax.devices()[0].device_kind,
            }
            print(json.dumps(result), flush=True)
        for row in (truth[:8], decoded[:8]):
            rows.append(np.concatenate([values.draw(value, (128, 128)) for value in row], axis=1))
    if options.pictures:
        Image.fromarray(np.concatenate(rows)).save(options.pictures)


if __name__ == "__main__":
    restart_with_huge_pages()
    main(tyro.cli(Options, description=__doc__))
