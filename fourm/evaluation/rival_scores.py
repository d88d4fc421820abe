"""The scores of a simple method on some of the samples that a model is scored on."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from fourm.evaluation.results import Row, why_failed
from fourm.evaluation.rivals import SCORED, answer_simply
from fourm.run_directory.sample_set import SampleSet
from tokenizers.base import RawBatch, Values
from tokenizers.spread import evenly_spread, take_rows


class Rival(NamedTuple):
    """What a simple method answers.

    Attributes:
        rows: Which of the samples it was asked.
        predicted: Raw values of the target.
        method: Its name.
        note: Why it could not be asked; or empty.
    """

    rows: Int[np.ndarray, "rows"]
    predicted: RawBatch = ()
    method: str = ""
    note: str = ""

    def beside(
        self,
        rows: list[Row],
        score: Callable[[RawBatch, Int[np.ndarray, "rows"]], Mapping[str, float]],
    ) -> list[Row]:
        """Returns rows with its score beside the model's, or with the note.

        Args:
            rows: One for each score, in the order of the scores.
            score: Scores predictions of some of the samples.
        """
        if self.note:
            return [{**row, "note": row.get("note", self.note)} for row in rows]
        both = zip(rows, score(self.predicted, self.rows).values(), strict=True)
        return [{**row, "simple": found, "method": self.method} for row, found in both]


def ask_rival(
    shown: Mapping[str, RawBatch],
    target: str,
    count: int,
    training: SampleSet,
    values: Mapping[str, Values],
) -> Rival | None:
    """Returns what a simple method answers; None if there is none for such values.

    Args:
        shown: Raw values of the inputs by modality.
        target: What is predicted.
        count: How many samples there are.
        training: Samples to learn from.
        values: What the raw numbers of each modality mean.
    """
    rows = evenly_spread(count, SCORED)
    given = {name: take_rows(raw, rows) for name, raw in shown.items()}
    try:
        answer = answer_simply(given, target, training, values)
    except Exception as error:  # Whatever it is: the model's own prediction is there.
        return Rival(rows, note=why_failed(f"The simple method for {target}", error))
    return None if answer is None else Rival(rows, answer.predicted, answer.method)
