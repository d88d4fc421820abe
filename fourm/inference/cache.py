"""The decoder one token at a time: keys and values are kept instead of computed again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fourm.model.transformer import FourM, pad_registers
from fourm.token_space import TokenRange


class DecoderCache(NamedTuple):
    """Keys and values of every decoder layer.

    Attributes:
        keys: Of the tokens decoded so far; what follows them is unused.
        values: Likewise.
        context_keys: Of the encoder's output, projected once.
        context_values: Likewise.
        is_real: Which of the encoder's outputs may be attended to.
    """

    keys: Float[Array, "layers batch t heads k"]
    values: Float[Array, "layers batch t heads k"]
    context_keys: Float[Array, "layers batch c heads k"]
    context_values: Float[Array, "layers batch c heads k"]
    is_real: Bool[Array, "batch c"]


def start_cache(
    model: FourM,
    context: Float[Array, "batch c dim"],
    is_real: Bool[Array, "batch n"],
    length: int,
) -> DecoderCache:
    """Projects the encoder's output for all layers and makes room for `length` tokens."""

    def project(layer, carry, _):
        return carry, layer.project_context(context)

    _, (context_keys, context_values) = model.decoder.scan(project, None)
    layers, batch, _, heads, head_dim = context_keys.shape
    empty = jnp.zeros((layers, batch, length, heads, head_dim), context_keys.dtype)
    is_real = pad_registers(is_real, context.shape[1] - is_real.shape[1])
    return DecoderCache(empty, empty, context_keys, context_values, is_real)


def decode_next(
    model: FourM,
    previous: Int[Array, "batch"],
    place: Int[Array, ""],
    entry: TokenRange,
    cache: DecoderCache,
) -> tuple[Float[Array, "batch 1 dim"], DecoderCache]:
    """Returns the features that predict the token after `previous`.

    Equals the last row of `FourM.decode` over the whole stream up to here.

    Args:
        previous: Shared id of the preceding token; at place 0 the sentinel that opens the stream.
        place: Its index in the stream.
        entry: The sequence's range.
        cache: Of the tokens before it.
    """
    previous = previous[:, None]
    modality = jnp.full_like(previous, entry.index)
    position = jnp.broadcast_to(place + entry.first_position, previous.shape)
    x = model.embed_previous(previous) + model.place_targets(modality, position)
    batch, length = cache.keys.shape[1:3]
    can_attend = jnp.broadcast_to(jnp.arange(length) <= place, (batch, 1, length))
    can_attend_context = cache.is_real[:, None, :]

    def apply_layer(layer, x, share):
        keys, values, *about_context = share
        normed = layer.norm1(x)
        new_keys, new_values = layer.self_attention.keys_and_values(normed)
        keys = jax.lax.dynamic_update_slice_in_dim(keys, new_keys, place, axis=1)
        values = jax.lax.dynamic_update_slice_in_dim(values, new_values, place, axis=1)
        x = layer.attend(
            x, normed, (keys, values), tuple(about_context), can_attend, can_attend_context
        )
        return x, (keys, values)

    x, (keys, values) = model.decoder.scan(apply_layer, x, cache[:4])
    return model.decoder_norm(x), cache._replace(keys=keys, values=values)
