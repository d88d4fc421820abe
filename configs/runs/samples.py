"""The samples of a run: those that tokenizers are fitted to, and those that evaluation needs."""

from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from configs.runs.survey import plain_notes, read_samples
from configs.schema import RunConfig
from data_pipeline.crops import TransformedSource
from fourm.evaluation.probes import why_not_probed
from fourm.run_directory.sample_set import TRAINING, SampleSet, load_heldout, save_heldout
from tokenizers.modality import SavedTokenizerConfig
from tokenizers.spread import evenly_spread
from tokenizers.storage.run_paths import HELDOUT, TOKENIZERS

NUM_REFERENCE = 256
"""Training samples of each modality that floors are computed from, at least, if there are."""


def open_sources(config: RunConfig) -> dict[str, TransformedSource]:
    """Opens every split; only training samples come in several views."""
    values = {name: modality.values for name, modality in config.modalities.items()}
    try:
        opened = {split: config.data.open(split) for split in config.data.splits}
    except ValueError as error:
        if not config.tokens:
            raise
        raise ValueError(
            f"{str(error).rstrip('.')}; or, after the name of the preset, type none: then "
            "--tokens are all that is needed."
        ) from error
    return {
        split: config.crops.apply(source, values, config.sizes, config.seed, split == "train")
        for split, source in opened.items()
    }


class Samples:
    """Training samples, which are read when somebody first needs them.

    A run that goes on needs none of them once its tokenizers and the samples of its evaluation
    are there.
    """

    def __init__(self, config: RunConfig, sources: dict[str, TransformedSource]):
        """Chooses the samples; nothing is read yet.

        Args:
            config: Of the run.
            sources: By split; none where a run has no data.

        Raises:
            ValueError: If there is neither data nor every tokenizer, or no training sample.
        """
        self._config, self._sources = config, sources
        if not sources:
            check_tokenizers(config)
        elif not len(sources["train"]):
            raise ValueError("The training split has no samples; see the knobs of --data.")

    @cached_property
    def chosen(self) -> Int[np.ndarray, "samples"]:
        """Which training samples these are, evenly spread: neighbours may be views of one scene."""
        return evenly_spread(len(self._sources["train"]), self._config.tokenizer_samples)

    @cached_property
    def training(self) -> SampleSet:
        """The samples themselves; none without data.

        Raises:
            ValueError: If none of them has some modality.
        """
        names = list(self._config.modalities)
        if not self._sources:
            return SampleSet.collect([], names)
        found = self._read("train", self.chosen)
        for name in names:
            if not len(found.rows([name])):
                raise ValueError(
                    f"None of {len(self.chosen)} training samples has {name!r}; see the knobs of "
                    "--data, raise --tokenizer-samples if there are more, or take the modality out."
                )
        return found

    def keep_heldout(self, folder: Path) -> None:
        """Keeps in a run directory what evaluation needs and is not there yet.

        So the directory alone reproduces its numbers.

        Raises:
            ValueError: If a fact that is to be probed can't be.
        """
        config = self._config
        if not self._sources:
            return
        num_reference = max(config.probes.num_train, NUM_REFERENCE)
        if not _is_kept(folder, TRAINING, min(num_reference, len(self.chosen))):
            self._check_facts(self.training)
            rows = self.training.spread_rows(num_reference, NUM_REFERENCE)
            self._keep(folder, TRAINING, "train", self.chosen[rows])
        else:
            self._check_facts(load_heldout(folder, TRAINING))
        for split, source in self._sources.items():
            if split != "train" and len(source):
                num_samples = max(config.evaluation.num_samples, config.probes.num_test)
                indices = evenly_spread(len(source), num_samples)
                if not _is_kept(folder, split, len(indices)):
                    self._keep(folder, split, split, indices)

    def _check_facts(self, samples: SampleSet) -> None:
        if sentences := why_not_probed(samples, self._config.probes.tasks):
            raise ValueError(sentences[0])

    def _keep(
        self, folder: Path, name: str, split: str, indices: Int[np.ndarray, "samples"]
    ) -> None:
        save_heldout(folder, name, self._read(split, indices))

    def _read(self, split: str, indices: Int[np.ndarray, "samples"]) -> SampleSet:
        to_read = self._sources[split], split, indices.tolist()
        samples, census = read_samples(self._config, *to_read)
        return SampleSet.collect(samples, list(self._config.modalities), plain_notes(census))


def _is_kept(folder: Path, name: str, num_samples: int) -> bool:
    return (folder / HELDOUT / name).exists() and load_heldout(folder, name).size >= num_samples


def check_tokenizers(config: RunConfig) -> None:
    """Raises ValueError, in one sentence, if a run without data lacks a tokenizer."""
    missing = [
        name
        for name, modality in config.modalities.items()
        if not isinstance(modality.tokenizer, SavedTokenizerConfig)
        and not (Path(config.run_dir) / TOKENIZERS / name).exists()
    ]
    if missing:
        raise ValueError(
            f"There is no data to make tokenizers of {', '.join(missing)} from; take them from the "
            "run that made the tokens: name it in place of a preset, or with --fork."
        )
