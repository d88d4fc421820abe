"""What a run measured while it trained: `metrics.jsonl`, and the same for TensorBoard."""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from tokenizers.storage.pieces import forget_pieces
from tokenizers.storage.run_paths import METRICS, TENSORBOARD
from tokenizers.storage.unfinished import naming, write_file

TENSORBOARD = TENSORBOARD
START = b'{"stage": '
"""With which every line begins."""


class RunLog:
    """Appends measured numbers to `metrics.jsonl` and to TensorBoard events.

    `metrics.jsonl` is the record: one line per write, on disk when `write` returns, so a process
    that is killed loses nothing. TensorBoard's events are a copy of it, which is made anew by the
    first write after the log was opened or rewound; so neither ever holds a step twice.

    Use it in a `with` statement, or call `close`.
    """

    def __init__(self, folder: Path):
        """Opens the log of a run directory, new or not. A half-written last line is dropped."""
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / METRICS
        if self._path.exists():
            content = self._path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self._path, whole)
        else:
            forget_pieces(self._folder, METRICS)
        self._file = self._path.open("a", encoding="utf-8")
        self._events: EventsWriter | None = None
        self._digests: dict[str, Any] = {}

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Appends one line, {"stage": ..., "step": ..., name: value, ...}.

        Args:
            stage: What is being trained, such as "model".
            step: Steps done so far in this stage.
            values: Numbers by name; those that are not finite are written as null.

        Raises:
            ValueError: If a value is named "stage" or "step".
        """
        taken = {"stage", "step"} & set(values)
        if taken:
            raise ValueError(
                f"A logged value is named {taken.pop()!r}, which every line has already; "
                "give it another name."
            )
        if self._events is None:
            forget_pieces(self._folder, METRICS)
            self._events = self._copy_events()
        line = {"stage": stage, "step": int(step)}
        line |= {name: _finite(value) for name, value in values.items()}
        with naming(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        if stage in self._digests:  # Kept up to date: a log may be long.
            self._digests[stage].update(_told(line))
        with naming(self._folder / TENSORBOARD):
            _add(self._events, line)

    def digest(self, stage: str) -> str:
        """Returns a digest of what was written of `stage`, by which `rewind` knows it again."""
        if stage not in self._digests:
            lines = [line for line in read_metrics(self._folder) if line["stage"] == stage]
            self._digests[stage] = _digest(lines)
        return self._digests[stage].hexdigest()

    def rewind(self, stage: str, step: int, digest: str | None = None) -> None:
        """Drops what was written of `stage` after `step`, as when training resumes from there.

        Args:
            stage: What is being trained.
            step: Steps that stand.
            digest: Of the lines that stand, as they were at that step; nothing is compared without
                it, or if the whole log is lost.

        Raises:
            ValueError: If lines of these steps are missing or are others.
        """
        lines = read_metrics(self._folder)
        standing = [line for line in lines if line["stage"] == stage and line["step"] <= step]
        # One that was lost as a whole, and begun again, begins after that step.
        is_lost = not lines or (lines[0]["stage"] == stage and lines[0]["step"] > step)
        if not is_lost and digest not in (None, _digest(standing).hexdigest()):
            raise ValueError(
                f"{self._path} is not what was written up to step {step} of {stage}: lines are "
                "missing, or were changed; put it back, or delete it to go on without the curves."
            )
        kept = [line for line in lines if line["stage"] != stage or line["step"] <= step]
        if len(kept) == len(lines):
            return
        self._digests.clear()
        self.close()
        forget_pieces(self._folder, METRICS)
        write_file(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Writes out what is buffered for TensorBoard and closes the files."""
        self._file.close()
        if self._events is not None:
            with suppress(OSError):  # They are made anew.
                self._events.close()
            self._events = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _copy_events(self) -> EventsWriter:
        folder = self._folder / TENSORBOARD
        shutil.rmtree(folder, ignore_errors=True)
        with naming(folder):
            folder.mkdir()
            # Not SummaryWriter: its thread ends on a full disk, and whoever waits for it waits on.
            events = EventsWriter(str(folder / "events"))
            for line in read_metrics(self._folder):
                _add(events, line)
        return events


class SilentLog(RunLog):
    """Keeps nothing: the log of all processes of a run but one."""

    def __init__(self) -> None:
        pass

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        pass

    def digest(self, stage: str) -> str:
        return ""

    def rewind(self, stage: str, step: int, digest: str | None = None) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run directory's `metrics.jsonl`, in order; none if there is no file.

    A last line that is still being written is left out.

    Raises:
        ValueError: If a line is damaged, or holds something else than numbers.
    """
    path = Path(folder) / METRICS
    if not path.exists():
        return []
    lines = []
    *whole, half = path.read_bytes().split(b"\n")
    if half[: len(START)] != START[: len(half)]:
        whole.append(half)  # It is not what a write that was cut short leaves.
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text)
            lines.append({"stage": line["stage"], "step": line["step"], **line})
            _check(line)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged in line {number}; delete that line to go on without it."
            ) from error
    return lines


def _digest(lines: Iterable[Mapping[str, Any]]) -> Any:
    """Returns a digest of lines that further ones can be added to."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(_told(line))
    return digest


def _told(line: Mapping[str, Any]) -> bytes:
    """Returns what a line says, but for how fast it went."""
    told = {name: value for name, value in line.items() if name != "samples_per_second"}
    return json.dumps(told).encode()


def _check(line: Mapping[str, Any]) -> None:
    if type(line["stage"]) is not str or type(line["step"]) is not int or line["step"] < 0:
        raise ValueError("a stage is a word, a step a number from 0")
    for name, value in line.items():
        is_number = type(value) in (int, float) and math.isfinite(value)
        if name not in ("stage", "step") and not (value is None or is_number):
            raise ValueError(f"{name} is not a number")


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _add(events: EventsWriter, line: Mapping[str, Any]) -> None:
    for name, value in line.items():
        if name not in ("stage", "step") and value is not None:
            summary = scalar(f"{line['stage']}/{name}", value)
            events.write_event(Event(wall_time=time.time(), step=line["step"], summary=summary))
    events.flush()
