"""A run directory and its settings: it is begun, continued or forked, and refuses others."""

import glob
import json
import shutil
from pathlib import Path
from typing import Any

from configs.runs.file_formats import formats_of_run
from configs.runs.fork import fork_run, read_fork
from configs.schema import RunConfig
from data_pipeline.tokens.index import is_complete
from data_pipeline.tokens.mixture import open_store
from fourm.devices.processes import is_main
from fourm.model.saved_model import load_shape
from fourm.run_directory.run_log import read_metrics
from fourm.run_directory.stages import read_seconds
from tokenizers.formats.recorded import as_json
from tokenizers.modality import SavedTokenizerConfig, load_tokenizer
from tokenizers.settings.plain import (
    classes_of,
    differing_knobs,
    to_plain,
    up_to_date,
    with_earlier_defaults,
)
from tokenizers.storage.folders import check_made_with, fingerprint_files
from tokenizers.storage.pieces import (
    DESCRIPTION,
    check_pieces,
    forget_pieces,
    has_entry,
    pieces_of,
    record_pieces,
    write_piece,
)
from tokenizers.storage.run_paths import (
    CHECKPOINTS,
    CONFIG,
    CURVES_PICTURE,
    FORK,
    FORMATS,
    HELDOUT,
    HELDOUT_TOKENS,
    METRICS,
    MODEL,
    REPORT,
    REPORT_PAGE,
    SAMPLES_PICTURE,
    SECONDS,
    TOKENIZERS,
    TOKENS,
)
from tokenizers.storage.unfinished import clear_unfinished

# What may differ from the run that a directory was made by: it changes nothing made earlier.
CHANGEABLE_KNOBS = (
    "data.max_damaged",
    "evaluation",
    "generation",
    "mesh",
    "probes",
    "run_dir",
    "training.checkpoint_every",
    "training.checkpoint_minutes",
    "training.keep_checkpoints",
)
OUTPUTS = (REPORT, REPORT_PAGE, CURVES_PICTURE)


def open_run(config: RunConfig, fork: str = "", use: str = "last") -> Path:
    """Opens the run directory, or starts it, from another run if `fork` names one.

    `use` says from which checkpoint of that run, see `choose_checkpoint`.

    Raises:
        ValueError: If it was made with other settings, or from another run, or is something else;
            or if it can't start from the weights or train on the tokens that it names; or if a
            piece of it is damaged, missing or of another run. Nothing is written then.
    """
    folder = Path(config.run_dir)
    file = folder / CONFIG
    clear_leftovers(folder)
    check_whole(folder)
    forked = read_fork(folder)
    forked_from, forked_use = forked.get("from", ""), forked.get("use", "last")
    if fork and (forked_from or file.exists()) and forked_from != fork:
        raise ValueError(
            f"{folder} is a run already, and not forked from {fork}; give --run-dir another folder."
        )
    if fork and file.exists() and use != forked_use:
        raise ValueError(
            f"{folder} is a run already, forked with --use {forked_use}, not {use}; give --run-dir "
            "another folder."
        )
    is_begun, other = file.exists(), Path(fork or forked_from).expanduser()
    is_fork = bool(fork or forked_from) and not is_begun
    if is_begun:
        check_same(config)
    if not (folder / MODEL).exists():
        check_start(config)
        check_sizes(config)
    if not is_trained(config):
        check_tokens(config, other if is_fork else folder)
    if is_begun:
        write_config(config)
    elif is_fork:
        fork_run(other, config, use if fork else forked_use)
    elif (folder / SECONDS).exists():
        # A run whose data could not be read: what it left was made with settings now unknown.
        forget_pieces(folder, *(name for name in pieces_of(folder) if name.startswith(HELDOUT)))
        shutil.rmtree(folder / HELDOUT, ignore_errors=True)
    if folder.is_dir():
        record_pieces(folder)
    return folder


def as_begun(config: RunConfig, fork: str = "") -> RunConfig:
    """Returns a configuration with what a run that was begun by an earlier version has.

    Knobs that came later keep such a run, or a fork of it, as it is; which they are is printed.

    Args:
        config: As the command line gives it.
        fork: The run to go on from, if the command names one.
    """
    folder = Path(config.run_dir)
    other = fork or read_fork(folder).get("from", "")
    for file in (folder / CONFIG, Path(other).expanduser() / CONFIG if other else None):
        if file is not None and file.is_file():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                return config  # What is wrong is said when it is opened.
            earlier = with_earlier_defaults(config, before)
            knobs = ", ".join(differing_knobs(to_plain(config), to_plain(earlier)))
            if knobs and is_main():
                print(f"{file.parent} was begun before there was {knobs}; it goes on without.")
            return earlier
    return config


def check_whole(folder: Path) -> None:
    """Checks what lies in a run directory before anything is done with it.

    Raises:
        ValueError: One sentence, if a file can't be read, belongs to another run, or is missing.
    """
    if (folder / METRICS).is_file():
        read_metrics(folder)  # Else a bad line would be found after hours, when curves are drawn.
    check_pieces(folder)
    read_seconds(folder)
    if (folder / MODEL / DESCRIPTION).is_file():
        check_made_with(folder / MODEL, folder / TOKENIZERS)
    if (folder / CONFIG).exists():
        return
    made = [name for name in (MODEL, TOKENS, REPORT) if (folder / name).exists()]
    if any((folder / CHECKPOINTS).glob("*/*")):
        made.append(CHECKPOINTS)
    # A fork has checkpoints before its settings have proved to fit the data.
    is_begun_fork = (folder / FORK).exists() and MODEL not in made
    if has_entry(folder, CONFIG) or (made and not is_begun_fork):
        raise ValueError(
            f"The directory {folder} holds pieces of a run ({', '.join(made) or HELDOUT}) without "
            f"its settings: {CONFIG} is missing; put it back, give --run-dir another folder, or "
            f"delete {folder} to start afresh."
        )


def clear_leftovers(folder: Path) -> None:
    """Removes what processes that were killed left unfinished in a run directory, or beside it."""
    clear_unfinished(folder.parent, glob.escape(folder.name) + ".*")
    for part in (folder, folder / TOKENIZERS, folder / HELDOUT):
        clear_unfinished(part)
    for name in (TOKENS, HELDOUT_TOKENS):
        # Other machines may be making shards that are missing.
        clear_unfinished(folder / name, "*" if is_complete(folder / name) else "index.json.*")


def check_same(config: RunConfig) -> None:
    """Checks that the run directory was made with these settings.

    Raises:
        ValueError: If it was made with others, which the sentence names, or is damaged.
    """
    folder = Path(config.run_dir)
    try:
        before = json.loads((folder / CONFIG).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder / CONFIG} is damaged ({error}); give --run-dir another folder."
        ) from error
    knobs = differing_from(before, config)
    fixed = [knob for knob in knobs if not is_changeable(knob)]
    if fixed:
        raise ValueError(
            f"{folder} was made with other values of {', '.join(fixed) or 'everything'}; give "
            f"--run-dir another folder, with --fork {folder} to go on from there, or delete "
            f"{folder} to start afresh."
        )


def differing_from(before: dict[str, Any], config: RunConfig) -> list[str]:
    """Returns the knobs in which a configuration differs from a stored one, whatever its version.

    A knob that came after the other was stored has its default there.
    """
    return differing_knobs(up_to_date(before, classes_of(RunConfig, config)), to_plain(config))


def is_changeable(knob: str) -> bool:
    """True if a knob may differ from what a run directory was made with."""
    return any(knob == free or knob.startswith(f"{free}.") for free in CHANGEABLE_KNOBS)


def write_config(config: RunConfig) -> None:
    """Fixes the settings of a run, as soon as they have proved to fit the data.

    Beside them it writes how the files of the data are stored, see `formats_of_run`.
    """
    folder = Path(config.run_dir)
    is_begun = (folder / CONFIG).exists()
    plain = json.dumps(to_plain(config), indent=2)
    write_piece(folder, CONFIG, plain.encode())
    if not is_begun or not (folder / FORMATS).exists():
        write_piece(folder, FORMATS, as_json(formats_of_run(config)))


def is_reported(config: RunConfig) -> bool:
    """True if the run has its report, of this configuration."""
    folder = Path(config.run_dir)
    pictures = (SAMPLES_PICTURE,) if config.data.splits else ()
    if not all((folder / name).exists() for name in (*OUTPUTS, *pictures)):
        return False
    file = folder / REPORT
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["config"]
        # What was measured does not depend on where a run lies.
        return set(differing_from(before, config)) <= {"run_dir"}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is no report ({type(error).__name__}); put it back, or delete it: it is "
            "written again."
        ) from error


def is_trained(config: RunConfig) -> bool:
    """True if the run has its model, or takes that of another run as it is."""
    return not config.training.steps or (Path(config.run_dir) / MODEL).exists()


def check_sizes(config: RunConfig) -> None:
    """Raises ValueError, in one sentence, if a saved tokenizer reads pictures of another size."""
    for name, modality in config.modalities.items():
        if isinstance(modality.tokenizer, SavedTokenizerConfig):
            folder = Path(modality.tokenizer.path).expanduser()
            given = config.sizes[name]
            size = getattr(load_tokenizer(folder), "picture_size", given)
            for side, wanted, found in zip(("size", "width"), size, given, strict=True):
                if wanted != found:
                    knob = f"--modalities.{name}.{side}" if modality.size else f"--crops.{side}"
                    raise ValueError(
                        f"{knob} is {found}, but the tokenizer {folder} reads pictures of {wanted} "
                        f"pixels; give {wanted}."
                    )


def check_start(config: RunConfig) -> None:
    """Raises ValueError, in one sentence, if there are no weights where a run is to start from."""
    if config.start_from:
        try:
            load_shape(Path(config.start_from).expanduser() / MODEL)
        except ValueError as error:
            raise ValueError(
                f"--start-from is {config.start_from!r}, which has no model that can be read; give "
                "the directory of a finished run."
            ) from error


def check_tokens(config: RunConfig, run: Path) -> None:
    """Checks the stores that a run is to read, against the tokenizers that there are.

    Those that are still to be made are compared when they are there.

    Args:
        config: Of the run.
        run: Its directory, or that of the run that it is a fork of.

    Raises:
        ValueError: If there is no such store, or one that other tokenizers made.
    """
    made_by = {}
    for name, modality in config.modalities.items():
        saved = run / TOKENIZERS / name
        if not saved.exists() and isinstance(modality.tokenizer, SavedTokenizerConfig):
            saved = Path(modality.tokenizer.path).expanduser()
        if saved.exists():
            made_by[name] = fingerprint_files(saved)
    for store in (*config.tokens, *config.heldout_tokens):
        open_store(store, config.modalities, made_by)
