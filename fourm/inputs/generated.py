"""What generation wrote, and how: `generated.json` beside the files.

A generated array is in its modality's own units, whatever the files of the run's data store; so it
must not go through their format when it is given again. No content tells the two apart, so files
are told by where they come from: one whose digest is listed beside it was generated.

    {"format": 1,
     "commands": [{"run": {...}, "seed": 0, "settings": {...}, "inputs": {...}, "values": {...}}],
     "files": [{"name": "depth_000.npy", "sha256": "...", "modality": "depth", "holds": "value",
                "command": 0}, ...]}

`values` says what the numbers of every generated modality mean; `holds` is "drawing" for what is
made to be looked at, and has another file beside it with the value. A file is listed before it is
written: one that is there without an entry was not generated. While a command that writes many
files is at work, those after the first ones are listed in `generated.jsonl`, line by line, after
the command that makes them: to write all of the list again and again would take ever longer.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tokenizers.storage.unfinished import write_file

GENERATED = "generated.json"
JOURNAL = "generated.jsonl"
"""Beside it: what a command that has not ended has listed since."""
FORMAT = 1


class Output(NamedTuple):
    """A file that is to be written."""

    name: str
    """Within its folder."""
    content: bytes
    modality: str
    holds: str
    """"value", or "drawing" where the numbers are elsewhere."""
    sample: Mapping[str, Any] = MappingProxyType({})
    """What else is kept of it: the key of the sample, and digests of what it was generated from."""


class Origin(NamedTuple):
    """What is known of a generated file."""

    modality: str
    holds: str
    values: Any
    """What its numbers mean, in plain values."""


def find_origin(file: Path, content: bytes, modality: str) -> Origin | None:
    """Returns where a file comes from if it was generated, None if it was not.

    Args:
        file: Its path; `generated.json` is looked for in its folder, and in those above.
        content: Its bytes.
        modality: That it is given as; of several files with the same bytes, one of it is preferred.

    Raises:
        ValueError: If there is a `generated.json` which can't be read.
    """
    record = find_record(file)
    found = None
    for each in _by_digest(record).get(digest_of(content), ()) if record else ():
        found = each if found is None or each.modality == modality else found
    return found


def find_record(file: Path) -> Path | None:
    """Returns the nearest `generated.json`, in the folder of a file or above, if there is one."""
    folders = file.absolute().parents
    return next((each / GENERATED for each in folders if (each / GENERATED).is_file()), None)


def digest_of(content: bytes) -> str:
    """Returns the SHA-256 of some bytes in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _by_digest(record: Path) -> dict[str, list[Origin]]:
    states = [path.stat() for path in (record, record.with_name(JOURNAL)) if path.is_file()]
    return _read_by_digest(record, tuple((each.st_mtime_ns, each.st_size) for each in states))


@lru_cache(maxsize=4)
def _read_by_digest(record: Path, states: tuple[tuple[int, int], ...]) -> dict[str, list[Origin]]:
    """Returns where files come from by their digest; a record that has changed is read again."""
    content = read_record(record)
    found: dict[str, list[Origin]] = {}
    for each in content["files"]:
        values = content["commands"][each["command"]].get("values", {}).get(each["modality"])
        origin = Origin(each["modality"], each["holds"], values)
        found.setdefault(each["sha256"], []).append(origin)
    return found


def read_record(record: Path) -> dict[str, Any]:
    """Returns what a `generated.json` holds, and the journal beside it, if there is one.

    Raises:
        ValueError: If it is damaged, or of another version.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, where {FORMAT} is read")
        for each in content["files"]:
            texts = [each[name] for name in ("name", "sha256", "modality", "holds")]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("an entry without name, sha256, modality or holds")
            content["commands"][each["command"]].get("values", {})
        return _with_journal(content, record.with_name(JOURNAL))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{record}, which says what was generated, can't be read ({error}); put it back, or "
            "delete it: files beside it then count as your own."
        ) from error


def _with_journal(content: dict[str, Any], journal: Path) -> dict[str, Any]:
    """Returns a record with what the command that wrote the journal has listed since."""
    if not journal.is_file():
        return content
    # A line without an end was being written when the command was killed, before its file was.
    command, *lines = journal.read_text(encoding="utf-8").split("\n")[:-1] or [""]
    if not command:
        return content
    commands, files = content["commands"], content["files"]
    own = json.loads(command)
    if own not in commands:
        commands.append(own)
    added = [{**json.loads(line), "command": commands.index(own)} for line in lines]
    listed = {(each["name"], each["sha256"]): each for each in [*files, *added]}
    return {**content, "files": list(listed.values())}


@dataclass
class GeneratedFolder:
    """A folder that generation writes into, with its record."""

    folder: Path
    command: dict[str, Any]
    """How the files are made: what JSON can hold."""
    _own: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        record = self.folder / GENERATED
        before = read_record(record) if record.is_file() else {"commands": [], "files": []}
        self._before = before

        self._done: dict[str, list[dict[str, Any]]] = {}
        for each in before["files"]:
            if before["commands"][each["command"]] == self.command and "key" in each:
                self._done.setdefault(each["key"], []).append(each)

    def has(self, key: str, inputs: Mapping[str, str], targets: Sequence[str], count: int) -> bool:
        """True if the same command wrote a sample before, of the same inputs, and it is there.

        Args:
            key: Of the sample.
            inputs: Digests of what it is generated from.
            targets: Modalities that it must have.
            count: How many of each.
        """
        entries = self._done.get(key, [])
        if any(each.get("inputs") != dict(inputs) for each in entries):
            return False
        held = [each["modality"] for each in entries if each["holds"] == "value"]
        if any(held.count(name) != count for name in targets):
            return False
        files = [(self.folder / each["name"], each["sha256"]) for each in entries]
        return all(file.is_file() and digest_of(file.read_bytes()) == sha for file, sha in files)

    def write(self, outputs: Sequence[Output]) -> None:
        """Lists and writes some files.

        Raises:
            OSError: If the system refuses.
        """
        new = [
            {
                "name": each.name,
                "sha256": digest_of(each.content),
                "modality": each.modality,
                "holds": each.holds,
                **each.sample,
            }
            for each in outputs
        ]
        is_first = not self._own
        self._own += new
        if is_first:
            # Files that are about to be replaced stay listed until they are.
            made = {(each["name"], each["sha256"]) for each in new}
            before = self._before["files"]
            self._write_record([e for e in before if (e["name"], e["sha256"]) not in made])
        else:
            self._write_journal(new)
        for each in outputs:
            (self.folder / each.name).parent.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / each.name, each.content)

    def close(self) -> None:
        """Leaves no entry of files that have been replaced, and no journal."""
        if not self._own:
            return
        # Of a file that was written twice the last one is there.
        self._own = list({each["name"]: each for each in self._own}.values())
        written = {each["name"] for each in self._own}
        self._write_record([each for each in self._before["files"] if each["name"] not in written])

    def _write_record(self, earlier: list[dict[str, Any]]) -> None:
        used = sorted({each["command"] for each in earlier})
        commands = [self._before["commands"][number] for number in used]
        places = {number: place for place, number in enumerate(used)}
        files = [{**each, "command": places[each["command"]]} for each in earlier]
        if self.command in commands:
            own = commands.index(self.command)
        else:
            own = len(commands)
            commands.append(self.command)
        files += [{**each, "command": own} for each in self._own]
        content = {"format": FORMAT, "commands": commands, "files": files}
        write_file(self.folder / GENERATED, (json.dumps(content, indent=1) + "\n").encode())
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def _write_journal(self, new: Sequence[Mapping[str, Any]]) -> None:
        journal = self.folder / JOURNAL
        lines = [] if journal.exists() else [json.dumps(self.command)]
        lines += [json.dumps(each) for each in new]
        with journal.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
