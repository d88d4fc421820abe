"""How much generated values tell of what they were generated from, by the run's own likelihoods.

As CLIPScore (Hessel et al. 2021) asks another network whether picture and caption belong together,
this asks the run itself: log p(given | generated) - log p(given), the pointwise mutual information.
A model is the judge of its own work here, so that numbers compare ways of generating with one run,
and runs only together with what they say of true values and of values of other samples.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from fourm.inference.likelihood import likelihood_of_tokens
from fourm.requests.batching import batches, draw_keys
from fourm.requests.scoring import Scorer
from tokenizers.base import RawBatch

AT_ONCE, NUM_DRAWS = 64, 2
"""Samples that are scored together, and pairs of passes over a grid."""


def measure_information(
    run: Scorer,
    inputs: Mapping[str, RawBatch],
    target: str,
    predicted: RawBatch,
    truth: RawBatch,
    seed: int,
) -> dict[str, Any]:
    """Returns a row, without its inputs: the mean pointwise mutual information in nats.

    A single input that is no grid, such as a caption, is scored given the generated value, which is
    exact of sequences; otherwise the generated value is scored given the inputs. Generated values
    are read by their ids alone. The floor is what values generated for other samples have, the
    ceiling what true ones have.

    Args:
        run: Trained.
        inputs: What was given, raw values by modality.
        target: What was generated.
        predicted: What it became.
        truth: What it should have been.
        seed: Of passes over grids.
    """
    ids = run.tokenize({target: predicted})[target]
    true = run.tokenize({target: truth})[target]
    given, *others = inputs
    is_exact = not others and run.model.space[given].kind != "grid"

    def score(answers: Int[np.ndarray, "batch tokens"]) -> float:
        if is_exact:
            asked = run.tokenize({given: inputs[given]})[given]
            return float(information(run, {target: answers}, given, asked, seed).mean())
        return float(information(run, run.encode_inputs(inputs), target, answers, seed).mean())

    row = {"target": target, "metric": "pmi", "better": "higher"}
    floor = score(np.roll(ids, 1, axis=0))
    return {**row, "floor": floor, "value": score(ids), "ceiling": score(true)}


def information(
    run: Scorer,
    known: Mapping[str, np.ndarray],
    name: str,
    ids: Int[np.ndarray, "batch tokens"],
    seed: int,
) -> Float[np.ndarray, "batch"]:
    """Returns the pointwise mutual information, in nats, of each sample's tokens and what is known.

    Args:
        run: Trained.
        known: What the encoder reads of other modalities, as `encode_inputs` returns it.
        name: The modality that is scored.
        ids: Its tokens.
        seed: Of passes over grids.
    """
    found = []
    for rows, real in batches(len(ids), AT_ONCE):
        own = {other: array[rows] for other, array in known.items()}
        keys = draw_keys(jax.random.key(seed), rows)
        scored = likelihood_of_tokens(run.model, own, name, ids[rows], keys, NUM_DRAWS, True)
        found.append(scored.total[:real])
    return np.concatenate(found)
