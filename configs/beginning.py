"""How a run begins: its settings, off a command line, and its directory, locked and opened."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from configs.command_line import is_data_folder, parse_command_line
from configs.from_folder.source_code import to_source
from configs.launch import Launch
from configs.runs.settings import as_begun, open_run
from configs.runs.sizes import close_sizes
from configs.schema import RunConfig
from fourm.devices.processes import run_on_main
from fourm.run_directory.lock import locked, undone_if_refused
from tokenizers.storage.run_paths import CONFIG_SOURCE
from tokenizers.storage.unfinished import write_file


class Beginning(NamedTuple):
    """What a command line asks for."""

    config: RunConfig
    """It leaves nothing open."""
    launch: Launch
    source: str = ""
    """What a folder of data was taken to hold, as a Python file; empty if none was named."""


def read_beginning(arguments: Sequence[str]) -> Beginning:
    """Returns the settings of a run; those that it was begun with, where it has begun.

    Raises:
        ValueError: If the command line makes no sense.
    """
    given, launch = parse_command_line(arguments)
    config = close_sizes(as_begun(given, launch.fork), launch.fork)
    source = ""
    if arguments and is_data_folder(arguments[0]):
        title = f"What was inferred from {arguments[0]}; edit it and train with it."
        source = to_source(given, title)
    return Beginning(config, launch, source)


@contextmanager
def opened(beginning: Beginning) -> Iterator[Path]:
    """Opens or starts the run directory, which no other process may write to meanwhile.

    Raises:
        ValueError: If it can't be, see `open_run`; a directory that was made for it is gone then.
    """
    config, launch = beginning.config, beginning.launch
    folder = Path(config.run_dir)
    with ExitStack() as stack:

        def begin() -> None:
            for context in (locked, undone_if_refused):
                stack.enter_context(context(folder))
            open_run(config, launch.fork, launch.use)
            source = folder / CONFIG_SOURCE
            if beginning.source and not source.exists():
                folder.mkdir(parents=True, exist_ok=True)
                write_file(source, beginning.source.encode())
                print(f"Written as a configuration to edit: {source}")

        run_on_main(begin)
        yield folder
