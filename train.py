"""One run, top to bottom: samples, tokenizers, tokens, model, evaluation, report.

python train.py                                  the built-in scenes
python train.py nyuv2 --data.path ~/nyuv2        a preset and overrides; --help lists every knob
python train.py my_config.py                     a configuration of your own
python train.py ~/photos                         a folder of data, which says what it holds
python train.py runs/4m21 --data.path ~/mine     fine-tune an existing run
python train.py my_config.py --dry-run           what that will take; trains nothing
python train.py runs/4m21 none --tokens ids 1.0  the same on stored tokens, without their data

Every stage keeps its results in the run directory; the same command does what is missing.
Exit codes: 0 done; 2 bad input; 1 where the system or a library failed, --debug shows where; 130
Ctrl-C; 75 SIGTERM or SIGHUP, after saving, so that a scheduler that requeues on 75 resumes the
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

from configs.beginning import opened, read_beginning
from configs.launch import read_launch
from configs.runs.fork import forked_at
from configs.runs.plan import describe_plan
from configs.runs.samples import Samples, open_sources
from configs.runs.settings import is_reported, is_trained, write_config
from configs.runs.survey import list_left_out, survey_run, tabulate
from configs.runs.tokens import open_tokens
from configs.schema import RunConfig
from data_pipeline.batches import Batches, BatchOrder
from data_pipeline.crops import TransformedSource
from data_pipeline.tokens.mixture import TokenMixture
from fourm.devices.layout import Layout
from fourm.devices.processes import initialize, is_main, run_on_main, wait_for_all
from fourm.evaluate import measure_run
from fourm.evaluation.results import why_failed
from fourm.model.saved_model import save_model
from fourm.presentation.pictures import draw_curves
from fourm.presentation.report import Report, say_overfitted, write_report
from fourm.run_directory.run_log import RunLog, SilentLog, read_metrics
from fourm.run_directory.stages import Stages
from fourm.training.fit_memory import choose_remat
from fourm.training.heldout import HeldoutLoss
from fourm.training.initial_model import create_model, find_start
from fourm.training.loop import TrainingStage, train
from fourm.training.masked_loss import MaskedLoss
from fourm.training.tokenizer_training import train_tokenizer, training_of
from tokenizers.base import Learned, Tokenizer
from tokenizers.modality import SavedTokenizerConfig, load_tokenizer, save_tokenizer
from tokenizers.process.command import make_visible, run_command
from tokenizers.settings.plain import to_plain
from tokenizers.storage.folders import copy_folder, fingerprint_together
from tokenizers.storage.pieces import record_pieces
from tokenizers.storage.run_paths import (
    CHECKPOINTS,
    CURVES_PICTURE,
    HELDOUT,
    MODEL,
    REPORT_PAGE,
    SAMPLES_PICTURE,
    TOKENIZERS,
    TOKENS,
)


def main(arguments: Sequence[str]) -> int:
    """Runs everything that a command line asks for; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> None:
        if read_launch(arguments).dry_run:
            print("\n".join(describe_plan(read_beginning(arguments).config)))
            return
        folder = run(arguments)
        # Without data there are no samples.
        picture = SAMPLES_PICTURE if (folder / SAMPLES_PICTURE).exists() else CURVES_PICTURE
        print(make_visible(f"Done. Open {folder / REPORT_PAGE} and {folder / picture}."))

    return run_command(work, arguments)


def run(arguments: Sequence[str]) -> Path:
    """Goes through the stages that are not done yet and returns the run directory."""
    launch = read_launch(arguments)
    if launch.distributed:
        initialize(launch.coordinator, launch.num_processes, launch.process_index)
    beginning = read_beginning(arguments)
    config = beginning.config
    layout = Layout.build(config.mesh)
    layout.check(config.model.num_heads, config.training.batch_size, config.training.accumulation)
    with opened(beginning) as folder:
        if not is_reported(config):
            go_through_stages(config, layout, shlex.join(["python", "train.py", *arguments]))
    return folder


def go_through_stages(config: RunConfig, layout: Layout, command: str) -> None:
    """Makes what is missing in a run directory; the command is what its report names."""
    folder = Path(config.run_dir)
    stage = Stages(folder, is_main())
    with RunLog(folder) if is_main() else SilentLog() as log:
        with stage("samples", folder / HELDOUT):
            sources = open_sources(config)
            samples = Samples(config, sources)
            if is_main():
                samples.keep_heldout(folder)
                write_config(config)
        with stage("tokenizers", folder / TOKENIZERS):
            tokenizers = {
                name: make_tokenizer(config, name, samples, log) for name in config.modalities
            }
        with stage("tokens", folder / TOKENS):
            tokens, heldout = make_tokens(config, sources, tokenizers)
            censuses = survey_run(config, sources)
            if is_main():
                list_left_out(config, censuses)
        del samples  # The memory that they take is needed from here on.
        with stage("model", folder / MODEL):
            train_model(config, tokenizers, tokens, heldout, log, layout)
    run_on_main(lambda: evaluate(config, stage, command, tabulate(config, censuses)))
    run_on_main(lambda: record_pieces(folder))


def make_tokenizer(config: RunConfig, name: str, samples: Samples, log: RunLog) -> Tokenizer:
    """Fits one tokenizer, trains it if it learns, and saves it; or loads it if that is done."""
    folder = Path(config.run_dir)
    saved = folder / TOKENIZERS / name
    if saved.exists():
        return load_tokenizer(saved)
    settings, values = config.modalities[name].tokenizer, config.modalities[name].values
    rows = samples.training.rows([name])
    raw = samples.training.take(name, rows)
    key = jax.random.fold_in(jax.random.key(config.seed), list(config.modalities).index(name))
    tokenizer = settings.fit(values, raw, key)
    is_new = not isinstance(settings, SavedTokenizerConfig)
    if is_new and isinstance(tokenizer, Learned):
        order = BatchOrder(len(raw), settings.batch_size, config.seed)
        stage = TrainingStage(
            f"tokenizer/{name}",
            config.seed,
            folder / CHECKPOINTS / f"tokenizer-{name}",
            training_of(settings),
            origin=asdict(order),
            forked_at=forked_at(folder, f"tokenizer-{name}"),
        )

        def batches(layout: Layout) -> Batches:
            return Batches(order, lambda i: layout.distribute(raw[i]), lambda i: rows[i])

        train_tokenizer(tokenizer, stage, batches, log)
    if is_main():
        if is_new:
            save_tokenizer(tokenizer, saved)
        else:  # As it is: tokens were made by those very files.
            copy_folder(Path(settings.path).expanduser(), saved)
    return tokenizer


def make_tokens(
    config: RunConfig, sources: dict[str, TransformedSource], tokenizers: dict[str, Tokenizer]
) -> tuple[TokenMixture | None, TokenMixture | None]:
    """Encodes training and held-out samples once, or opens the tokens that are named for either.

    There are none if nothing is to be trained, or no data to be held out.
    """
    wait_for_all()  # Process 0 is saving the last tokenizer.
    return (None, None) if is_trained(config) else open_tokens(config, sources, tokenizers)


def train_model(
    config: RunConfig,
    tokenizers: dict[str, Tokenizer],
    tokens: TokenMixture | None,
    heldout: TokenMixture | None,
    log: RunLog,
    layout: Layout,
) -> None:
    """Trains the transformer on masked tokens and saves it."""
    folder, training, seed = Path(config.run_dir), config.training, config.seed
    if (folder / MODEL).exists():
        return
    start = find_start(tokenizers, folder, config.start_from)
    config.masking.check_fits(start.space)
    loss_fn = MaskedLoss(start.space, config.masking, config.loss, layout)
    shape = config.model
    if tokens:
        shape = choose_remat(start.space, shape, training, loss_fn, tokens, layout)
    model = create_model(start, shape, tokenizers, seed, layout)
    del start  # It may hold the weights of another run.
    if tokens:
        rows = layout.rows(training.batch_size)
        batches = tokens.batches(training.batch_size, seed, rows, layout.distribute)
        made_by = fingerprint_together(folder / TOKENIZERS, tokenizers)
        entropy = tokens.marginal_entropy()
        stage = TrainingStage(
            MODEL,
            seed,
            folder / CHECKPOINTS / MODEL,
            training,
            origin=asdict(batches.order) | {TOKENIZERS: made_by},
            forked_at=forked_at(folder, MODEL),
            references={f"entropy/{name}": value for name, value in entropy.items()},
        )
        to_measure = model, loss_fn, config.loss, heldout, training, seed, layout
        measure = HeldoutLoss(*to_measure) if heldout else None
        train(model, loss_fn, batches, stage, log, layout, measure)
    layout.fetch(model)
    if is_main():
        save_model(folder / MODEL, model)


def evaluate(config: RunConfig, stage: Stages, command: str, data: list[dict]) -> None:
    """Writes the report: what held-out samples say of the run, if there are any, and its curves."""
    folder = Path(config.run_dir)
    report = Report(stage.seconds, to_plain(config), command=command, data=data)
    if splits := config.data.splits:
        to_measure = config.evaluation, config.probes
        report = measure_run(report, folder, splits, *to_measure, stage)
    with stage("curves", folder / CURVES_PICTURE):
        try:
            metrics = read_metrics(folder)
            draw_curves(folder / CURVES_PICTURE, metrics)
            if said := say_overfitted(metrics):
                report = replace(report, notes=(*report.notes, said))
        except Exception as error:  # Whatever it is: the numbers are there.
            report = replace(report, notes=(*report.notes, why_failed("The curves", error)))
    for note in report.notes:
        print(note, file=sys.stderr)
    write_report(folder, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
