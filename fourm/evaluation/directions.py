"""How well every modality is predicted from others, between a floor and a ceiling."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.metrics import distributions
from fourm.evaluation.metrics.kinds import best_constant, confidence_of, metrics_of
from fourm.evaluation.mutual_information import measure_information
from fourm.evaluation.results import Pair, Row, readable, why_failed
from fourm.evaluation.rival_scores import Rival, ask_rival
from fourm.requests.scoring import Scorer
from fourm.run_directory.sample_set import SampleSet
from tokenizers.base import Better, RawBatch, Tokenizer, Values, main_metric
from tokenizers.spread import evenly_spread, spread_order, take_rows
from tokenizers.text.sentencepiece import Text

NUM_EXAMPLES = 32
"""Predictions per direction that are kept to be drawn."""


@runtime_checkable
class Predictor(Protocol):
    """What evaluation needs of a trained model: `fourm.any2any.Any2Any`, or anything like it."""

    tokenizers: dict[str, Tokenizer]

    def tokenize(self, samples: dict[str, RawBatch]) -> dict[str, np.ndarray]:
        """Returns ids [batch, tokens] by modality."""

    def reconstruct(self, name: str, raw: RawBatch) -> RawBatch:
        """Returns raw values after their tokenizer's round trip."""

    def generate(self, inputs: dict[str, RawBatch], targets: Sequence[str], **options: Any) -> Any:
        """Returns raw values by target in `.values`."""

    def embed(self, inputs: dict[str, RawBatch]) -> Float[np.ndarray, "batch dim"]:
        """Returns the encoder's features."""

    def encode_inputs(self, samples: dict[str, RawBatch]) -> dict[str, np.ndarray]:
        """Returns all that the encoder reads of raw values, by name."""

    def features(self, inputs: Mapping[str, RawBatch], **options: Any) -> Any:
        """Returns the encoder's features of any layers, see `fourm.features.extract`."""


class Bounds(NamedTuple):
    """Between what a prediction's scores lie.

    Attributes:
        suffix: Ends the names of metrics; empty for those on all pixels.
        where: The pixels scored; None for all.
        floor: Per metric, what the best constant answer scores.
        ceiling: Per metric, what the tokenizer's round trip of the truth scores.
        note: Why there is no floor, whose metrics are NaN then; or empty.
    """

    suffix: str
    where: Bool[np.ndarray, "rows y x"] | None
    floor: dict[str, float]
    ceiling: dict[str, float]
    note: str = ""


class Example(NamedTuple):
    """What was predicted in one direction for the first of the samples scored.

    Attributes:
        pair: The direction.
        rows: Which samples, ascending.
        predicted: Raw values of the target.
        read: What was read back from them, if the direction says so.
    """

    pair: Pair
    rows: Int[np.ndarray, "kept"]
    predicted: RawBatch
    read: RawBatch | None


class Evaluator:
    """Scores one model on one held-out split. Keeps what several directions share.

    After `evaluate`, `examples` holds some of the predictions that were scored, to be drawn.
    """

    def __init__(
        self,
        model: Predictor,
        heldout: SampleSet,
        training: SampleSet,
        config: EvaluationConfig,
        settings: Any = None,
    ):
        """Args:
        model: Trained.
        heldout: What to predict.
        training: Where floors come from.
        config: What to predict from what.
        settings: How to generate, as `Any2Any.generate` takes it; by default the run's own way.

        Raises:
            ValueError: If a direction or the region names a modality or class that there is not.
        """
        self.model, self.heldout, self.training = model, heldout, training
        self.config, self.settings = config, settings
        first, *others = list(model.tokenizers)
        self.pairs = [Pair.parse(pair) for pair in config.pairs]
        self.pairs = self.pairs or [
            Pair((first,), name) for name in others if self.is_predictable(name)
        ]
        for name in {name for pair in self.pairs for name in (*pair.inputs, pair.target)}:
            self.values_of(name)
        self._region_labels = self._find_region_labels()
        self.examples: list[Example] = []
        self._bounds_of: dict[tuple, list[Bounds]] = {}
        self._further_of: dict[tuple, Bounds] = {}
        self._read_of: dict[tuple, RawBatch] = {}

    def evaluate(self) -> list[Row]:
        """Returns one row per direction and metric.

        A direction that could not be measured has one row, of its main metric, whose "note" says
        why in a sentence and whose numbers are None.
        """
        rows, self.examples = [], []
        for pair in tqdm(self.pairs, desc="evaluation", unit="direction", dynamic_ncols=True):
            found, example = self._try_to_measure(pair, self.config.num_samples, self.config.rivals)
            rows += found
            self.examples += [example] if example else []
        return rows

    def _try_to_measure(
        self, pair: Pair, num_samples: int, with_rival: bool = False
    ) -> tuple[list[Row], Example | None]:
        values = self.values_of(pair.target)
        try:
            return self._measure(pair, num_samples, with_rival)
        except Exception as error:  # Whatever it is: other directions can still be measured.
            main, better = main_metric(values)
            note = why_failed(f"{'+'.join(pair.inputs)} -> {pair.target}", error)
            numbers = dict.fromkeys(("floor", "value", "ceiling"))
            row = {"inputs": list(pair.inputs), "target": pair.target, "metric": main}
            return [{**row, "better": better, **numbers, "note": note}], None

    def _measure(
        self, pair: Pair, num_samples: int, with_rival: bool
    ) -> tuple[list[Row], Example | None]:
        """Returns one row per metric of a direction."""
        names = (*pair.inputs, pair.target)
        rows = self.rows_with(names, num_samples)
        if not len(rows):
            raise ValueError(f"no held-out sample has {' and '.join(names)}")
        if not self.is_predictable(pair.target):
            raise ValueError(f"{pair.target} is features, which are read and never predicted")
        shown = {name: self.heldout.take(name, rows) for name in pair.inputs}
        predicted = self._predict(shown, pair.target)
        truth, values = self.truth(pair.target, rows), self.values_of(pair.target)
        found, read = [], None
        rival = self._ask_rival(pair, shown, len(rows)) if with_rival else None
        for bounds in self.bounds(pair.target, rows):
            scores = values.score(predicted, truth, bounds.where)
            own = _as_rows(pair, values.metrics, bounds, scores, "{}" + bounds.suffix)
            if rival is not None:
                own = rival.beside(own, functools.partial(_score_some, values, truth, bounds.where))
            found += own
        found += self._score_further(pair, shown, predicted, rows, rival)
        if self.config.distributions and len(self.model.tokenizers[pair.target].token_shape) == 2:
            own = self._measure_generated(pair.target, shown, predicted, truth)
            found += [{"inputs": list(pair.inputs), **row} for row in own]
        if pair.readback is not None:
            read = self._read(pair.target, readable(predicted, values), pair.readback)
            found += self._score_read(pair, read, rows)
        # The same samples in all directions, as far as they can be, for pictures side by side.
        order = spread_order(self.heldout.size)
        places = np.searchsorted(rows, np.sort(order[np.isin(order, rows)][:NUM_EXAMPLES]))

        read = None if read is None else take_rows(read, places)
        return found, Example(pair, rows[places], take_rows(predicted, places), read)

    def _score_further(
        self,
        pair: Pair,
        shown: dict[str, RawBatch],
        predicted: RawBatch,
        rows: Int[np.ndarray, "rows"],
        rival: Rival | None,
    ) -> list[Row]:
        """Returns the rows of metrics that some kinds have besides, see `metrics.kinds`."""
        target = pair.target
        truth, values = self.truth(target, rows), self.values_of(target)
        metrics = metrics_of(values, truth)
        if metrics is None:
            return []
        key = (target, rows.tobytes())
        if key not in self._further_of:
            ceiling = metrics.score(self.model.reconstruct(target, self.heldout.take(target, rows)))
            seen = self.training.take(target, self.training.rows([target]))
            floor, note = (
                dict.fromkeys(metrics.metrics, math.nan),
                self.bounds(target, rows)[0].note,
            )
            if not note:
                floor = metrics.score([best_constant(values, seen)] * len(truth))
            self._further_of[key] = Bounds("", None, floor, ceiling, note)
        sure = confidence_of(self.model, target, predicted, shown)
        scores = metrics.score(predicted, confidence=sure)
        found = _as_rows(pair, metrics.metrics, self._further_of[key], scores, "{}")
        return found if rival is None else rival.beside(found, metrics.score)

    def _ask_rival(self, pair: Pair, shown: dict[str, RawBatch], count: int) -> Rival | None:
        values = {name: tokenizer.values for name, tokenizer in self.model.tokenizers.items()}
        return ask_rival(shown, pair.target, count, self.training, values)

    def tokenizers(self) -> dict[str, dict[str, Any]]:
        """Returns, per modality, how its tokenizer's round trip scores and which codes it uses.

        `codebook_usage` is the share of ids that occur in the held-out samples, and `perplexity`
        the number of equally likely ids that would have the same entropy. What could not be
        measured is None, and a "note" says why.
        """
        table = {}
        for name, tokenizer in self.model.tokenizers.items():
            if not self.is_predictable(name):
                continue
            main, better = main_metric(self.values_of(name))
            table[name] = {
                "metric": main,
                "better": better,
                **dict.fromkeys(("value", "floor", "codebook_usage", "perplexity")),
                "vocab_size": int(tokenizer.vocab_size),
                "tokens": int(np.prod(tokenizer.token_shape)),
            }
            try:
                table[name] |= self._measure_tokenizer(name, main)
            except Exception as error:  # Whatever it is: the others can still be measured.
                table[name]["note"] = why_failed(f"The tokenizer of {name}", error)
        return table

    def _measure_tokenizer(self, name: str, main: str) -> dict[str, Any]:
        rows = self.rows_with((name,), self.config.num_samples)
        if not len(rows):
            raise ValueError(f"no held-out sample has {name}")
        ids = self.model.tokenize({name: self.heldout.take(name, rows)})[name]
        vocab_size = self.model.tokenizers[name].vocab_size
        counts = np.bincount(ids[ids >= 0].ravel(), minlength=vocab_size)
        share = counts[counts > 0] / counts.sum()
        whole, *regions = self.bounds(name, rows)
        found = {
            "value": whole.ceiling[main],
            "floor": whole.floor[main],
            "codebook_usage": float((counts > 0).mean()),
            "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        }
        for region in regions:
            found[f"value{region.suffix}"] = region.ceiling[main]
            found[f"floor{region.suffix}"] = region.floor[main]
        if whole.note:
            found["note"] = whole.note
        return found

    def is_predictable(self, name: str) -> bool:
        """False for features, which are only ever read: there are no ids to compare."""
        return self.model.tokenizers[name].vocab_size > 0

    def values_of(self, name: str) -> Values:
        if name not in self.model.tokenizers:
            raise ValueError(
                f"There is no modality {name!r} in this run; it has "
                f"{', '.join(self.model.tokenizers)}."
            )
        return self.model.tokenizers[name].values

    def truth(self, name: str, rows: Int[np.ndarray, "rows"]) -> RawBatch:
        """Returns what predictions are compared with: of texts all that a sample has."""
        if isinstance(self.values_of(name), Text):
            return self.heldout.take_all(name, rows)
        return self.heldout.take(name, rows)

    def rows_with(self, names: Sequence[str], num_samples: int) -> Int[np.ndarray, "rows"]:
        for name in names:
            self.values_of(name)
        rows = self.heldout.rows(names)
        return rows[evenly_spread(len(rows), num_samples)]

    def _score_read(self, pair: Pair, read: RawBatch, rows: Int[np.ndarray, "rows"]) -> list[Row]:
        """Scores what the model saw in its own answer against what it was asked for.

        The ceiling is what it reads from true answers.
        """
        given = self.truth(pair.readback, rows)
        values = self.values_of(pair.readback)
        key = (pair.target, pair.readback, rows.tobytes())
        if key not in self._read_of:
            truth = {pair.target: self.heldout.take(pair.target, rows)}
            self._read_of[key] = self._predict(truth, pair.readback)
        whole = self.bounds(pair.readback, rows)[0]
        bounds = whole._replace(ceiling=values.score(self._read_of[key], given))
        return _as_rows(pair, values.metrics, bounds, values.score(read, given), "readback_{}")

    def _read(self, name: str, answer: RawBatch, target: str) -> RawBatch:
        """Predicts from the model's own answer, by its ids alone.

        So does generation in a chain, and so was trained (`MaskingConfig.ids_alone`): the numbers
        that describe patches beside their ids are of true pictures, which are sharper.
        """
        known = self.model.tokenize({name: answer})
        made = self.model.generate(
            {}, [target], known=known, seed=self.config.seed, settings=self.settings
        )
        return made.values[target]

    def _measure_generated(
        self, target: str, shown: dict[str, RawBatch], predicted: RawBatch, truth: RawBatch
    ) -> list[Row]:
        """Returns rows of how generated values are distributed, and what they tell of inputs."""
        tokenizer, seed = self.model.tokenizers[target], self.config.seed
        shape = len(truth), *tokenizer.token_shape
        ids = np.random.default_rng(seed).integers(0, tokenizer.vocab_size, shape)
        chance = tokenizer.decode(ids.astype(np.int32))
        found = distributions.measure(
            target,
            lambda raw: self.model.embed({target: raw}),
            predicted,
            truth,
            self.model.reconstruct(target, truth),
            chance,
        )
        if isinstance(self.model, Scorer):
            found.append(measure_information(self.model, shown, target, predicted, truth, seed))
        return found

    def _predict(self, inputs: dict[str, RawBatch], target: str) -> RawBatch:
        answer = self.model.generate(
            inputs, [target], seed=self.config.seed, settings=self.settings
        )
        return answer.values[target]

    def bounds(self, target: str, rows: Int[np.ndarray, "rows"]) -> list[Bounds]:
        """Returns floor and ceiling on all pixels, then on the region if the target has one."""
        key = (target, rows.tobytes())
        if key not in self._bounds_of:
            values = self.values_of(target)
            truth = self.truth(target, rows)
            round_trip = self.model.reconstruct(target, self.heldout.take(target, rows))
            region = self._where(self.heldout, rows, target)
            unknown, note = dict.fromkeys(values.metrics, math.nan), ""
            try:
                seen_rows = self.training.rows([target])
                if not len(seen_rows):
                    raise ValueError(f"no training sample that was kept has {target}")
                seen = self.training.take(target, seen_rows)
                floor = values.floor(seen, truth)
            except Exception as error:  # The prediction and its ceiling are known all the same.
                floor, note = unknown, why_failed(f"The floor of {target}", error)
            bounds = [Bounds("", None, floor, values.score(round_trip, truth), note)]
            if region is not None and note:
                ceiling = values.score(round_trip, truth, region)
                bounds.append(Bounds(f"_{self.config.region.name}", region, unknown, ceiling, note))
            elif region is not None:
                seen_region = self._where(self.training, seen_rows, target)
                if seen_region is not None and not seen_region.any():
                    seen_region = None  # Nothing to fit a constant of its own to.
                floor = values.floor(seen, truth, region, seen_region)
                ceiling = values.score(round_trip, truth, region)
                bounds.append(Bounds(f"_{self.config.region.name}", region, floor, ceiling))
            self._bounds_of[key] = bounds
        return self._bounds_of[key]

    def _find_region_labels(self) -> list[int]:
        region = self.config.region
        if not region.modality:
            return []
        names = getattr(self.values_of(region.modality), "names", ())
        unknown = sorted(set(region.classes) - set(names))
        if unknown or not region.classes:
            raise ValueError(
                f"The region's classes {unknown} are not in {region.modality!r}, which has "
                f"{', '.join(names) or 'no classes'}; change evaluation.region."
            )
        return [names.index(name) for name in region.classes]

    def _where(
        self, samples: SampleSet, rows: Int[np.ndarray, "rows"], target: str
    ) -> Bool[np.ndarray, "rows y x"] | None:
        """Returns the region's pixels, none where a sample has no class map.

        None if there is no region, or `target` has no pixels that fit it.
        """
        if not self._region_labels:
            return None
        modality = self.config.region.modality
        known = np.intersect1d(rows, samples.rows([modality]))
        if not len(known):
            return None
        maps = np.isin(samples.take(modality, known), self._region_labels)
        where = np.zeros((len(rows), *maps.shape[1:]), bool)
        where[np.searchsorted(rows, known)] = maps
        truth = samples.take(target, rows)
        if not isinstance(truth, np.ndarray) or truth.shape[:3] != where.shape:
            return None
        return where


def _score_some(
    values: Values,
    truth: RawBatch,
    where: Bool[np.ndarray, "rows y x"] | None,
    predicted: RawBatch,
    rows: Int[np.ndarray, "some"],
) -> dict[str, float]:
    """Returns the scores of predictions of some of the samples."""
    region = None if where is None else where[rows]
    return values.score(predicted, take_rows(truth, rows), region)


def _as_rows(
    pair: Pair, metrics: dict[str, Better], bounds: Bounds, scores: dict[str, float], name: str
) -> list[Row]:
    return [
        {
            "inputs": list(pair.inputs),
            "target": pair.target,
            "metric": name.format(metric),
            "better": better,
            "floor": bounds.floor[metric],
            "value": scores[metric],
            "ceiling": bounds.ceiling[metric],
            **({"note": bounds.note} if bounds.note else {}),
        }
        for metric, better in metrics.items()
    ]
