"""Rivals that take longer than a report may: a U-Net on raw pixels, trees on coarse pictures.

Both predict one picture from another, from the training samples that a run keeps.
"""

import itertools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from fourm.evaluation.results import Pair
from fourm.run_directory.sample_set import TRAINING, SampleSet, load_heldout
from tokenizers.modality import load_tokenizer
from tokenizers.spread import evenly_spread
from tokenizers.storage.run_paths import TOKENIZERS
from tokenizers.values.dense import DenseValues

WIDTHS = (32, 64, 128)
"""Channels of the U-Net, at full, half and quarter resolution."""
BATCH, LEARNING_RATE = 16, 2e-3
"""Of its training by AdamW; the rate falls to 0 by a cosine of the time."""
COARSE, COARSE_SAMPLES = 16, 600
"""Side of the pictures that trees read and write, and how many they learn from."""


def measure_rivals(
    folder: Path, pairs: tuple[str, ...], seconds: float, split: str = "test"
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns scores by direction and rival, of directions from one picture to another.

    Args:
        folder: A finished run, whose samples are taken.
        pairs: Directions; others than from picture to picture are passed over.
        seconds: That the U-Net trains.
        split: On which they are scored.
    """
    training, heldout = load_heldout(folder, TRAINING), load_heldout(folder, split)
    found = {}
    for text in pairs:
        pair = Pair.parse(text)
        names = (*pair.inputs, pair.target)
        kinds = [load_tokenizer(folder / TOKENIZERS / name).values for name in names]
        if len(kinds) != 2 or not all(isinstance(kind, DenseValues) for kind in kinds):
            continue
        (seen, known), (shown, truth) = (_take(each, names) for each in (training, heldout))
        if seen.shape[1:3] != known.shape[1:3]:
            continue
        task = seen, known, shown, kinds[0], kinds[1]
        answers = {"unet": answer_by_unet(*task, seconds), "trees": answer_by_trees(*task)}
        found[text] = {name: kinds[1].score(given, truth) for name, given in answers.items()}
    return found


def _take(samples: SampleSet, names: tuple[str, ...]) -> list[np.ndarray]:
    rows = samples.rows(list(names))
    return [np.asarray(samples.take(name, rows)) for name in names]


class Block(nnx.Module):
    """Two convolutions of 3 x 3, each normalised."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.first = nnx.Conv(inputs, outputs, (3, 3), rngs=rngs)
        self.second = nnx.Conv(outputs, outputs, (3, 3), rngs=rngs)
        self.norms = nnx.List([nnx.GroupNorm(outputs, num_groups=8, rngs=rngs) for _ in range(2)])

    def __call__(self, x: Float[Array, "batch y x inputs"]) -> Float[Array, "batch y x outputs"]:
        x = nnx.silu(self.norms[0](self.first(x)))
        return nnx.silu(self.norms[1](self.second(x)))


class UNet(nnx.Module):
    """A small U-Net (Ronneberger et al. 2015); height and width must be divisible by 4."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        ins = (inputs, *WIDTHS[:-1])
        self.down = nnx.List([Block(a, b, rngs) for a, b in zip(ins, WIDTHS, strict=True)])
        pairs = list(itertools.pairwise(WIDTHS))
        self.up = nnx.List([Block(fine + coarse, fine, rngs) for fine, coarse in pairs])
        self.head = nnx.Conv(WIDTHS[0], outputs, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "batch y x inputs"]) -> Float[Array, "batch y x outputs"]:
        kept = []
        for level, block in enumerate(self.down):
            x = block(nnx.avg_pool(x, (2, 2), (2, 2)) if level else x)
            kept.append(x)
        x = kept.pop()
        for block in reversed(list(self.up)):
            finer = x.repeat(2, axis=1).repeat(2, axis=2)
            x = block(jnp.concatenate([kept.pop(), finer], axis=-1))
        return self.head(x)


def answer_by_unet(
    seen: np.ndarray,
    known: np.ndarray,
    shown: np.ndarray,
    inputs: DenseValues,
    target: DenseValues,
    seconds: float,
    seed: int = 0,
) -> np.ndarray:
    """Trains a U-Net for some seconds, compiling not included, and returns its answers.

    Args:
        seen: Raw inputs of training samples.
        known: Raw targets of these.
        shown: Raw inputs to answer.
        inputs: What the inputs mean.
        target: What the targets mean.
        seconds: Of training.
        seed: Of weights and order.
    """
    read = {name: jnp.asarray(v) for name, v in inputs.fit_statistics(seen).items()}
    written = {name: jnp.asarray(v) for name, v in target.fit_statistics(known).items()}
    model = UNet(inputs.num_inputs, target.num_outputs, nnx.Rngs(seed))
    graph, params = nnx.split(model, nnx.Param)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, weight_decay=1e-2))

    def loss(params, raw, truth):
        answer = nnx.merge(graph, params)(inputs.normalize(raw, read))
        return target.loss(answer, truth, written)

    @jax.jit
    def step(params, state, raw, truth, rate):
        updates, state = optimizer.update(jax.grad(loss)(params, raw, truth), state, params)
        updates = jax.tree.map(lambda update: rate * update, updates)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def answer(params, raw):
        found = nnx.merge(graph, params)(inputs.normalize(raw, read))
        return target.denormalize(found, written)

    state, random, start = optimizer.init(params), np.random.default_rng(seed), 0.0
    share = 0.0
    while share < 1:
        rows = random.integers(0, len(seen), BATCH)
        rate = LEARNING_RATE * np.cos(np.pi / 2 * share)
        params, state = step(params, state, seen[rows], known[rows], rate)
        jax.block_until_ready(params)
        start = start or time.monotonic()  # The first step compiles.
        share = (time.monotonic() - start) / max(seconds, 1e-9)
    parts = [shown[i : i + BATCH] for i in range(0, len(shown), BATCH)]
    return np.concatenate([np.asarray(answer(params, part)) for part in parts])


def answer_by_trees(
    seen: np.ndarray,
    known: np.ndarray,
    shown: np.ndarray,
    inputs: DenseValues,
    target: DenseValues,
) -> np.ndarray:
    """Returns what extremely randomised trees make of whole pictures of 16 x 16 pixels; the
    arguments are those of `answer_by_unet`."""
    from sklearn.ensemble import ExtraTreesRegressor

    few = evenly_spread(len(seen), COARSE_SAMPLES)
    seen, known = seen[few], known[few]
    read, written = inputs.fit_statistics(seen), target.fit_statistics(known)
    side = known.shape[1]

    def coarse(pictures: np.ndarray) -> np.ndarray:
        return np.asarray(_shrink(jnp.nan_to_num(pictures)).reshape(len(pictures), -1))

    train, test = (coarse(inputs.normalize(jnp.asarray(raw), read)) for raw in (seen, shown))
    answers = coarse(target.target_output(jnp.asarray(known), written))
    trees = ExtraTreesRegressor(20, min_samples_leaf=3, max_features=0.1, n_jobs=-1, random_state=0)
    found = trees.fit(train, answers).predict(test).astype(np.float32)
    pictures = jnp.asarray(found).reshape(len(found), COARSE, COARSE, -1)
    fine = jax.image.resize(pictures, (len(found), side, side, pictures.shape[-1]), "linear")
    return np.asarray(target.denormalize(fine, written))


@jax.jit
def _shrink(pictures: Float[Array, "batch y x c"]) -> Float[Array, "batch {COARSE} {COARSE} c"]:
    return jax.image.resize(
        pictures, (len(pictures), COARSE, COARSE, pictures.shape[-1]), "linear", antialias=True
    )
