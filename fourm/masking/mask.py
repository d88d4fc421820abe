"""Chooses which tokens of a sample are shown and which are to be predicted.

Per sample: draw a mixture component, draw how many tokens each present modality gives
(Dirichlet), choose them (at random in grids, by span corruption in sequences), and pack both
sides into arrays of fixed length. The method is 4M's (Mizrahi et al. 2023, section 3.1;
span corruption: Raffel et al. 2020, section 3.1.4).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fourm.masking import ml4m, ours
from fourm.masking.mixture import MaskingConfig
from fourm.masking.packing import pack_inputs, pack_targets
from fourm.token_space import MaskedBatch, TokenSpace
from tokenizers.base import TokenBatch, described

DESCRIBED = 1
"""Folded into the key of what else is drawn of a sample than its tokens."""
SPLIT = {"ours": ours.split_sample, "ml4m": ml4m.split_sample}


def mask_batch(
    key: Key[Array, ""],
    batch: TokenBatch,
    space: TokenSpace,
    config: MaskingConfig,
) -> MaskedBatch:
    """Splits every sample's tokens into inputs and targets.

    Args:
        key: Folded from the run's seed and the step. The sample's index is folded in here, so
            that the masks depend neither on the batch's composition nor on the devices.
        batch: Tokens of whole samples; absent modalities have `num_real` 0.
        space: Where the modalities live.
        config: The mixture.

    Returns:
        Packed arrays of `config.max_inputs` and `config.max_targets` tokens per sample.
    """
    sample_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
    return jax.vmap(lambda *sample: mask_sample(*sample, space, config))(
        sample_keys, batch.ids, batch.num_real, batch.features or {}
    )


def mask_sample(
    key: Key[Array, ""],
    ids: dict[str, Int[Array, "_"]],
    num_real: dict[str, Int[Array, ""]],
    features: dict[str, Float[Array, "_ _"]],
    space: TokenSpace,
    config: MaskingConfig,
) -> MaskedBatch:
    """Splits one sample's tokens into inputs and targets; see `mask_batch`."""
    split = SPLIT[config.rules](key, ids, num_real, features, space, config)
    inputs = pack_inputs(split.shown, config.max_inputs)
    shown = split.features | describe_some(key, num_real, features, space, config.ids_alone)
    return MaskedBatch(
        inputs._replace(features=shown or None),
        pack_targets(split.asked, config.max_targets),
    )


def describe_some(
    key: Key[Array, ""],
    num_real: dict[str, Int[Array, ""]],
    features: dict[str, Float[Array, "_ _"]],
    space: TokenSpace,
    ids_alone: float,
) -> dict[str, Float[Array, "_ _"]]:
    """Returns what describes the tokens of a sample's grids, NaN where ids are all there is."""
    shown = {}
    for entry in space.ranges:
        name = described(entry.name)
        if entry.feature_width and name in features:
            own_key = jax.random.fold_in(jax.random.fold_in(key, DESCRIBED), entry.index)
            is_shown = jax.random.uniform(own_key) >= ids_alone
            shown[name] = jnp.where(is_shown & (num_real[name] > 0), features[name], jnp.nan)
    return shown
