"""The presets by name, and how a command line becomes a configuration."""

import contextlib
import difflib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

import configs
from configs.from_folder.infer import config_from_folder, is_data
from configs.help import cut_help, shown_by_group
from configs.launch import Launch
from configs.presets.nyuv2 import nyuv2
from configs.presets.scenes import scenes, scenes_gpu
from configs.runs.further import is_run, load_run
from configs.schema import RunConfig
from data_pipeline.sources.kinds import KINDS, AnyData, blank_data
from fourm.model.config import PublishedOptions
from tokenizers.settings.checked import checked_later
from tokenizers.settings.own_code import run_file
from tokenizers.values.dense import DenseValues

PRESETS: dict[str, Callable[[], RunConfig]] = {
    "scenes": scenes,
    "scenes_gpu": scenes_gpu,
    "nyuv2": nyuv2,
}
DEFAULT = "scenes"


@dataclass(frozen=True)
class CommandLine:
    """What a command line says; no name stands before the knobs of either part."""

    config: Annotated[RunConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    launch: Annotated[Launch, tyro.conf.arg(name="")]


EARLIER = (
    "configs.from_run",
    "configs.mixtures",
    "data_pipeline.files",
    "data_pipeline.files_source",
    "data_pipeline.kinds",
    "data_pipeline.scene_sampler",
    "data_pipeline.scenes",
    "data_pipeline.sources.files.annotations",
    "data_pipeline.sources.files.class_maps",
    "data_pipeline.sources.files.file_format",
    "data_pipeline.sources.files.formats",
    "data_pipeline.sources.signals",
    "data_pipeline.splits",
    "data_pipeline.tfds_source",
    "data_pipeline.transforms",
    "fourm.generation",
    "fourm.loss",
    "fourm.mixture",
    "fourm.probing",
    "fourm.training.sharding",
    "tokenizers.code_encoder",
    "tokenizers.diffusion_tokenizer",
    "tokenizers.image",
    "tokenizers.vit",
    "tokenizers.vit_tokenizer",
    "tokenizers.wordpiece",
)
"""Modules that parts of a configuration were imported from in earlier versions."""
MOVED_KNOBS = {
    f"model.{each.name}": f"model.published.{each.name}" for each in fields(PublishedOptions)
} | {"masking.chunk_sizes": "masking.ml4m.chunk_sizes"}
"""Knobs of earlier versions, and what they are called now."""


ABOUT = f"""Usage: python train.py [PRESET | FILE.py | RUN | FOLDER] [KIND] [--knob value ...]

PRESET is one of {", ".join(PRESETS)}. FILE.py is your own configuration, which sets
`config = RunConfig(...)`. RUN is a run directory, whose model is fine-tuned. FOLDER holds data:
what its files are is inferred, and written into the run directory as config.py. KIND replaces
the preset's data by another kind: {", ".join(KINDS)} (none: train on --tokens alone). Every knob
overrides the value of the preset."""


def parse_command_line(arguments: Sequence[str]) -> tuple[RunConfig, Launch]:
    """Returns what `[PRESET | FILE.py | RUN] [KIND] [--knob ...]` asks for, and how it is started.

    For the second alone, before all else, there is `configs.launch.read_launch`.

    KIND is a kind of data, one of `data_pipeline.sources.kinds.KINDS`. If it is not the preset's
    own, nothing of the data is set but what follows from the modalities and the knobs.

    `run_dir` is filled in: runs/PRESET unless set.

    Raises:
        ValueError: If the preset does not exist, naming the nearest, or the kind of data; tyro
            answers unknown knobs itself, in the same way.
    """
    arguments = list(arguments)
    words = []
    while arguments and not arguments[0].startswith("-") and len(words) < 2:
        words.append(arguments.pop(0))
    name = words[0] if words else DEFAULT
    config, description = load_preset(name)
    if words[1:]:
        config = replace(config, data=data_of_kind(config, words[1]))
    arguments, wanted = cut_help(arguments)
    with warnings.catch_warnings(), checked_later(), shown_by_group(wanted):
        # A file of the user's may define a data class of its own.
        warnings.filterwarnings("ignore", ".*does not match any type in Union")
        line = tyro.cli(
            CommandLine,
            default=CommandLine(config, Launch()),
            args=rename_knobs(arguments),
            prog=" ".join(["python train.py", name, *words[1:]]),
            description=f"{description}\n\n{ABOUT}",
            config=(tyro.conf.AvoidSubcommands,),
        )
    check_crop_size(config, line.config)
    config = line.config
    config.check()
    if not config.run_dir:
        config = replace(config, run_dir=f"runs/{Path(name).stem}")
    return config, line.launch


def rename_knobs(arguments: Sequence[str]) -> list[str]:
    """Returns a command line with knobs of earlier versions by the names that they have now.

    Example:
        >>> rename_knobs(["--model.qkv-bias", "True", "--model.dim=64"])
        ['--model.published.qkv-bias', 'True', '--model.dim=64']
    """
    renamed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        now = MOVED_KNOBS.get(name.removeprefix("--").replace("-", "_"))
        if now and name.startswith("--"):
            name = f"--{now.replace('_', '-')}"
        renamed.append(f"{name}{equals}{value}")
    return renamed


def check_crop_size(before: RunConfig, config: RunConfig) -> None:
    """Raises ValueError if --crops.size was given where nothing depends on it."""
    shared = [
        name
        for name, each in config.modalities.items()
        if not each.size and isinstance(each.values, DenseValues)
    ]
    if config.crops.size != before.crops.size and not shared:
        sizes = ", ".join(f"{name} {size}" for name, size in config.sizes.items() if size)
        raise ValueError(
            f"--crops.size is {config.crops.size}, but every picture has a size of its own "
            f"({sizes}), that of its tokenizer if this is saved; leave it out, or give "
            "--modalities.NAME.size."
        )


def data_of_kind(config: RunConfig, kind: str) -> AnyData:
    """Returns the configuration's data if it is of this kind, else blank data.

    Raises:
        ValueError: If there is no such kind.
    """
    values = {name: modality.values for name, modality in config.modalities.items()}
    data = blank_data(kind, values)
    return config.data if isinstance(config.data, type(data)) else data


def load_preset(name: str) -> tuple[RunConfig, str]:
    """Returns a preset, the `config` of a Python file, what trains a run further, or what the files
    of a folder are.

    With it comes what it says of itself.
    """
    if name.endswith(".py"):
        return load_file(Path(name))
    if is_run(Path(name)):
        return load_run(Path(name))
    if is_data_folder(name):
        config, told = config_from_folder(Path(name).expanduser())
        print("\n".join([f"In {name}:", *(f"  {line}" for line in told)]))
        return config, f"What the files of {name} are."
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"There is no preset {name!r}; {hint}Presets are {', '.join(PRESETS)}, or give a "
            "FILE.py that sets `config = RunConfig(...)`, a run directory to train further, or a "
            "folder of data."
        )
    return PRESETS[name](), PRESETS[name].__doc__ or ""


def is_data_folder(name: str) -> bool:
    """True if the first word of a command line is a folder of data, or a file of such."""
    path = Path(name).expanduser()
    return name not in PRESETS and is_data(path) and not is_run(path)


@contextlib.contextmanager
def earlier_names() -> Iterator[None]:
    """Lets a file of an earlier version import from modules that have since moved.

    What a configuration is made of is in `configs`, whichever module it was in.
    """
    gone = [name for name in EARLIER if name not in sys.modules]
    sys.modules.update(dict.fromkeys(gone, configs))
    try:
        yield
    finally:
        for name in gone:
            del sys.modules[name]


def load_file(path: Path) -> tuple[RunConfig, str]:
    """Runs a Python file of the user's own and returns its `config` and its docstring."""
    with earlier_names():
        module = run_file(path)
    config = getattr(module, "config", None)
    if not isinstance(config, RunConfig):
        raise ValueError(f"{path} must set `config = RunConfig(...)`, from configs.schema.")
    return config, module.__doc__ or ""
