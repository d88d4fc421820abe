"""The transformer: an encoder over the shown tokens, a decoder over the asked ones.

Pre-norm encoder-decoder without dropout (Mizrahi et al. 2023, section 3.2). Tokens are gathered
before they are embedded. Targets attend to targets of their own modality, in sequences only to
earlier ones, and to all that the encoder has read.
"""

from dataclasses import replace

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fourm.model.blocks import DecoderBlock, EncoderBlock
from fourm.model.config import ModelConfig
from fourm.model.positions import (
    cells_of,
    cells_of_boxes,
    has_boxes,
    has_cells_of_different_size,
    offsets_of_cells,
    rows_of_positions,
    shares_of_cells,
    sincos_positions,
)
from fourm.model.projections import apply_flat, dense, norm
from fourm.model.stack import Stack
from fourm.token_space import Inputs, MaskedBatch, Targets, TokenRange, TokenSpace


def can_attend_targets(
    targets: Targets,
    is_sequence: Bool[Array, "modalities"],
    separate: bool = True,
    causal: bool = False,
) -> Bool[Array, "batch m m"]:
    """Says which target may see which: its own modality; in sequences, no later token.

    With two grid targets g and three sequence targets s (rows see columns), as it is by default,
    not separate, and causal:

          g g s s s      g g s s s      g g s s s
        g x x . . .      x x . . .      x . . . .
        g x x . . .      x x . . .      x x . . .
        s . . x . .      x x x . .      . . x . .
        s . . x x .      x x x x .      . . x x .
        s . . x x x      x x x x x      . . x x x

    Args:
        targets: Packed modality by modality, sequences in reading order.
        is_sequence: By modality.
        separate: Only within a modality.
        causal: Not even the tokens of a grid see later ones.
    """
    same = targets.modality[:, :, None] == targets.modality[:, None, :]
    place = jnp.arange(same.shape[1])
    earlier = jnp.broadcast_to(place[None, :] <= place[:, None], same.shape)
    allowed = earlier
    if not causal:
        allowed = allowed | (same & ~is_sequence[targets.modality][:, :, None])
    if separate:
        allowed = allowed & same
    return allowed & targets.is_real[:, None, :]


def pad_registers(is_real: Bool[Array, "batch n"], count: int) -> Bool[Array, "batch c"]:
    """Puts registers, which are always real, before the inputs."""
    if not count:
        return is_real
    return jnp.pad(is_real, ((0, 0), (count, 0)), constant_values=True)


def gather_cells(
    own: Float[Array, "batch m 4"],
    others: Float[Array, "batch n 4"],
    context: Float[Array, "batch c dim"],
    inputs: Inputs,
    with_moments: bool,
) -> list[Float[Array, "batch m dim"]]:
    """Returns the mean of the context of inputs by the area that cells share with theirs.

    With moments, three more means: by how far down, how far right, and both, cells lie of theirs.
    """
    shares = jnp.where(inputs.is_real[:, None, :], shares_of_cells(own, others), 0.0)
    shares = shares / jnp.maximum(shares.sum(axis=-1, keepdims=True), 1e-12)
    shown = context[:, -inputs.ids.shape[1] :]

    def mean(shares: Float[Array, "batch m n"]) -> Float[Array, "batch m dim"]:
        return jnp.einsum("bmn,bnd->bmd", shares.astype(shown.dtype), shown)

    if not with_moments:
        return [mean(shares)]
    down, right = offsets_of_cells(own, others)
    return [mean(shares), *(mean(shares * each) for each in (down, right, down * right))]


PROJECTION = "projection_"
"""Begins the names of what projects features."""
BEGIN_AT_ZERO = ("within_place", "inside_boxes")
"""What only models of some spaces have, and what begins as zeros there: without it they would
predict the same."""


def projection_name(entry: TokenRange) -> str:
    """Returns the attribute of the model that projects a modality's features."""
    return f"{PROJECTION}{entry.index}"


class FourM(nnx.Module):
    """The any-to-any model over one token space."""

    def __init__(self, space: TokenSpace, config: ModelConfig, rngs: nnx.Rngs):
        # Settled here, so that a saved model says what it was trained with.
        remat = "none" if config.remat == "auto" else config.remat
        config = replace(config, compute_dtype=config.dtype.name, remat=remat)
        self.space, self.config = space, config
        published = config.published
        init = nnx.initializers.normal(config.embedding_std)
        key = rngs.params
        dim = config.dim
        self.input_table = nnx.Param(init(key(), (space.vocab_size, dim)))
        self.output_table = nnx.Param(nnx.initializers.normal(0.02)(key(), (space.vocab_size, dim)))
        self.modality_table = nnx.Param(init(key(), (len(space.ranges), dim)))
        positions = jnp.concatenate([sincos_positions(entry, dim) for entry in space.ranges])
        kind = nnx.Param if published.learned_positions else nnx.Variable
        self.position_table = kind(positions)
        registers = (config.num_registers, dim)
        self.registers = nnx.Param(init(key(), registers)) if config.num_registers else None
        self.encoder = Stack(EncoderBlock, config.encoder_layers, config, rngs)
        self.encoder_norm = norm(config, dim, rngs)
        self.context = dense(config, dim, dim, rngs, use_bias=True)
        self.decoder = Stack(DecoderBlock, config.decoder_layers, config, rngs)
        self.decoder_norm = norm(config, dim, rngs)

        self.same_place = dense(config, dim, dim, rngs, False) if config.same_place else None

        # What only some models have comes last, so that the others draw what they always drew.
        def table(is_wanted: bool, rows: int, init=init) -> nnx.Param | None:
            return nnx.Param(init(key(), (rows, dim))) if is_wanted else None

        self.previous_table = table(not published.share_token_embeddings, space.vocab_size)
        self.target_modality_table = table(
            not published.share_modality_embeddings, len(space.ranges)
        )
        separate = published.separate_positions
        rows = sum(space[name].num_positions for name in separate)
        small = nnx.initializers.normal(0.02)
        self.input_position_table = table(bool(separate), rows, small)
        self.target_position_table = table(bool(separate), rows, small)
        for entry in space.ranges:
            if entry.feature_width:
                # One attribute each: a dictionary here would be in the state of all models.
                projection = dense(config, entry.feature_width, dim, rngs, entry.feature_bias)
                setattr(self, projection_name(entry), projection)
        # Of zeros, so that a model that takes its weights from one without predicts the same.
        zeros = nnx.initializers.zeros
        is_wanted = config.same_place and config.within_place and has_cells_of_different_size(space)
        within = dense(config, 3 * dim, dim, rngs, False, zeros) if is_wanted else None
        self.within_place = within
        is_wanted = config.inside_boxes and has_boxes(space)
        inside = dense(config, 4 * dim, dim, rngs, False, zeros) if is_wanted else None
        self.inside_boxes = inside

    @property
    def is_sequence(self) -> Bool[Array, "modalities"]:
        return jnp.array([entry.kind == "sequence" for entry in self.space.ranges])

    def place(
        self, modality: Int[Array, "batch t"], position: Int[Array, "batch t"]
    ) -> Float[Array, "batch t dim"]:
        """Looks up what the modality and position of an input add to it."""
        return self._place(self.modality_table, self.input_position_table, modality, position)

    def place_targets(
        self, modality: Int[Array, "batch t"], position: Int[Array, "batch t"]
    ) -> Float[Array, "batch t dim"]:
        """Looks up what the modality and position of a target add to it."""
        own = self.target_modality_table
        modalities = self.modality_table if own is None else own
        return self._place(modalities, self.target_position_table, modality, position)

    def _place(self, modality_table, own_positions, modality, position):
        positions = self.position_table[...][position]
        separate = self.config.published.separate_positions
        if separate:
            row = jnp.asarray(rows_of_positions(self.space, separate))[position]
            own = own_positions[...][jnp.maximum(row, 0)]
            positions = jnp.where(row[..., None] >= 0, own, positions)
        where = modality_table[...][modality] + positions
        return where.astype(self.config.compute_dtype)

    def embed(self, ids: Int[Array, "batch t"]) -> Float[Array, "batch t dim"]:
        """Looks up contents of inputs by shared id."""
        return self.input_table[...][ids].astype(self.config.compute_dtype)

    def embed_previous(self, ids: Int[Array, "batch t"]) -> Float[Array, "batch t dim"]:
        """Looks up contents of what the decoder reads by shared id."""
        table = self.input_table if self.previous_table is None else self.previous_table
        return table[...][ids].astype(self.config.compute_dtype)

    def embed_inputs(self, inputs: Inputs) -> Float[Array, "batch n dim"]:
        """Returns contents of inputs: rows of the table, and projections of features.

        Where features describe a token that has an id, they are added to its row.
        """
        x = self.embed(inputs.ids)
        for entry in self.space.ranges:
            features = (inputs.features or {}).get(entry.features_name)
            if features is None:
                continue
            place = jnp.clip(inputs.position - entry.first_position, 0, features.shape[1] - 1)
            shown = jnp.take_along_axis(features, place[..., None], axis=1)
            is_own = (inputs.modality == entry.index)[..., None]
            if entry.kind != "features":
                is_own = is_own & jnp.isfinite(shown[..., :1])
                shown = jnp.where(is_own, shown, 0.0)
            projected = apply_flat(getattr(self, projection_name(entry)), shown).astype(x.dtype)
            x = jnp.where(is_own, projected if entry.kind == "features" else x + projected, x)
        return x

    def start_encoder(
        self, inputs: Inputs
    ) -> tuple[Float[Array, "batch c dim"], Bool[Array, "batch c"]]:
        """Returns what the first layer reads, registers first, and what of it is real."""
        x = self.embed_inputs(inputs) + self.place(inputs.modality, inputs.position)
        if self.registers is None:
            return x, inputs.is_real
        registers = self.registers[...].astype(x.dtype)
        registers = jnp.broadcast_to(registers, (len(x), *registers.shape))
        return jnp.concatenate([registers, x], axis=1), pad_registers(
            inputs.is_real, self.config.num_registers
        )

    def encode(self, inputs: Inputs) -> Float[Array, "batch c dim"]:
        """Returns features of the shown tokens; those of padding mean nothing.

        Features of the registers precede them if the decoder attends to these, too.
        """
        x, is_real = self.start_encoder(inputs)
        features = self.encoder_norm(self.encoder(x, is_real[:, None, :]))
        return (
            features
            if self.config.published.registers_in_context
            else features[:, -inputs.ids.shape[1] :]
        )

    def build_context(
        self, features: Float[Array, "batch c dim"], inputs: Inputs
    ) -> Float[Array, "batch c dim"]:
        """Returns what the decoder attends to: features, and again where they came from."""
        where = self.place(inputs.modality, inputs.position)
        registers = features.shape[1] - where.shape[1]
        if registers:
            where = jnp.pad(where, ((0, 0), (registers, 0), (0, 0)))
        return apply_flat(self.context, features) + where

    def start_decoder(
        self, targets: Targets
    ) -> tuple[Float[Array, "batch m dim"], Bool[Array, "batch m m"]]:
        """Returns what the first layer reads, and which target may attend to which."""
        where = self.place_targets(targets.modality, targets.position)
        separate, causal = (
            self.config.published.separate_targets,
            self.config.published.causal_targets,
        )
        can_attend = can_attend_targets(targets, self.is_sequence, separate, causal)
        return self.embed_previous(targets.previous) + where, can_attend

    def gather_same_place(
        self, targets: Targets, context: Float[Array, "batch c dim"], inputs: Inputs
    ) -> Float[Array, "batch m dim"]:
        """Returns what every target starts from of the context at its place; zero where nothing is
        shown.

        That is a projection of the mean. Grids of different sizes share cells in part: each counts
        by the area that it shares. With `within_place` there are three more means, weighted by how
        far down, how far right, and both, the target lies of what is shown: together with the first
        they tell the quarters of a cell apart.
        """
        cells = jnp.asarray(cells_of(self.space))
        own, others = cells[targets.position], cells[inputs.position]
        mean, *moments = gather_cells(own, others, context, inputs, self.within_place is not None)
        start = apply_flat(self.same_place, mean)
        if self.within_place is None:
            return start
        return start + apply_flat(self.within_place, jnp.concatenate(moments, axis=-1))

    def gather_boxes(
        self, targets: Targets, context: Float[Array, "batch c dim"], inputs: Inputs
    ) -> Float[Array, "batch m dim"]:
        """Returns what every target starts from of the shown boxes around its place; zero where
        there is none.

        A box stands where its last token does, of which the encoder knows all others. Means and
        moments are those of `gather_same_place`: the latter say where within a box a target lies.
        """
        own = jnp.asarray(cells_of(self.space))[targets.position]
        found = gather_cells(own, cells_of_boxes(self.space, inputs), context, inputs, True)
        return apply_flat(self.inside_boxes, jnp.concatenate(found, axis=-1))

    def decode(
        self, targets: Targets, context: Float[Array, "batch c dim"], inputs: Inputs
    ) -> Float[Array, "batch m dim"]:
        """Returns features of the asked tokens, from which `logits` follow.

        Args:
            targets: What is asked.
            context: As from `build_context`.
            inputs: What the context was made of.
        """
        x, can_attend = self.start_decoder(targets)
        if self.same_place is not None:
            x = x + self.gather_same_place(targets, context, inputs)
        if self.inside_boxes is not None:
            x = x + self.gather_boxes(targets, context, inputs)
        is_real = pad_registers(inputs.is_real, context.shape[1] - inputs.is_real.shape[1])
        x = self.decoder(x, context, can_attend, is_real[:, None, :])
        return self.decoder_norm(x)

    def __call__(self, batch: MaskedBatch) -> Float[Array, "batch m dim"]:
        features = self.encode(batch.inputs)
        context = self.build_context(features, batch.inputs)
        return self.decode(batch.targets, context, batch.inputs)

    def logits(
        self, features: Float[Array, "batch m dim"], entry: TokenRange
    ) -> Float[Array, "batch m v"]:
        """Returns float32 logits over one modality's own vocabulary."""
        table = self.output_table[...][entry.first_id : entry.first_id + entry.vocab_size]
        head = table.T.astype(features.dtype)
        # Into float32 at once: logits rounded to bfloat16 would tie.
        return apply_flat(
            lambda rows: jnp.matmul(rows, head, preferred_element_type=jnp.float32), features
        )
