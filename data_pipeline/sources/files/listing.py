"""Which files a folder holds: as such, or inside archives.

Folders are looked into here, archives in `archives.py`, and bytes are read in `locations.py`.
Nothing else touches the files of samples.
"""

import os
import stat

from data_pipeline.sources.files.archives import index_archive
from data_pipeline.sources.files.locations import Listing, Location, Remark
from tokenizers.formats.file_format import READABLE
from tokenizers.formats.file_names import (
    kind_of,
    natural_order,
    normal_key,
    printable,
)

ARCHIVE_ENDINGS = (
    *(".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip"),
)
"""Names of files that are taken for archives; their first bytes tell how they are packed."""
SYSTEM_FILES = ("thumbs.db", "desktop.ini")
SYSTEM_FOLDER = "__MACOSX"
ABOUT_FILES = ("readme", "license", "licence", "copying")
"""Names, without extension, of files that say something about the others."""


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


def first_folders(folder: str) -> set[str]:
    """Returns the folders in which a folder's files lie, without looking into them."""
    with os.scandir(folder) as entries:
        names = {each.name for each in entries if each.is_dir() or is_archive(each.name)}
    if any(map(is_archive, names)):
        files = [name.removeprefix("all/") for name, _ in list_folder(folder).files]
        names = {name.partition("/")[0] for name in files if "/" in name}
    elif "all" in names:
        names = (names - {"all"}) | first_folders(os.path.join(folder, "all"))
    return {normal_key(name) for name in names if not _why_ignored(name)}


def is_archive(name: str) -> bool:
    """True if a file's name is that of an archive."""
    return name.lower().endswith(ARCHIVE_ENDINGS)


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...], listing: Listing) -> None:
    """Adds the files below a folder.

    Args:
        folder: To look into.
        prefix: What comes before its files' names.
        above: What the system tells this folder and those that it lies in by.
        listing: Gets the files.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} can't be read: {error.strerror}.") from error
    archives = {each.name for each in entries if is_archive(each.name) and each.is_file()}
    archives = {name for name in archives if not _why_ignored(name)}
    has_zips = any(map(_is_zip, archives))
    if has_zips and (not all(map(_is_zip, archives)) or any(map(_is_sample, entries))):
        # Beside what is read, a zip archive is likely what the rest was unpacked from.
        archives = {name for name in archives if not _is_zip(name)}
    if archives:
        files = [os.path.join(folder, name) for name in sorted(archives, key=natural_order)]
        inner = list_archives(files, prefix)
        listing.files.extend(inner.files)
        listing.remarks.extend(inner.remarks)
    beside = "lies beside archives, which are what is read" if archives else ""
    for entry in entries:
        name = entry.name
        if name in archives:
            continue
        if reason := _why_ignored(name) or beside:
            listing.remarks.append(Remark("ignored", printable(entry.path), reason))
            continue
        try:
            state = entry.stat()
            is_folder = entry.is_dir()
        except OSError as error:
            reason = f"can't be read: {error.strerror}"
            listing.remarks.append(Remark("unreadable", printable(entry.path), reason))
            continue
        if not is_folder and not stat.S_ISREG(state.st_mode):
            # To read a pipe would wait for someone who writes to it.
            reason = "is neither a file nor a folder"
            listing.remarks.append(Remark("ignored", printable(entry.path), reason))
        elif not is_folder:
            extension = kind_of(name)
            location = Location(entry.path, 0, state.st_size, "", extension, state.st_mtime_ns)
            listing.files.append((prefix + name, location))
        elif (identity := (state.st_dev, state.st_ino)) not in above:  # A link may lead back.
            _walk(entry.path, f"{prefix}{name}/", (*above, identity), listing)


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _is_sample(entry: os.DirEntry[str]) -> bool:
    """True for a folder, and for a file that may be a sample's."""
    if _why_ignored(entry.name):
        return False
    return entry.is_dir() or kind_of(entry.name) in READABLE


def _why_ignored(name: str) -> str:
    """Returns why a file is never a sample's; empty if it may be."""
    if name[0] == "." or "/." in name:
        return "is hidden"
    last = name.rpartition("/")[2]
    if last[:1] in "tTdD" or SYSTEM_FOLDER in name:
        if last.lower() in SYSTEM_FILES or SYSTEM_FOLDER in name.split("/"):
            return "is a file of the operating system"
    elif last[:1] in "rRlLcC" and last.partition(".")[0].lower() in ABOUT_FILES:
        return "is about the other files"
    return ""
