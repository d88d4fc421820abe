"""Which files a folder holds: as such, or inside archives.

Folders are looked into here, archives in `archives.py`, and bytes are read in `locations.py`.
Nothing else touches the files of samples.
"""

import os
from typing import NamedTuple

from data_pipeline.sources.files.archives import index_archive
from data_pipeline.sources.files.locations import (
    Listing,
    Location,
    Remark,
    natural_order,
    printable,
    split_name,
)

ARCHIVE_ENDINGS = (
    *(".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
)
"""Names of files that are taken for archives; their first bytes tell how they are packed."""
SYSTEM_FILES = ("thumbs.db", "desktop.ini")
SYSTEM_FOLDERS = ("__MACOSX",)
ABOUT_FILES = ("readme", "license", "licence", "copying")
"""Names, without extension, of files that say something about the others."""


class Entry(NamedTuple):
    """One name in a folder."""

    name: str
    is_folder: bool
    size: int
    changed: int
    identity: tuple[int, int]
    """What tells the folder from every other, however it is reached."""


def list_folder(folder: str) -> Listing:
    """Returns all files below a folder, those in its archives included.

    Hidden files, files of operating systems, and READMEs and licences are left out with a remark. A
    folder that holds archives stands for their members; what lies beside them is left out.

    Raises:
        ValueError: If the folder can't be read, or an archive holds a link or a path out of it.
    """
    listing = Listing([], [])
    _walk(folder, "", (), listing)
    return listing


def list_archives(files: list[str], prefix: str = "") -> Listing:
    """Returns the members of archives, in the order given, as `list_folder` does those of a folder.

    Args:
        files: The archives.
        prefix: What comes before every member's name.
    """
    listing = Listing([], [])
    for file in files:
        members, remarks = index_archive(file)
        listing.remarks.extend(remarks)
        for name, location in members:
            if reason := _why_ignored(name):
                listing.remarks.append(Remark("ignored", str(location), reason))
            else:
                listing.files.append((prefix + name, location))
    return listing


def is_archive(name: str) -> bool:
    """True if a file's name is that of an archive."""
    return name.lower().endswith(ARCHIVE_ENDINGS)


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...], listing: Listing) -> None:
    entries = _entries(folder, listing)
    archives = [each.name for each in entries if not each.is_folder and is_archive(each.name)]
    archives = [name for name in archives if not _why_ignored(name)]
    if archives:
        names = sorted(archives, key=natural_order)
        inner = list_archives([os.path.join(folder, name) for name in names], prefix)
        listing.files.extend(inner.files)
        listing.remarks.extend(inner.remarks)
    beside = "" if not archives else "lies beside archives, which are what is read"
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if entry.name in archives:
            continue
        elif reason := _why_ignored(entry.name) or beside:
            listing.remarks.append(Remark("ignored", printable(path), reason))
        elif not entry.is_folder:
            extension = split_name(entry.name)[1]
            location = Location(path, 0, entry.size, "", extension, entry.changed)
            listing.files.append((prefix + entry.name, location))
        elif entry.identity not in above:  # A link may lead to a folder that it lies in.
            _walk(path, f"{prefix}{entry.name}/", (*above, entry.identity), listing)


def _entries(folder: str, listing: Listing) -> list[Entry]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for each in entries:
                try:
                    state = each.stat()
                    is_folder = each.is_dir()
                except OSError as error:
                    reason = f"can't be read: {error.strerror}"
                    listing.remarks.append(Remark("unreadable", printable(each.path), reason))
                    continue
                identity = (state.st_dev, state.st_ino)
                found.append(
                    Entry(each.name, is_folder, state.st_size, state.st_mtime_ns, identity)
                )
    except OSError as error:
        raise ValueError(f"{folder} can't be read: {error.strerror}.") from error
    return sorted(found)


def _why_ignored(name: str) -> str:
    """Returns why a file is never a sample's; empty if it may be."""
    if name[0] == "." or "/." in name:
        return "is hidden"
    last = name.rpartition("/")[2]
    if last.lower() in SYSTEM_FILES or any(part in SYSTEM_FOLDERS for part in name.split("/")):
        return "is a file of the operating system"
    if last[:1] in "rRlLcC" and last.partition(".")[0].lower() in ABOUT_FILES:
        return "is about the other files"
    return ""
