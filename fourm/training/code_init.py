"""Tables that start from what tokenizers know of their ids."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from fourm.model.transformer import FourM


def initialize_from_codes(
    model: FourM,
    features: Mapping[str, Float[np.ndarray, "vocab features"]],
    key: Key[Array, ""],
    share: float = 0.8,
) -> None:
    """Starts the rows of ids that mean alike near each other, in all tables.

    Args:
        model: Changed in place.
        features: Per modality, what its tokenizer's `code_features` returns.
        key: Of the random projections from features to rows.
        share: How much of a row's variance comes from the features; the rest tells ids apart.
    """
    tables = [(model.input_table, model.config.embedding_std), (model.output_table, 0.05)]
    if model.previous_table is not None:
        tables.append((model.previous_table, model.config.embedding_std))
    for table, std in tables:
        key, table_key = jax.random.split(key)
        for name, rows in features.items():
            entry = model.space[name]
            row_key, noise_key = jax.random.split(jax.random.fold_in(table_key, entry.index))
            is_known = (rows != 0).any(1)
            known = rows[is_known]
            known = (known - known.mean(0)) / np.maximum(known.std(0), 1e-6)
            projection = jax.random.normal(row_key, (known.shape[1], model.config.dim))
            meaning = jnp.asarray(known, jnp.float32) @ projection / math.sqrt(known.shape[1])
            noise = jax.random.normal(noise_key, meaning.shape)
            ids = entry.first_id + np.flatnonzero(is_known)
            mixed = math.sqrt(share) * meaning + math.sqrt(1 - share) * noise
            table[...] = table[...].at[ids].set(std * mixed)
