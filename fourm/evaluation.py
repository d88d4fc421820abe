"""How well every modality is predicted from others, between a floor and a ceiling."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from fourm.results import Pair, Row
from fourm.sample_set import SampleSet
from tokenizers.base import Better, RawBatch, Tokenizer, Values


@runtime_checkable
class Predictor(Protocol):
    """What evaluation needs of a trained model: `fourm.run.Any2Any`, or anything like it."""

    tokenizers: dict[str, Tokenizer]

    def tokenize(self, samples: dict[str, RawBatch]) -> dict[str, np.ndarray]:
        """Returns ids [batch, tokens] by modality."""

    def reconstruct(self, name: str, raw: RawBatch) -> RawBatch:
        """Returns raw values after their tokenizer's round trip."""

    def generate(self, inputs: dict[str, RawBatch], targets: Sequence[str], **options: Any) -> Any:
        """Returns raw values by target in `.values`."""

    def embed(self, inputs: dict[str, RawBatch]) -> Float[np.ndarray, "batch dim"]:
        """Returns the encoder's features."""


@dataclass(frozen=True)
class RegionConfig:
    """Pixels on which dense metrics are also reported apart, told by a class map."""

    modality: str = ""
    """Modality of class maps; empty for no region."""
    classes: tuple[str, ...] = ()
    """Names of the classes whose pixels make up the region."""
    name: str = "objects"
    """Ends the names of the metrics there, such as abs_rel_objects."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is predicted from what, on how many held-out samples."""

    pairs: tuple[str, ...] = ()
    """Directions, like rgb->depth, caption+semseg->rgb, or caption->rgb->caption, which has the
    model also read the caption back from its own picture. None: from the first modality to every
    other."""
    num_samples: int = 512
    """Held-out samples, the first ones; fewer if there are fewer."""
    region: RegionConfig = field(default_factory=RegionConfig)
    """Pixels on which dense metrics are also reported apart."""
    matrix: bool = False
    """Whether to predict every modality from every other, too."""
    matrix_samples: int = 64
    """Held-out samples for each direction of the matrix."""
    seed: int = 0
    """Of generation."""

    def __post_init__(self) -> None:
        for pair in self.pairs:
            Pair.parse(pair)
        if self.num_samples < 1 or self.matrix_samples < 1:
            raise ValueError(
                f"Evaluation got num_samples={self.num_samples} and matrix_samples="
                f"{self.matrix_samples}; both must be at least 1."
            )


def config_of_run(config: Mapping[str, Any]) -> EvaluationConfig:
    """Returns the evaluation that a run's resolved configuration, as JSON holds it, asks for.

    Raises:
        ValueError: If it has a field that this version does not know.
    """
    known = _known_fields(EvaluationConfig, config.get("evaluation", {}))
    region = _known_fields(RegionConfig, known.pop("region", {}))
    return EvaluationConfig(**known, region=RegionConfig(**region))


def _known_fields(cls: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields with the tuples that JSON made lists; "class" only names the class."""
    unknown = set(stored) - {entry.name for entry in dataclasses.fields(cls)} - {"class"}
    if unknown:
        raise ValueError(
            f"The run's evaluation has the unknown fields {', '.join(sorted(unknown))}; it was "
            "made by another version."
        )
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stored.items()
        if name != "class"
    }


class Evaluator:
    """Scores one model on one held-out split. Keeps what several directions share."""

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
        """
        self.model, self.heldout, self.training = model, heldout, training
        self.config, self.settings = config, settings
        self._shared: dict[tuple, Any] = {}

    def evaluate(self) -> list[Row]:
        """Returns one row per direction and metric."""
        names = list(self.model.tokenizers)
        pairs = [Pair.parse(pair) for pair in self.config.pairs]
        pairs = pairs or [Pair((names[0],), name) for name in names[1:]]
        return [row for pair in pairs for row in self.rows(pair, self.config.num_samples)]

    def matrix(self) -> list[Row]:
        """Returns the main metric's row for every single modality to every other."""
        names = list(self.model.tokenizers)
        rows = []
        for source in names:
            for target in names:
                if source != target:
                    main = next(iter(self._values(target).metrics))
                    found = self.rows(Pair((source,), target), self.config.matrix_samples)
                    rows += [row for row in found if row["metric"] == main]
        return rows

    def rows(self, pair: Pair, num_samples: int) -> list[Row]:
        """Returns one row per metric of a direction; none if no sample has all it needs."""
        rows = self._samples((*pair.inputs, pair.target), num_samples)
        if not len(rows):
            return []
        predicted = self._generate(pair.inputs, pair.target, rows)
        found = self._score(pair, predicted, rows, None)
        where = self._where(rows, pair.target)
        if where is not None:
            found += self._score(pair, predicted, rows, where)
        if pair.readback is not None:
            found += self._read_back(pair, predicted, rows)
        return found

    def tokenizers(self) -> dict[str, dict[str, Any]]:
        """Returns, per modality, how its tokenizer's round trip scores and which codes it uses.

        `codebook_usage` is the share of ids that occur in the held-out samples, and `perplexity`
        the number of equally likely ids that would have the same entropy.
        """
        table = {}
        for name, tokenizer in self.model.tokenizers.items():
            rows = self._samples((name,), self.config.num_samples)
            if not len(rows):
                continue
            values = self._values(name)
            main = next(iter(values.metrics))
            ids = self.model.tokenize({name: self.heldout.take(name, rows)})[name]
            counts = np.bincount(ids[ids >= 0].ravel(), minlength=tokenizer.vocab_size)
            share = counts[counts > 0] / counts.sum()
            table[name] = {
                "metric": main,
                "better": values.metrics[main],
                "value": self._ceiling(name, rows, None)[main],
                "floor": self._floor(name, rows, None)[main],
                "codebook_usage": float((counts > 0).mean()),
                "perplexity": float(np.exp(-(share * np.log(share)).sum())),
                "vocab_size": int(tokenizer.vocab_size),
                "tokens": int(np.prod(tokenizer.token_shape)),
            }
            where = self._where(rows, name)
            if where is not None:
                region = self.config.region.name
                table[name][f"value_{region}"] = self._ceiling(name, rows, where)[main]
                table[name][f"floor_{region}"] = self._floor(name, rows, where)[main]
        return table

    def _values(self, name: str) -> Values:
        if name not in self.model.tokenizers:
            raise ValueError(
                f"There is no modality {name!r} in this run; it has "
                f"{', '.join(self.model.tokenizers)}."
            )
        return self.model.tokenizers[name].values

    def _samples(self, names: Sequence[str], num_samples: int) -> Int[np.ndarray, "rows"]:
        for name in names:
            self._values(name)
        return self.heldout.rows(names)[:num_samples]

    def _score(
        self,
        pair: Pair,
        predicted: RawBatch,
        rows: Int[np.ndarray, "rows"],
        where: Bool[np.ndarray, "rows y x"] | None,
    ) -> list[Row]:
        truth = self.heldout.take(pair.target, rows)
        values = self._values(pair.target)
        suffix = "" if where is None else f"_{self.config.region.name}"
        return _as_rows(
            pair,
            values.metrics,
            floor=self._floor(pair.target, rows, where),
            value=values.score(predicted, truth, where),
            ceiling=self._ceiling(pair.target, rows, where),
            name=lambda metric: metric + suffix,
        )

    def _read_back(
        self, pair: Pair, predicted: RawBatch, rows: Int[np.ndarray, "rows"]
    ) -> list[Row]:
        """Scores what the model sees in its own answer against what it was asked for.

        The ceiling is what it reads from true answers.
        """
        given = self.heldout.take(pair.readback, rows)
        values = self._values(pair.readback)
        read = self._predict({pair.target: predicted}, pair.readback)
        read_from_truth = self._generate((pair.target,), pair.readback, rows)
        return _as_rows(
            pair,
            values.metrics,
            floor=self._floor(pair.readback, rows, None),
            value=values.score(read, given),
            ceiling=values.score(read_from_truth, given),
            name=lambda metric: f"readback_{metric}",
        )

    def _predict(self, inputs: dict[str, RawBatch], target: str) -> RawBatch:
        answer = self.model.generate(
            inputs, [target], seed=self.config.seed, settings=self.settings
        )
        return answer.values[target]

    def _generate(
        self, inputs: tuple[str, ...], target: str, rows: Int[np.ndarray, "rows"]
    ) -> RawBatch:
        key = ("generate", inputs, target, rows.tobytes())
        if key not in self._shared:
            shown = {name: self.heldout.take(name, rows) for name in inputs}
            self._shared[key] = self._predict(shown, target)
        return self._shared[key]

    def _floor(
        self,
        target: str,
        rows: Int[np.ndarray, "rows"],
        where: Bool[np.ndarray, "rows y x"] | None,
    ) -> dict[str, float]:
        key = ("floor", target, rows.tobytes(), where is None)
        if key not in self._shared:
            seen = self.training.take(target, self.training.rows([target]))
            truth = self.heldout.take(target, rows)
            self._shared[key] = self._values(target).floor(seen, truth, where)
        return self._shared[key]

    def _ceiling(
        self,
        target: str,
        rows: Int[np.ndarray, "rows"],
        where: Bool[np.ndarray, "rows y x"] | None,
    ) -> dict[str, float]:
        truth = self.heldout.take(target, rows)
        key = ("round trip", target, rows.tobytes())
        if key not in self._shared:
            self._shared[key] = self.model.reconstruct(target, truth)
        return self._values(target).score(self._shared[key], truth, where)

    def _where(
        self, rows: Int[np.ndarray, "rows"], target: str
    ) -> Bool[np.ndarray, "rows y x"] | None:
        """Returns the region's pixels, none where a sample has no class map.

        None if there is no region, or `target` has no pixels that fit it.
        """
        region = self.config.region
        if not region.modality:
            return None
        names = getattr(self._values(region.modality), "names", ())
        unknown = set(region.classes) - set(names)
        if unknown or not region.classes:
            raise ValueError(
                f"The region's classes {sorted(unknown)} are not in {region.modality!r}, which has "
                f"{', '.join(names) or 'no classes'}; change evaluation.region."
            )
        wanted = [names.index(name) for name in region.classes]
        known = np.intersect1d(rows, self.heldout.rows([region.modality]))
        if not len(known):
            return None
        maps = np.isin(self.heldout.take(region.modality, known), wanted)
        where = np.zeros((len(rows), *maps.shape[1:]), bool)
        where[np.searchsorted(rows, known)] = maps
        truth = self.heldout.take(target, rows)
        if not isinstance(truth, np.ndarray) or truth.shape[:3] != where.shape:
            return None
        return where


def _as_rows(
    pair: Pair, metrics: dict[str, Better], floor: dict, value: dict, ceiling: dict, name: Any
) -> list[Row]:
    return [
        {
            "inputs": list(pair.inputs),
            "target": pair.target,
            "metric": name(metric),
            "better": better,
            "floor": floor[metric],
            "value": value[metric],
            "ceiling": ceiling[metric],
        }
        for metric, better in metrics.items()
    ]
