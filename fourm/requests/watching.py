"""What one who watches generation sees: which samples are where, pass by pass."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from fourm.inference.watching import Watch
from tokenizers.base import PADDING


class Progress(NamedTuple):
    """What is there after a pass.

    Attributes:
        target: The modality that is being generated, on the way or because it is asked for.
        done: Passes that are done; of a sequence tokens.
        ids: Its tokens so far, `PADDING` where there is none yet.
        samples: Number of the sample in each row.
        draws: Number of the draw in each row.
    """

    target: str
    done: int
    ids: Int[np.ndarray, "rows tokens"]
    samples: Int[np.ndarray, "rows"]
    draws: Int[np.ndarray, "rows"]

    def __repr__(self) -> str:
        known = int((self.ids != PADDING).sum())
        return f"Progress({self.target}, {self.done}: {known} of {self.ids.size} tokens)"


def told_of(
    watch: Callable[[Progress], None], numbers: Int[np.ndarray, "rows"], num_draws: int
) -> Watch:
    """Returns what tells one who watches of some draws.

    Args:
        watch: Who is told.
        numbers: Of the draws, all of a sample after each other; rows beyond are filler.
        num_draws: Of each sample.
    """

    def tell(target: str, done: int, ids: Int[np.ndarray, "rows tokens"]) -> None:
        watch(
            Progress(target, done, ids[: len(numbers)], numbers // num_draws, numbers % num_draws)
        )

    return tell
