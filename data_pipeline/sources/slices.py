"""Splits by what their files or folders are called, and parts of them, such as train[:90%]."""

import re
from collections.abc import Collection, Sequence

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words of paths by the split that they mean, as in data sets on Hugging Face."""
PARTS = {"train": "train[:90%]", "validation": "train[90%:]"}
"""What becomes of data that is not split: its order decides, so that neighbours stay together."""
SLICE = re.compile(r"([^\[\]]+)(?:\[(\d+%?)?:(\d+%?)?\])?")


def name_of_slice(text: str) -> str:
    """Returns the name in NAME or NAME[FROM:TO].

    Raises:
        ValueError: If it is neither.

    Example:
        >>> name_of_slice("train[:90%]")
        'train'
    """
    return _parsed(text)[1]


def rows_of_slice(text: str, length: int) -> range:
    """Returns which of so many samples NAME or NAME[FROM:TO] means, by numbers or percent.

    Raises:
        ValueError: If it is neither, or no sample is left.

    Example:
        >>> rows_of_slice("train[90%:]", 20)
        range(18, 20)
    """
    found = _parsed(text)
    start, stop = (
        default if given is None else min(length, _count(given, length))
        for given, default in ((found[2], 0), (found[3], length))
    )
    if start >= stop:
        raise ValueError(f"{text!r} is no sample of {length}; give a larger part.")
    return range(start, stop)


def split_of_path(path: str, names: Collection[str] = ()) -> str:
    """Returns the split that the last word of a path that means one stands for; empty if none.

    Args:
        path: Of a file or folder, below that of the data set.
        names: Splits with names of their own.

    Example:
        >>> split_of_path("data/val-00000-of-00001.parquet")
        'validation'
        >>> split_of_path("default/test_new/0.parquet", ["test_new"])
        'test_new'
    """
    meant = {word: split for split, words in WORDS.items() for word in words}
    meant |= {name.lower(): name for name in names}
    # Of words that contain each other, the longest.
    words = "|".join(re.escape(word) for word in sorted(meant, key=len, reverse=True))
    found = re.findall(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", path.lower())
    return meant[found[-1]] if found else ""


def group_by_split(
    paths: Sequence[str], names: Collection[str] = (), ending: str = ""
) -> dict[str, list[str]]:
    """Returns paths by the splits that they name; all are for training if none names any.

    Args:
        paths: Of files or folders, below that of the data set; in natural order.
        names: Splits with names of their own.
        ending: What is no part of a name.

    Raises:
        ValueError: If some name a split and others don't.
    """
    found: dict[str, list[str]] = {}
    for path in paths:
        if not any(part.startswith(".") for part in path.split("/")):
            found.setdefault(split_of_path(path.removesuffix(ending), names), []).append(path)
    if "" in found:
        if len(found) > 1:
            raise ValueError(
                f"The name of {found[''][0]} says no split, as those of other files do "
                f"({', '.join(filter(None, found))}); rename it, or set --data.split-names."
            )
        return {"train": found[""]}
    order = ["train", "validation", "test", *found]
    return {name: found[name] for name in dict.fromkeys(order) if name in found}


def usual_splits(found: Sequence[str]) -> dict[str, str]:
    """Returns which splits data has of which these were found, each with what it is made of."""
    if len(found) > 1:
        return {name: name for name in found}
    only = found[0] if found else "train"
    return {name: part.replace("train", only) for name, part in PARTS.items()}


def _parsed(text: str) -> re.Match[str]:
    found = SLICE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no split; allowed are NAME and NAME[FROM:TO], such as train[:90%]."
        )
    return found


def _count(given: str, length: int) -> int:
    if given.endswith("%"):
        return round(length * int(given[:-1]) / 100)
    return int(given)
