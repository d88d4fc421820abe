"""The stages of a run: what it is doing, and how long each took."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers.process.command import make_visible
from tokenizers.storage.pieces import check_pieces, record_pieces, write_piece
from tokenizers.storage.run_paths import SECONDS


class Stages:
    """Says what a run is doing and counts the seconds, across interruptions."""

    def __init__(self, folder: Path, is_main: bool = True):
        """Counts on from what `folder`, a run directory, knows of earlier attempts.

        Args:
            folder: The run directory.
            is_main: Whether this process tells and writes; of several processes, one does.

        Raises:
            ValueError: If its file says something else than seconds by stage.
        """
        self.folder, self._is_main = Path(folder), is_main
        self.seconds = read_seconds(self.folder) if is_main else {}

    @contextmanager
    def __call__(self, name: str, output: Path) -> Iterator[None]:
        """Within this context the run is at the stage `name`, which makes `output`.

        Pieces of the run directory that were made get their entries in its record at the end.
        """
        if not self._is_main:
            yield
            return
        print(f"{name} -> {make_visible(str(output))}", flush=True)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.seconds[name] = round(spent, 2)
            write_piece(self.folder, SECONDS, json.dumps(self.seconds, indent=2).encode())
        record_pieces(self.folder)


def read_seconds(folder: Path) -> dict[str, float]:
    """Returns how long each stage of a run took; nothing if no stage has ended.

    Raises:
        ValueError: One sentence, if the file does not say it.
    """
    file = Path(folder) / SECONDS
    check_pieces(folder, [SECONDS])
    if not file.exists():
        return {}
    try:
        seconds = json.loads(file.read_text(encoding="utf-8"))
        is_usable = isinstance(seconds, dict) and all(
            type(each) in (int, float) and 0 <= each < math.inf for each in seconds.values()
        )
    except (ValueError, TypeError, RecursionError):
        is_usable = False
    if not is_usable:
        raise ValueError(
            f"{file} does not say how many seconds each stage took; put it back, or delete it: "
            "they are counted from now on."
        )
    return seconds
