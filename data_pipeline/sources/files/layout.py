"""Which file is which modality of which sample."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_pipeline.sources.files.listing import (
    first_folders,
    is_archive,
    list_archives,
    list_folder,
)
from data_pipeline.sources.files.locations import Listing, Location, Remark
from data_pipeline.sources.files.patterns import Pattern
from data_pipeline.sources.source import Note
from tokenizers.formats.file_names import natural_order, normal_key, split_name
from tokenizers.formats.formats import PICTURES, READABLE, FileFormat

MOST_SHARDS = 1_000_000
SHOWN = 5
"""Extensions or files that a message names."""


class Layout:
    """Finds the files of one split of a data set, and looks into every folder once.

    Attributes:
        notes: On files that are not used.
    """

    def __init__(self, root: Path, split_folder: str, formats: Mapping[str, FileFormat]):
        """Looks at nothing yet.

        Args:
            root: Folder of the data set, or an archive that holds all of it.
            split_folder: Folder of the split below it, or the names of its archives.
            formats: By modality, of all that are in files.
        """
        self.notes: list[Note] = []
        self._root, self._split_folder, self._formats = root, split_folder, formats
        self._listings: dict[str, Listing] = {}

    def find(self, pattern: str) -> dict[str, dict[str, Location]]:
        """Returns the file of every key, by modality.

        Args:
            pattern: Of the names of files; empty if modalities have folders, or their names are in
                those of the files.

        Raises:
            ValueError: If a modality has no file.
        """
        files: dict[str, dict[str, Location]] = {}
        together: list[str] = []
        for name, each in self._formats.items():
            if each.pattern or pattern:
                files[name] = self._by_pattern(name, each.pattern or pattern)
            elif self._has_own_folder(name):
                files[name] = self._in_own_folder(name)
            else:
                together.append(name)
        folders: dict[str, list[str]] = {}
        for name in together:
            folders.setdefault(self._shared_folder(name), []).append(name)
        for folder, names in folders.items():
            files |= self._in_shared_folder(folder, names)
        return {name: files[name] for name in self._formats}

    def class_names(self, pattern: str) -> set[str]:
        """Returns the first folder of every key; none if the split is not there at all."""
        try:
            if not pattern and all(map(self._has_own_folder, self._formats)):
                folders = [os.path.normpath(self._folder_of(name)) for name in self._formats]
                return set().union(*map(first_folders, folders))
            files = self.find(pattern)
        except ValueError:
            return set()
        keys = set().union(*files.values())
        return {key.partition("/")[0] for key in keys if "/" in key}

    def _folder_of(self, name: str) -> Path:
        return self._root / self._split_folder / (self._formats[name].folder or name)

    def _has_own_folder(self, name: str) -> bool:
        folder = os.path.normpath(self._folder_of(name))
        shared = [os.path.normpath(self._folder_of(each)) for each in self._formats]
        is_root = folder == os.path.normpath(self._root / self._split_folder)
        return not is_root and shared.count(folder) == 1 and os.path.isdir(folder)

    def _shared_folder(self, name: str) -> str:
        """Returns the folder, the archive or the pattern of archives that has files of several
        modalities."""
        given = self._folder_of(name)
        split = self._root / self._split_folder
        if given.is_dir():
            return os.path.normpath(given)
        if self._root.is_file():
            return str(self._root)
        beside = f"{split}[-_.]*"  # train.tar, or train-00000.tar and so on.
        for place in (str(split), beside):
            if not split.is_dir() and _archives_at(place):
                return place
        if split.is_dir() and _is_flat(split):
            return os.path.normpath(split)
        if not split.is_dir() and self._root.is_dir() and _is_flat(self._root):
            return os.path.normpath(self._root)
        parent = given.parent
        while not parent.is_dir():
            parent = parent.parent
        have = sorted(each.name for each in parent.iterdir() if each.is_dir())
        raise ValueError(
            f"There is no folder {given} for the modality {name}; {parent} has "
            f"{', '.join(have) or 'no folders'}. Set --data.path, data.modalities.{name}.folder, "
            "data.splits_by or data.pattern."
        )

    def _list(self, place: str, name: str) -> Listing:
        """Returns what is in a folder or in archives; what is ignored there is noted once."""
        if place not in self._listings:
            archives = _archives_at(place)
            listing = list_archives(archives) if archives else list_folder(place)
            self._listings[place] = listing
            self.notes += [
                Note(remark.kind, name, "", remark.file, remark.reason)
                for remark in listing.remarks
            ]
        return self._listings[place]

    def _in_own_folder(self, name: str) -> dict[str, Location]:
        """Returns the files of a folder that a modality has for itself."""
        folder = os.path.normpath(self._folder_of(name))
        extensions = _extensions_of(self._formats[name])
        labels = self._labels_of(name)
        found: dict[str, Location] = {}
        listing = self._list(folder, name)
        for file, location in listing.files:
            stem = _stem_of(file, extensions)
            if not stem:
                if not extensions:
                    self._ignore(name, location)
                continue
            before, _, label = stem.rpartition(".")
            if before and label.lower() in labels and not before.endswith("/"):
                stem = before
            self._add(found, stem, name, location)
        if not found:
            raise ValueError(self._say_nothing(name, folder, listing))
        del self._listings[folder]  # Nobody else looks there, and it may be large.
        return found

    def _in_shared_folder(self, place: str, names: list[str]) -> dict[str, dict[str, Location]]:
        """Returns the files of several modalities, which lie in one folder or in the same archives.

        A file is of the modality that it names: in its ending (k.depth.png), in a folder
        (depth/k.png), or as a whole (k/depth.png). One that names none is of those whose
        extension it has.
        """
        listing = self._list(place, names[0] if len(names) == 1 else "")
        inner = self._inner_prefix(place, listing)
        owners: dict[str, list[str]] = {}
        for name in names:
            for label in self._labels_of(name):
                owners.setdefault(label, []).append(name)
        extensions = {name: _extensions_of(self._formats[name]) for name in names}
        stated = {each for several in extensions.values() for each in several}
        named: dict[str, dict[str, Location]] = {name: {} for name in names}
        plain: dict[str, dict[str, Location]] = {name: {} for name in names}
        kinds: dict[str, set[str]] = {name: set() for name in names}
        for file, location in listing.files:
            if not file.startswith(inner):
                continue
            file = file[len(inner) :]
            stem, extension = split_name(file)
            label, key = _label_in(stem, owners)
            for name in owners[label] if label else names:
                wanted = extensions[name]
                if label and (not wanted or _stem_of(file, wanted) or extension in wanted):
                    if extension in READABLE or wanted:
                        self._add(named[name], key, name, location)
                elif not label and wanted:
                    if stem := _stem_of(file, wanted):
                        self._add(named[name], stem, name, location)
                elif not label and extension in READABLE and extension not in stated:
                    kinds[name].add("png" if extension in PICTURES else extension)
                    if not named[name]:
                        self._add(plain[name], stem, name, location)
        unnamed = [name for name in names if not named[name] and not extensions[name]]
        for name in unnamed:
            is_stated = bool(self._formats[name].folder) or len(unnamed) == 1
            if plain[name] and (len(kinds[name]) > 1 or not is_stated):
                raise ValueError(
                    f"{place} holds files of several kinds ({_counted(listing.files)}), none of "
                    f"which names the modality {name}; set data.modalities.{name}.extension, or "
                    "data.pattern."
                )
        for name in names:
            if not named[name] and not plain[name]:
                raise ValueError(self._say_nothing(name, place, listing))
        return {name: named[name] or plain[name] for name in names}

    def _by_pattern(self, name: str, text: str) -> dict[str, Location]:
        """Returns the files whose names match a pattern."""
        folder = self._formats[name].folder or name
        pattern = Pattern(text, self._split_folder, folder)
        skipped = [Pattern(each, self._split_folder, folder) for each in self._formats[name].skip]
        place, prefix = self._place_of(pattern)
        extensions = _extensions_of(self._formats[name])
        listing = self._list(place, name)
        found: dict[str, Location] = {}
        for file, location in listing.files:
            if not file.startswith(prefix):
                continue
            extension = split_name(file)[1]
            if extensions and not _stem_of(file, extensions):
                continue
            key = pattern.match(file[len(prefix) :])
            if key and (extension in READABLE or extensions):
                whole = pattern.folder + file[len(prefix) :]
                if not any(_matches(each, whole) for each in skipped):
                    self._add(found, key, name, location)
        if not found:
            raise ValueError(self._say_no_match(name, text, pattern, place, prefix, listing))
        return found

    def _place_of(self, pattern: Pattern) -> tuple[str, str]:
        """Returns the folder or archive in which a pattern's files are, and what they begin with.

        If the pattern's folder is not there, it is inside archives of a folder above it.
        """
        inner: list[str] = []
        split = self._root / self._split_folder
        if pattern.folder.startswith(f"{self._split_folder}/") and not split.is_dir():
            below = pattern.folder.removeprefix(f"{self._split_folder}/")
            for place in (str(split), f"{split}[-_.]*"):  # As in `_shared_folder`.
                if _archives_at(place) and not self._has_folder(place, pattern.folder):
                    return place, below
        folder = os.path.normpath(self._root / pattern.folder)
        while not os.path.isdir(folder) and not os.path.isfile(folder):
            folder, last = os.path.split(folder)
            inner.insert(0, last)
        return folder, "".join(f"{part}/" for part in inner)

    def _has_folder(self, place: str, folder: str) -> bool:
        """True if archives hold a folder themselves."""
        return any(file.startswith(folder) for file, _ in self._list(place, "").files)

    def _inner_prefix(self, place: str, listing: Listing) -> str:
        """Returns the split's folder inside archives that hold the whole data set."""
        inner = os.path.normpath(self._split_folder)
        if os.path.normpath(place) != os.path.normpath(self._root) or inner == ".":
            return ""
        prefix = f"{inner}/"
        # What is packed as a folder has that folder's name in front of all others.
        firsts = {file.partition("/")[0] for file, _ in listing.files}
        for each in (prefix, f"{next(iter(firsts))}/{prefix}" if len(firsts) == 1 else prefix):
            if any(file.startswith(each) for file, _ in listing.files):
                return each
        raise ValueError(
            f"{place} holds nothing in a folder {prefix}; files there look like "
            f"{_examples(listing.files) or 'nothing'}. Set data.splits_by."
        )

    def _labels_of(self, name: str) -> set[str]:
        """Returns words in a file's name that say that it is of this modality."""
        folder = os.path.basename(os.path.normpath(self._formats[name].folder or name))
        return {name.lower(), folder.lower()} - {"."}

    def _add(self, found: dict[str, Location], stem: str, name: str, location: Location) -> None:
        key = normal_key(stem).removeprefix("all/")
        if key in found:
            reason = f"has the same key as {found[key]}, which is used"
            self.notes.append(Note("listed twice", name, key, str(location), reason))
        else:
            found[key] = location

    def _ignore(self, name: str, location: Location) -> None:
        reason = "is not of a kind that can be read"
        self.notes.append(Note("ignored", name, "", str(location), reason))

    def _say_nothing(self, name: str, place: str, listing: Listing) -> str:
        extension = self._formats[name].extension
        wanted = f".{extension.lstrip('.')} file" if extension else "file"
        said = f"{place} holds no {wanted} for the modality {name}, neither as such nor in archives"
        if unreadable := _why_unreadable(listing.remarks):
            return f"{said}: {unreadable}."
        if listing.files:
            said += f"; there are {_counted(listing.files)}, such as {_examples(listing.files)}"
        elif listing.remarks:
            said += f"; {listing.remarks[0].file} {listing.remarks[0].reason}"
        readable = f"Set data.modalities.{name}.extension"
        return (
            f"{said}. Readable are {', '.join(READABLE)}. {readable} or .folder, or data.pattern."
        )

    def _say_no_match(
        self, name: str, text: str, pattern: Pattern, place: str, prefix: str, listing: Listing
    ) -> str:
        said = f"No file below {os.path.join(place, prefix)} matches the pattern {text!r} of {name}"
        if unreadable := _why_unreadable(listing.remarks):
            return f"{said}: {unreadable}."
        if not listing.files:
            return f"{said}: there are no files. Set --data.path or data.splits_by."
        lower = Pattern(text.lower(), self._split_folder.lower(), name.lower())
        if any(lower.match(file.lower()) for file, _ in listing.files[:1000]):
            return f"{said}: they differ in upper and lower case, as {_examples(listing.files)}."
        return f"{said}; there are {_counted(listing.files)}, such as {_examples(listing.files)}."


def _archives_at(place: str) -> list[str]:
    """Returns the archives that a name stands for: its own, those it matches, or a range of them.

    Example: train.tar, train-*.tar, train-{00000..00099}.tar.
    """
    if os.path.isfile(place):
        return [place]
    folder, name = os.path.split(place)
    if several := re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", name):
        before, first, last, after = several.groups()
        numbers = range(int(first), min(int(last), int(first) + MOST_SHARDS) + 1)
        names = [f"{before}{number:0{len(first)}d}{after}" for number in numbers]
        return [file for each in names if os.path.isfile(file := os.path.join(folder, each))]
    if not set(name) & set("*?["):
        return []
    return sorted(filter(is_archive, glob.glob(f"{glob.escape(folder)}/{name}")), key=natural_order)


def _is_flat(folder: Path) -> bool:
    """True for a folder with archives, or with files and no folders."""
    with os.scandir(folder) as entries:
        shown = [each for each in entries if not each.name.startswith(".")]
    names = [each.name for each in shown if each.is_file()]
    return any(map(is_archive, names)) or (bool(names) and len(names) == len(shown))


def _extensions_of(file_format: FileFormat) -> tuple[str, ...]:
    """Returns the extensions that are asked for, such as jpg, or rgb.jpg; () for any."""
    several = re.split(r"[,|\s]+", file_format.extension.lower())
    return tuple(each.lstrip(".") for each in several if each.lstrip("."))


def _stem_of(file: str, extensions: tuple[str, ...]) -> str:
    """Returns a file's name without its extension; empty if it has none of those asked for."""
    stem, extension = split_name(file)
    if not extensions:
        return stem if extension in READABLE else ""
    lower = file.lower()
    for each in extensions:
        for ending in (f".{each}", f".{each}.gz"):
            if lower.endswith(ending):
                return file[: -len(ending)]
    return ""


def _label_in(stem: str, labels: Mapping[str, object]) -> tuple[str, str]:
    """Returns the modality's name that a file's name holds, and the key that is left; or none."""
    before, _, label = stem.rpartition(".")
    label = label.lower()
    if before and label in labels and not before.endswith("/"):
        return label, before
    parts = stem.split("/")
    for index, part in enumerate(parts if len(parts) > 1 else ()):
        if part.lower() in labels:
            return part.lower(), "/".join(parts[:index] + parts[index + 1 :])
    return "", stem


def _matches(pattern: Pattern, file: str) -> bool:
    """True if a file's name below the data set's folder fits a pattern."""
    return file.startswith(pattern.folder) and bool(pattern.match(file[len(pattern.folder) :]))


def _why_unreadable(remarks: Iterable[Remark]) -> str:
    return next((f"{each.file} {each.reason}" for each in remarks if each.kind != "ignored"), "")


def _counted(files: list[tuple[str, Location]]) -> str:
    counts = Counter(split_name(name)[1] or "no extension" for name, _ in files)
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(SHOWN))


def _examples(files: list[tuple[str, Location]]) -> str:
    return repr(files[0][0]) if files else ""
