"""One space of ids and positions shared by all modalities.

Every modality owns a contiguous range of ids and of positions, so that a token is four
integers (id, modality, position, is it real) and the model needs one input table, one output
table, one position table and one modality table however many modalities there are.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from jaxtyping import Array, Bool, Float, Int

from tokenizers.base import SequenceTokens, Tokenizer, described, is_described
from tokenizers.settings.checked import Checked

MASK_ID = 0
"""What the decoder reads in place of a grid token that it has to predict."""
MOST = 2**28
"""Ids or tokens of a modality."""


@dataclass(frozen=True)
class TokenRange(Checked):
    """Where one modality lives in the shared space.

    A modality of kind "features" has vectors in place of ids: patches of pixels, or what another
    network makes of a text. The encoder projects them; they have no vocabulary and can't be
    predicted.

    Attributes:
        vocab_size: Number of ids; 0 for features.
        token_shape: (height, width) of a grid, (longest length,) of a sequence.
        special: End and sentinel ids, relative to the range; None for grids and features.
        index: The modality's row in the modality table.
        first_id: Shared id of the modality's id 0.
        first_position: Row of the modality's position 0 in the position table.
        feature_width: Numbers per token of features, or that describe a token of a grid to the
            encoder beside its id; 0 for ids alone.
        feature_bias: Whether the projection of features has a bias.
        box_starts: First ids, relative to the range, of the left, top, right and bottom edges of
            boxes and of their classes, which follow each other in this order; empty for others.
        is_input: False for a modality that the encoder never learned to read.
        is_target: False for a modality that the decoder never learned to predict.
    """

    name: str
    vocab_size: int
    token_shape: tuple[int, ...]
    special: SequenceTokens | None
    index: int
    first_id: int
    first_position: int
    feature_width: int = 0
    feature_bias: bool = False
    is_input: bool = True
    is_target: bool = True
    box_starts: tuple[int, ...] = ()

    @property
    def kind(self) -> Literal["grid", "sequence", "features"]:
        if not self.vocab_size:
            return "features"
        return "grid" if self.special is None else "sequence"

    @property
    def features_name(self) -> str:
        """Under which name the vectors of its tokens are found, if it has any."""
        return self.name if self.kind == "features" else described(self.name)

    @property
    def num_tokens(self) -> int:
        """Tokens of the modality at most."""
        return math.prod(self.token_shape)

    @property
    def num_positions(self) -> int:
        """Tokens of the longest stream: a span-corrupted target adds at most two sentinels."""
        return self.num_tokens + (0 if self.special is None else 2)


@dataclass(frozen=True)
class TokenSpace(Checked):
    """The ranges of all modalities, in the order of their indices."""

    ranges: tuple[TokenRange, ...]

    @classmethod
    def build(cls, tokenizers: Mapping[str, Tokenizer]) -> "TokenSpace":
        """Lays the modalities out one after another, in the mapping's order.

        Raises:
            ValueError: If there is no modality.
        """
        if not tokenizers:
            raise ValueError("There is no modality; name at least one under --modalities.")
        return cls.lay_out(_range_of(name, each) for name, each in tokenizers.items())

    @classmethod
    def lay_out(cls, ranges: Iterable[TokenRange]) -> "TokenSpace":
        """Lays modalities out one after another; where each begins is settled here."""
        placed = []
        first_id, first_position = MASK_ID + 1, 0
        for index, each in enumerate(ranges):
            where = {"first_id": first_id, "first_position": first_position}
            placed.append(replace(each, index=index, **where))
            first_id += each.vocab_size
            first_position += each.num_positions
        return cls(tuple(placed))

    def with_roles_of(self, other: "TokenSpace", names: Iterable[str]) -> "TokenSpace":
        """Returns this space, with named modalities input and target only as in another one."""
        named = set(names)
        return TokenSpace(
            tuple(
                replace(
                    entry,
                    is_input=other[entry.name].is_input,
                    is_target=other[entry.name].is_target,
                )
                if entry.name in named
                else entry
                for entry in self.ranges
            )
        )

    def check(self) -> None:
        """Raises ValueError, in one sentence, unless modalities lie one after another.

        `build` lays them out so; what was read from a file may not.
        """
        first_id, first_position = MASK_ID + 1, 0
        if not self.ranges or len(set(self.names)) < len(self.ranges):
            raise ValueError("A token space needs modalities, each of a name of its own.")
        for index, entry in enumerate(self.ranges):
            found = (entry.index, entry.first_id, entry.first_position)
            special = entry.special
            least = 0 if entry.feature_width and special is None else 1
            ids = [] if special is None else [special.end, special.first_sentinel]
            ids += [] if special is None else [special.first_sentinel + special.num_sentinels - 1]
            is_possible = (
                found == (index, first_id, first_position)
                and least <= entry.vocab_size <= MOST
                and 0 <= entry.feature_width <= MOST
                and entry.token_shape
                and min(entry.token_shape) >= 1
                and entry.num_tokens <= MOST
                and all(0 <= each < entry.vocab_size for each in ids)
                and len(entry.box_starts) in (0, 5)
                and list(entry.box_starts) == sorted({*entry.box_starts})
                and all(0 < each < entry.vocab_size for each in entry.box_starts)
            )
            if not is_possible:
                raise ValueError(
                    f"The modality {entry.name!r} has {entry.vocab_size} ids from "
                    f"{entry.first_id} on and tokens of shape {entry.token_shape}; they must be "
                    f"positive, at most {MOST}, and follow those of the modality before it "
                    f"(here from {first_id} on)."
                )
            first_id += entry.vocab_size
            first_position += entry.num_positions

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.ranges)

    @property
    def vocab_size(self) -> int:
        """Rows of the input and output tables, the mask included."""
        return self.ranges[-1].first_id + self.ranges[-1].vocab_size

    @property
    def num_positions(self) -> int:
        return self.ranges[-1].first_position + self.ranges[-1].num_positions

    def __getitem__(self, name: str) -> TokenRange:
        for entry in self.ranges:
            if entry.name == name:
                return entry
        nearest = difflib.get_close_matches(name, self.names, 1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"There is no modality {name!r} in this model; it has {', '.join(self.names)}.{hint}"
        )


class Inputs(NamedTuple):
    """Tokens that the encoder reads, packed: [batch, inputs] each.

    Attributes:
        ids: Shared ids.
        modality: Row of the modality table.
        position: Row of the position table.
        is_real: False on padding, which attention must ignore.
        features: By `TokenRange.features_name`, of modalities that are shown, the vectors of all
            their tokens, by position within the modality. Ids of modalities of kind "features" mean
            nothing. Vectors that describe tokens of a grid are NaN where its ids are all there is.
    """

    ids: Int[Array, "batch inputs"]
    modality: Int[Array, "batch inputs"]
    position: Int[Array, "batch inputs"]
    is_real: Bool[Array, "batch inputs"]
    features: dict[str, Float[Array, "batch _ _"]] | None = None


class Targets(NamedTuple):
    """Tokens that the decoder predicts, packed: [batch, targets] each.

    Attributes:
        ids: Shared ids to be predicted.
        previous: What the decoder reads in their place: the sequence's preceding token
            (teacher forcing), `MASK_ID` for grids.
        modality: Row of the modality table.
        position: Row of the position table (of the preceding token, in sequences).
        is_real: False on padding, which attention and loss must ignore.
    """

    ids: Int[Array, "batch targets"]
    previous: Int[Array, "batch targets"]
    modality: Int[Array, "batch targets"]
    position: Int[Array, "batch targets"]
    is_real: Bool[Array, "batch targets"]


class MaskedBatch(NamedTuple):
    """All that the model and the loss see of a batch; where masking and model meet."""

    inputs: Inputs
    targets: Targets


def _range_of(name: str, tokenizer: Tokenizer) -> TokenRange:
    """Returns a modality that lies nowhere yet."""
    return TokenRange(
        name=name,
        vocab_size=tokenizer.vocab_size,
        token_shape=tuple(tokenizer.token_shape),
        special=tokenizer.special,
        index=0,
        first_id=0,
        first_position=0,
        # Of tokenizers without ids, see `tokenizers.features`, or that describe tokens.
        feature_width=getattr(tokenizer, "feature_width", 0)
        if not tokenizer.vocab_size or is_described(tokenizer)
        else 0,
        feature_bias=getattr(tokenizer, "feature_bias", False),
        box_starts=getattr(tokenizer, "box_starts", ()),
    )
