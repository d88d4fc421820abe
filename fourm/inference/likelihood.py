"""How likely tokens are, given others: exactly for sequences, by an unbiased estimate for grids.

A sequence is written in one order, so that one pass gives the probability of all of it. A grid may
be completed in any order. For tokens x_1 ... x_N this computes

    E over orders s of  sum over i of  log p(x_s(i) | x_s(1) ... x_s(i-1), conditions),

which is the likelihood that training maximises, and by Jensen's inequality a lower bound of the
log-likelihood of the mixture over all orders, hence of random-order generation of one token a pass
(Uria et al. 2014, arXiv:1310.1757; Hoogeboom et al. 2022, arXiv:2110.02037, section 3). Every
summand is estimated with a random number of known tokens, at random places, from all that are
unknown.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.inference.conditions import Known, gather_inputs, join_inputs, target_keys
from fourm.inference.grids import ask_grid
from fourm.model.transformer import FourM
from fourm.token_space import Targets, TokenRange
from tokenizers.base import PADDING


class TokenLikelihood(NamedTuple):
    """Log-likelihoods in nats.

    Attributes:
        total: Of all tokens of a sample together; NaN if it has none.
        error: Standard error of the total, 0 where it is exact.
        tokens: Of each token: given those before it in a sequence; in a grid the mean over the
            draws in which it was unknown, NaN if there was none. NaN also where there is no token.
    """

    total: Float[np.ndarray, "batch"]
    error: Float[np.ndarray, "batch"]
    tokens: Float[np.ndarray, "batch tokens"]


def likelihood_of_tokens(
    model: FourM,
    known: Known,
    name: str,
    ids: Int[np.ndarray, "batch tokens"],
    keys: Key[Array, "batch"],
    num_draws: int,
    relative: bool = False,
) -> TokenLikelihood:
    """Returns how likely tokens of one modality are, given what is known of others.

    What a sample gets depends on its own tokens and key alone.

    Args:
        model: The trained model.
        known: Tokens of other modalities, as `generate_tokens` takes them. May be empty.
        name: The modality.
        ids: Its tokens; `PADDING` all over in samples that lack it.
        keys: One per sample; sequences need none.
        num_draws: Pairs of passes over a grid, at least 2. Twice as many halve the variance.
        relative: Whether to subtract the log-likelihood given nothing, from the same draws.

    Raises:
        ValueError: If the modality is among what is known or has no tokens, or a number is wrong.
    """
    entry = model.space[name]
    if entry.kind == "features":
        raise ValueError(f"{name} has no tokens and is only ever input; it has no likelihood.")
    if name in known:
        raise ValueError(
            f"{name} is given and asked; the likelihood of a modality is computed from others."
        )
    if num_draws < 2:
        raise ValueError(f"num_draws is {num_draws}; at least 2 are needed for a standard error.")
    graph, state = nnx.split(model)
    request = graph, state, known, jnp.asarray(ids, jnp.int32), entry
    if entry.kind == "sequence":
        tokens = np.asarray(_sequence_log_probabilities(*request))
        if relative:
            tokens = tokens - np.asarray(_sequence_log_probabilities(*_given_nothing(request)))
        total = np.where(np.isnan(tokens).all(1), np.nan, np.nansum(tokens, axis=1))
        return TokenLikelihood(total, np.where(np.isnan(total), np.nan, 0.0), tokens)
    return _estimate_grid(request, keys, num_draws, relative)


def surprise_of_tokens(
    model: FourM, known: Known, name: str, ids: Int[np.ndarray, "batch tokens"]
) -> Float[np.ndarray, "batch tokens"]:
    """Returns -log p, in nats, of each token of a grid given what is known of others alone.

    None of the grid's own tokens is shown, so that what is odd does not explain itself. NaN where
    there is no token.

    Raises:
        ValueError: If the modality is no grid, or among what is known.
    """
    entry = model.space[name]
    if entry.kind != "grid" or name in known:
        raise ValueError(
            f"{name} is {'given and asked' if name in known else 'no grid'}; the surprise of a "
            "grid is computed from others."
        )
    graph, state = nnx.split(model)
    array = jnp.asarray(ids, jnp.int32)
    nothing = jnp.zeros(array.shape, bool)
    log_p = _grid_log_probabilities(graph, state, known, array, entry, nothing)
    return np.where(np.asarray(ids) == PADDING, np.nan, -np.asarray(log_p))


def likelihood_of_pairs(
    model: FourM,
    known: Known,
    name: str,
    ids: Int[np.ndarray, "answers tokens"],
    num_draws: int,
    seed: int,
    relative: bool = True,
) -> Float[np.ndarray, "inputs answers"]:
    """Returns how likely each of some answers is, given each of some inputs.

    The encoder runs once for each input where the answers are sequences. Grids are estimated as
    `likelihood_of_tokens` does it, every answer with the same draws for all inputs, so that what
    they have in common does not tell them apart.

    Args:
        model: The trained model.
        known: Tokens of other modalities.
        name: The modality of the answers.
        ids: Their tokens.
        num_draws: Pairs of passes over a grid, at least 2.
        seed: Of these passes.
        relative: Whether to subtract the log-likelihood of the answer given nothing, as pointwise
            mutual information does.
    """
    entry, answers = model.space[name], len(ids)
    count = len(next(iter(known.values())))
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(np.arange(answers))
    graph, state = nnx.split(model)
    alone = np.zeros(answers)
    if relative:
        alone = likelihood_of_tokens(model, {}, name, ids, keys, num_draws).total
    found = np.empty((count, answers))
    for row in range(count):
        own = {other: jnp.asarray(array[row : row + 1]) for other, array in known.items()}
        if entry.kind == "sequence":
            tokens = _sequence_log_probabilities(graph, state, own, jnp.asarray(ids), entry)
            found[row] = np.nansum(np.asarray(tokens), axis=1) - alone
        else:
            repeated = {n: jnp.repeat(array, answers, axis=0) for n, array in own.items()}
            part = likelihood_of_tokens(model, repeated, name, ids, keys, num_draws)
            found[row] = part.total - alone
    return found


def _given_nothing(request: tuple) -> tuple:
    graph, state, _, *others = request
    return graph, state, {}, *others


@functools.partial(jax.jit, static_argnums=(0, 4))
def _sequence_log_probabilities(
    graph: nnx.GraphDef,
    state: nnx.State,
    known: Known,
    ids: Int[Array, "answers tokens"],
    entry: TokenRange,
) -> Float[Array, "answers tokens"]:
    """Returns what `generate_sequence` draws each token with, at temperature 1.

    Either every answer has inputs of its own, or all have the same.
    """
    model = nnx.merge(graph, state)
    special = entry.special
    end, first = special.end, special.first_sentinel
    nothing = jnp.full_like(ids, PADDING)
    inputs = gather_inputs(model.space, known or {entry.name: nothing})
    is_real = ids != PADDING
    # As in generation the stream opens with the first sentinel.
    shifted = jnp.concatenate([jnp.full_like(ids[:, :1], first), ids[:, :-1]], axis=1)
    previous = jnp.where(shifted == PADDING, end, shifted) + entry.first_id
    place = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    targets = Targets(
        ids=jnp.where(is_real, ids, end) + entry.first_id,
        previous=previous,
        modality=jnp.full_like(ids, entry.index),
        position=place + entry.first_position,
        is_real=is_real,
    )
    context = model.build_context(model.encode(inputs), inputs)
    if len(ids) != len(context):  # One input, several answers.
        repeat = functools.partial(jnp.repeat, repeats=len(ids), axis=0)
        context, inputs = jax.tree.map(repeat, (context, inputs))
    logits = model.logits(model.decode(targets, context, inputs), entry).astype(jnp.float32)
    number = jnp.arange(entry.vocab_size)
    is_closing = (number == end) | ((number == first + 1) & (special.num_sentinels > 1))
    is_sentinel = (number >= first) & (number < first + special.num_sentinels)
    log_p = jax.nn.log_softmax(jnp.where(~is_sentinel | is_closing, logits, -jnp.inf), axis=-1)
    # Whichever token closes it, a sequence ends with its end.
    closed = jax.nn.logsumexp(jnp.where(is_closing, log_p, -jnp.inf), axis=-1)
    own = jnp.take_along_axis(log_p, jnp.where(is_real, ids, end)[..., None], axis=-1)[..., 0]
    return jnp.where(is_real, jnp.where(ids == end, closed, own), jnp.nan)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _grid_log_probabilities(
    graph: nnx.GraphDef,
    state: nnx.State,
    known: Known,
    ids: Int[Array, "batch tokens"],
    entry: TokenRange,
    is_shown: Bool[Array, "batch tokens"],
) -> Float[Array, "batch tokens"]:
    """Returns the log-probability of every token of a grid, given those that are shown."""
    model = nnx.merge(graph, state)
    own = gather_inputs(model.space, {entry.name: jnp.where(is_shown, ids, PADDING)})
    inputs = join_inputs([gather_inputs(model.space, known), own]) if known else own
    place = jnp.broadcast_to(jnp.arange(entry.num_tokens), ids.shape)
    targets = ask_grid(entry, place, ~is_shown)
    context = model.build_context(model.encode(inputs), inputs)
    logits = model.logits(model.decode(targets, context, inputs), entry).astype(jnp.float32)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_p, jnp.maximum(ids, 0)[..., None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw_shown(
    keys: Key[Array, "batch"], tokens: int, entry: TokenRange
) -> Bool[Array, "batch 2 tokens"]:
    """Draws which tokens are shown in a pair of passes.

    The second pass is the first one's antithesis: the reversed order, and as many tokens shown as
    are hidden there, less one. Each by itself is a uniform draw.
    """

    def draw(key: Key[Array, ""]) -> Bool[Array, "2 tokens"]:
        order_key, level_key = jax.random.split(key)
        rank = jax.random.permutation(order_key, tokens)
        level = jax.random.randint(level_key, (), 0, tokens)
        return jnp.stack([rank < level, tokens - 1 - rank < tokens - 1 - level])

    return jax.vmap(draw)(target_keys(keys, entry))


def _estimate_grid(
    request: tuple, keys: Key[Array, "batch"], num_draws: int, relative: bool
) -> TokenLikelihood:
    *_, ids, entry = request
    tokens, batch = entry.num_tokens, len(ids)
    pairs = np.zeros((num_draws, batch))
    summed, counted = np.zeros((batch, tokens)), np.zeros((batch, tokens), np.int64)
    for number in range(num_draws):
        draw_keys = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
        both = np.asarray(_draw_shown(draw_keys, tokens, entry))
        for is_shown in both.transpose(1, 0, 2):
            log_p = np.asarray(_grid_log_probabilities(*request, is_shown), np.float64)
            if relative:
                log_p -= np.asarray(_grid_log_probabilities(*_given_nothing(request), is_shown))
            hidden = ~is_shown
            pairs[number] += tokens / 2 * (log_p * hidden).sum(1) / hidden.sum(1)
            summed += log_p * hidden
            counted += hidden
    has_tokens = (np.asarray(ids) != PADDING).all(axis=1)
    total = np.where(has_tokens, pairs.mean(axis=0), np.nan)
    error = np.where(has_tokens, pairs.std(axis=0, ddof=1) / np.sqrt(num_draws), np.nan)
    is_told = (counted > 0) & has_tokens[:, None]
    per_token = np.where(is_told, summed / np.maximum(counted, 1), np.nan)
    return TokenLikelihood(total, error, per_token)
