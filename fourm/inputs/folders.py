"""Folders of inputs: files are paired by key, as those of a data set are."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fourm.inputs.files import SUFFIXES, FileReader, is_there, path_of
from fourm.inputs.generated import GENERATED, digest_of, find_record, read_record
from fourm.inputs.samples import Given, Seen, as_seen, read
from tokenizers.formats.file_format import FileFormat
from tokenizers.formats.file_names import kind_of, natural_order, normal_key, split_name
from tokenizers.storage.run_paths import LEFT_OUT
from tokenizers.storage.unfinished import write_file

Sources = dict[str, Path | str]
"""Of one sample: by modality a file, or the value itself."""


@dataclass(frozen=True)
class LeftOut:
    """A value that could not be used, or a sample; as `left_out.jsonl` of a run has it."""

    kind: str
    """"unreadable"; "misaligned" for pictures that can't show the same; or "unusable"."""
    modality: str
    """Of the value; empty if it is the whole sample."""
    key: str
    file: str
    reason: str


def find_samples(
    given: Mapping[str, Sequence[str]], formats: Mapping[str, FileFormat]
) -> dict[str, Sources]:
    """Returns samples by key: those of the folders, and of the lists of files, that are given.

    A sample lacks a modality of which it has no file. A single word that is no folder, such as a
    text, is the same for all samples.

    Args:
        given: Words of the command line by modality.
        formats: How files of each are stored.

    Returns:
        None of them if there is no folder: then inputs go together by their order.

    Raises:
        ValueError: If a folder has no file that can be read or two for one key, or no key of one
            modality is one of another.
    """
    if not any(_is_folder(words) for words in given.values()):
        return {}
    keyed: dict[str, dict[str, Path]] = {}
    shared: Sources = {}
    for name, words in given.items():
        if _is_folder(words):
            keyed[name] = _files_in(path_of(words[0]), name, formats.get(name))
        elif len(words) > 1:
            pairs = [(split_name(Path(word).name)[0], path_of(word)) for word in words]
            keyed[name] = _by_key(pairs, name)
        else:
            path = path_of(words[0])
            shared[name] = path if path.suffix.lower() in SUFFIXES else words[0]
    for name, files in keyed.items():
        others = [key for other in keyed if other != name for key in keyed[other]]
        if others and not set(files) & set(others):
            raise ValueError(
                f"No file of {name}, such as {next(iter(files))}, has the key of one of another "
                f"modality, such as {others[0]}; names without their endings must be equal."
            )
    keys = sorted({key for files in keyed.values() for key in files}, key=natural_order)
    return {
        key: {name: files[key] for name, files in keyed.items() if key in files} | shared
        for key in keys
    }


def _is_folder(words: Sequence[str]) -> bool:
    return len(words) == 1 and is_there(path_of(words[0]), as_folder=True)


def _files_in(folder: Path, name: str, file_format: FileFormat | None) -> dict[str, Path]:
    own = file_format.extension.replace(",", " ").split() if file_format else []
    drawings = _drawings_of(folder)
    pairs = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in inner.parts)
        kind = kind_of(path.name)
        is_wanted = kind in own if own else f".{kind}" in SUFFIXES
        if is_hidden or not is_wanted or path.name == GENERATED or not path.is_file():
            continue
        if path.absolute() not in drawings:
            pairs.append((split_name(inner.as_posix())[0], path))
    if not pairs:
        endings = ", ".join(own) or ", ".join(each[1:] for each in SUFFIXES)
        raise ValueError(f"{folder} has no file of {name}; readable are {endings}.")
    return _by_key(pairs, name)


def _drawings_of(folder: Path) -> set[Path]:
    """Returns the files that generation wrote to be looked at: their values lie beside them."""
    record = find_record(folder / "any")
    files = read_record(record)["files"] if record else []
    return {record.parent / each["name"] for each in files if record and each["holds"] != "value"}


def _by_key(pairs: Sequence[tuple[str, Path]], name: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stem, path in pairs:
        key = normal_key(stem)
        if key in found:
            raise ValueError(
                f"{found[key]} and {path} are both the {name} of the sample {key}; leave one."
            )
        found[key] = path
    return found


def digests_of(sources: Sources) -> dict[str, str]:
    """Returns what tells the inputs of a sample from others; nothing for files that are gone."""
    found = {}
    for name, source in sources.items():
        if isinstance(source, Path):
            found[name] = digest_of(source.read_bytes()) if source.is_file() else ""
        else:
            found[name] = digest_of(source.encode())
    return found


def place_of(key: str, number: int) -> int:
    """Returns what the random draws of a sample depend on, whichever others there are."""
    return zlib.crc32(f"{key}/{number}".encode()) >> 1


def read_sample(key: str, sources: Sources, reader: FileReader) -> tuple[Seen, list[LeftOut]]:
    """Returns one sample as the model sees it, and what had to be left out.

    A file that is damaged, or is not what its modality's format says, leaves its sample without the
    modality.
    """
    sample: dict[str, Given] = {}
    notes = []
    for name in [each for each in reader.tokenizers if each in sources]:
        try:
            sample[name] = read(sources[name], name, reader)
        except ValueError as error:
            notes.append(LeftOut("unreadable", name, key, str(sources[name]), str(error)))
    try:
        return as_seen(sample, reader.tokenizers), notes
    except ValueError as error:
        return Seen({}, None), [*notes, LeftOut("misaligned", "", key, "", str(error))]


def write_left_out(folder: Path, notes: Sequence[LeftOut], kept: set[str]) -> None:
    """Lists what was left out; of samples that were made before, what was said then stays.

    Args:
        folder: Where `left_out.jsonl` is.
        notes: What is left out now.
        kept: Keys of the samples that are not made again.
    """
    file = folder / LEFT_OUT
    before = [each for each in _lines_of(file) if json.loads(each).get("key") in kept]
    lines = [*before, *(json.dumps(asdict(each)) for each in notes)]
    if lines or file.exists():
        write_file(file, "".join(f"{line}\n" for line in lines).encode())


def _lines_of(file: Path) -> Iterator[str]:
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                if isinstance(json.loads(line), dict):
                    yield line
            except ValueError:  # Not ours.
                continue
