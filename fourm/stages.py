"""The stages of a run: what it is doing, and how long each took."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fourm.results import write_file
from fourm.training.distributed import is_main

SECONDS = "seconds.json"


class Stages:
    """Says what a run is doing and counts the seconds, across interruptions."""

    def __init__(self, folder: Path):
        """Counts on from what `folder`, a run directory, knows of earlier attempts."""
        self.file = folder / SECONDS
        self.seconds = json.loads(self.file.read_text()) if self.file.exists() else {}

    @contextmanager
    def __call__(self, name: str, output: Path) -> Iterator[None]:
        """Within this context the run is at the stage `name`, which makes `output`."""
        if not is_main():
            yield
            return
        print(f"{name} -> {output}", flush=True)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.seconds[name] = round(spent, 2)
            write_file(self.file, json.dumps(self.seconds, indent=2).encode())
