"""Results of many samples as a file of lines, which grows and can go on where it stopped."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers.storage.unfinished import write_file


class LineFile(Mapping[str, dict[str, Any]]):
    """Lines of JSON by the key of their sample.

    The first line, {"of": ...}, says what all others have in common. A file of something else is
    written anew, and a line that was not finished is made again.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]):
        """Args:
        path: The file, which need not be there.
        of: What the lines are of, as JSON holds it.
        """
        self.path = path
        self._of = json.loads(json.dumps(of))
        self._lines: dict[str, dict[str, Any]] = {}
        first, *others = _parsed(path) or [None]
        if first == {"of": self._of}:
            self._lines = {line["key"]: line for line in others if "key" in line}
        write_file(path, "".join(map(_line, [{"of": self._of}, *self._lines.values()])).encode())

    def add(self, lines: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds lines by key, in place of those that were there."""
        new = {key: {"key": key, **line} for key, line in lines.items()}
        self._lines |= new
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, new.values())))
            file.flush()
            os.fsync(file.fileno())

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._lines[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def _line(content: Mapping[str, Any]) -> str:
    return f"{json.dumps(content)}\n"


def _parsed(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            content = json.loads(line)
        except ValueError:  # Not finished.
            continue
        found += [content] if isinstance(content, dict) else []
    return found
