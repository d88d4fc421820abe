"""One run, top to bottom: samples, tokenizers, tokens, model, evaluation, report.

python train.py                                  the built-in scenes
python train.py nyuv2 --data.path ~/nyuv2        a preset and overrides; --help lists every knob
python train.py my_config.py                     a configuration of your own
python train.py runs/4m21 --data.path ~/mine     a model that is there, trained further
python train.py runs/4m21 none --tokens ids 1.0  the same on stored tokens, without their data

Every stage keeps what it made in the run directory; run again, and what is done is not repeated.
Exit codes: 0 done; 2 bad input; 1 where the system or a library failed, --debug shows where; 130
Ctrl-C; 75 SIGTERM or SIGHUP, after saving, so that a scheduler that requeues on 75 continues the
run.
"""

if __name__ == "__main__":  # Before the imports below, which take seconds.
    from tokenizers.process.command import begin

    begin(has_huge_pages=True)

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import jax
from tqdm import tqdm

from configs.command_line import parse_command_line
from configs.launch import read_launch
from configs.runs.fork import forked_at
from configs.runs.settings import (
    check_tokenizers,
    is_reported,
    is_trained,
    open_run,
    write_config,
)
from configs.schema import RunConfig
from data_pipeline.batches import BatchIterator, BatchOrder
from data_pipeline.crops import TransformedSource
from data_pipeline.sources.source import ChosenSamples
from data_pipeline.tokens.mixture import TokenMixture
from data_pipeline.tokens.writer import describe_source, is_planned, plan_store, write_tokens
from fourm.devices.layout import Layout
from fourm.devices.processes import initialize, is_main, run_on_main, wait_for_all
from fourm.evaluation.probes import why_not_probed
from fourm.evaluation.results import why_failed
from fourm.measurement import measure_run
from fourm.model.saved_model import save_model
from fourm.presentation.pictures import draw_curves
from fourm.presentation.report import Report, write_report
from fourm.run_directory.run_log import RunLog, SilentLog, read_metrics
from fourm.run_directory.sample_set import HELDOUT, TRAINING, SampleSet, load_heldout, save_heldout
from fourm.run_directory.stages import Stages
from fourm.training.heldout import HeldoutLoss
from fourm.training.initial_model import create_model, find_start
from fourm.training.loop import TrainingConfig, train
from fourm.training.masked_loss import MaskedLoss
from fourm.training.train_state import OptimizerConfig
from tokenizers.base import Tokenizer
from tokenizers.modality import Modality, SavedTokenizerConfig, load_tokenizer
from tokenizers.process.command import make_visible, run_command
from tokenizers.settings.plain import to_plain
from tokenizers.spread import evenly_spread
from tokenizers.storage.folders import copy_folder, fingerprint_files, fingerprint_together
from tokenizers.storage.pieces import record_pieces

NUM_REFERENCE = 256
"""Training samples of each modality that floors are computed from, at least, if there are."""


def main(arguments: Sequence[str]) -> int:
    """Runs everything that a command line asks for; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> None:
        folder = run(arguments)
        # Without data there are no samples.
        picture = "samples.png" if (folder / "samples.png").exists() else "curves.png"
        print(make_visible(f"Done. Open {folder / 'report.md'} and {folder / picture}."))

    return run_command(work, arguments)


def run(arguments: Sequence[str]) -> Path:
    """Goes through the stages that are not done yet and returns the run directory."""
    launch = read_launch(arguments)
    if launch.distributed:
        initialize(launch.coordinator, launch.num_processes, launch.process_index)
    config, _ = parse_command_line(arguments)
    layout = Layout.build(config.mesh)
    layout.check(config.model.num_heads, config.training.batch_size, config.training.accumulation)
    folder = Path(config.run_dir)
    run_on_main(lambda: open_run(config, launch.fork, launch.use))
    if is_reported(config):
        return folder
    stage = Stages(folder)
    with RunLog(folder) if is_main() else SilentLog() as log:
        with stage("samples", folder / HELDOUT):
            sources = open_sources(config)
            sample = read_sample(config, sources, folder)
            if is_main():
                write_config(config)
        with stage("tokenizers", folder / "tokenizers"):
            tokenizers = {
                name: make_tokenizer(config, name, number, sample, folder, log)
                for number, name in enumerate(config.modalities)
            }
        with stage("tokens", folder / "tokens"):
            tokens, heldout = make_tokens(config, sources, tokenizers, folder)
        del sample
        with stage("model", folder / "model"):
            train_model(config, tokenizers, tokens, heldout, folder, log, layout)
    command = shlex.join(["python", "train.py", *arguments])
    run_on_main(lambda: evaluate(config, folder, stage, command))
    run_on_main(lambda: record_pieces(folder))
    return folder


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


def read_sample(
    config: RunConfig, sources: dict[str, TransformedSource], folder: Path
) -> SampleSet:
    """Reads the training samples that tokenizers see, and keeps what evaluation needs.

    Held-out samples go to the run directory, so that it alone reproduces its numbers. Without
    data there are no samples, and tokenizers must be there.
    """
    names = list(config.modalities)
    if not sources:
        check_tokenizers(config)
        return SampleSet.collect([], names)
    train_source = sources["train"]
    if not len(train_source):
        raise ValueError("The training split has no samples; see the knobs of --data.")
    # Evenly spaced over the split: neighbours may be views of one picture.
    chosen = evenly_spread(len(train_source), config.tokenizer_samples)
    sample = SampleSet.collect(train_source.__getitems__(chosen.tolist()), names)
    for name in names:
        if not len(sample.rows([name])):
            raise ValueError(
                f"None of {len(chosen)} training samples has {name!r}; see the knobs of --data, "
                "raise --tokenizer-samples if there are more, or take the modality out."
            )
    if sentences := why_not_probed(sample, config.probes.tasks):
        raise ValueError(sentences[0])
    reference = sample.spread_rows(max(config.probes.num_train, NUM_REFERENCE), NUM_REFERENCE)
    kept = {TRAINING: (train_source, chosen[reference])}
    for split, source in sources.items():
        if split != "train" and len(source):
            num_samples = max(config.evaluation.num_samples, config.probes.num_test)
            kept[split] = (source, evenly_spread(len(source), num_samples))
    for split, (source, indices) in kept.items() if is_main() else ():
        is_kept = (folder / HELDOUT / split).exists()
        if not is_kept or load_heldout(folder, split).size < len(indices):
            samples = source.__getitems__(indices.tolist())
            save_heldout(folder, split, SampleSet.collect(samples, names))
    return sample


def make_tokenizer(
    config: RunConfig, name: str, number: int, sample: SampleSet, folder: Path, log: RunLog
) -> Tokenizer:
    """Fits one tokenizer, trains it if it learns, and saves it; or loads it if that is done."""
    saved = folder / "tokenizers" / name
    if saved.exists():
        return load_tokenizer(saved)
    modality: Modality = config.modalities[name]
    raw = sample.take(name, sample.rows([name]))
    settings = modality.tokenizer
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    tokenizer = settings.fit(modality.values, raw, key)
    is_new = not isinstance(settings, SavedTokenizerConfig)
    if is_new and hasattr(tokenizer, "loss"):
        order = BatchOrder(len(raw), settings.batch_size, config.seed)
        layout = Layout.repeated()
        train(
            tokenizer,
            lambda model, batch, key: model.loss(batch, key),
            lambda step: BatchIterator(
                order, lambda indices: layout.distribute(raw[indices]), step
            ),
            TrainingConfig(
                steps=settings.steps,
                batch_size=settings.batch_size,
                checkpoint_every=max(settings.steps, 1000),
                optimizer=OptimizerConfig(
                    learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
                ),
            ),
            stage=f"tokenizer/{name}",
            seed=config.seed,
            folder=folder / "checkpoints" / f"tokenizer-{name}",
            log=log,
            data=asdict(order),
            samples_at=lambda step: sample.rows([name])[order.indices(step)],
            forked_at=forked_at(folder, f"tokenizer-{name}"),
            layout=layout,
        )
        layout.fetch(tokenizer)
    if is_main():
        if is_new:
            tokenizer.save(saved)
        else:  # As it is: tokens were made by those very files.
            copy_folder(Path(settings.path).expanduser(), saved)
    return tokenizer


def make_tokens(
    config: RunConfig,
    sources: dict[str, TransformedSource],
    tokenizers: dict[str, Tokenizer],
    folder: Path,
) -> tuple[TokenMixture | None, TokenMixture | None]:
    """Encodes training and held-out samples once, or opens the tokens that are named for either.

    There are none if nothing is to be trained, or no data to be held out.
    """
    wait_for_all()  # Process 0 is saving the last tokenizer.
    if is_trained(config):
        return None, None
    made_by = {name: fingerprint_files(folder / "tokenizers" / name) for name in tokenizers}

    def encode(split: str, name: str, num_samples: int | None = None) -> dict[str, float]:
        source, out = sources[split], folder / name
        made_from = describe_source(config.data, config.crops, config.seed, split)
        plan = plan_store(source, tokenizers, made_by, made_from, num_samples=num_samples)
        # Runs whose held-out tokens are the first samples of a split go on with those.
        if plan.samples < len(source) and not is_planned(out, plan):
            source = ChosenSamples(source, evenly_spread(len(source), plan.samples))
            made_from["samples"] = f"{plan.samples}, evenly spread"
            plan = plan_store(source, tokenizers, made_by, made_from)

        def write() -> None:
            with tqdm(total=plan.samples, desc=name, unit="sample", dynamic_ncols=True) as bar:
                write_tokens(source, tokenizers, out, plan, bar.update)

        run_on_main(write)
        return {str(out): 1.0}

    stores = config.tokens or encode("train", "tokens")
    heldout = dict.fromkeys(config.heldout_tokens, 1.0)
    others = [split for split in sources if split != "train" and len(sources[split])]
    if others and not heldout and config.training.evaluate_every:
        heldout = encode(others[0], "heldout_tokens", config.training.evaluate_samples)
    tokens = TokenMixture.open(stores, tokenizers, made_by)
    return tokens, TokenMixture.open(heldout, tokenizers, made_by) if heldout else None


def train_model(
    config: RunConfig,
    tokenizers: dict[str, Tokenizer],
    tokens: TokenMixture | None,
    heldout: TokenMixture | None,
    folder: Path,
    log: RunLog,
    layout: Layout,
) -> None:
    """Trains the transformer on masked tokens and saves it."""
    if (folder / "model").exists():
        return
    start = find_start(tokenizers, folder, config.start_from)
    space = start.space
    config.masking.check_fits(space)
    model = create_model(start, config.model, tokenizers, config.seed, layout)
    del start  # It may hold the weights of another run.

    loss_fn = MaskedLoss(space, config.masking, config.loss, layout)

    def measure_on(heldout):
        return HeldoutLoss(
            model, loss_fn, config.loss, heldout, config.training, config.seed, layout
        )

    if tokens:
        rows = layout.rows(config.training.batch_size)
        order = tokens.order(config.training.batch_size, config.seed)
        entropy = tokens.marginal_entropy()
        made_by = fingerprint_together(folder / "tokenizers", tokenizers)
        train(
            model,
            loss_fn,
            lambda step: BatchIterator(
                order,
                lambda indices: layout.distribute(tokens.batch(indices)),
                step,
                threads=tokens.threads,
                rows=rows,
            ),
            config.training,
            stage="model",
            seed=config.seed,
            folder=folder / "checkpoints" / "model",
            log=log,
            data=asdict(order) | {"tokenizers": made_by},
            samples_at=lambda step: tokens.keys(order.indices(step)),
            forked_at=forked_at(folder, "model"),
            references={f"entropy/{name}": value for name, value in entropy.items()},
            heldout=measure_on(heldout) if heldout else None,
            layout=layout,
        )
    layout.fetch(model)
    if is_main():
        save_model(folder / "model", model)


def evaluate(config: RunConfig, folder: Path, stage: Stages, command: str) -> None:
    """Writes the report: what held-out samples say of the run, if there are any, and its curves."""
    report = Report(seconds=stage.seconds, config=to_plain(config), command=command)
    if splits := config.data.splits:
        found = measure_run(folder, splits, config.evaluation, config.probes, stage)
        report = replace(report, **found)
    with stage("curves", folder / "curves.png"):
        try:
            draw_curves(folder / "curves.png", read_metrics(folder))
        except Exception as error:  # Whatever it is: the numbers are there.
            report = replace(report, notes=(*report.notes, why_failed("The curves", error)))
    for note in report.notes:
        print(note, file=sys.stderr)
    write_report(folder, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
