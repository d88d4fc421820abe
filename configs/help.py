"""What `--help` shows: everyday knobs first, and every other group on request."""

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Iterator, Sequence

EVERYDAY = ("", "data", "model", "training", "training.optimizer", "evaluation")
"""Groups of knobs that --help shows by itself, in this order; the first holds those of no group."""
ALL = "all"
HEAD = re.compile(r"\W{1,4}(?:([\w.-]+) )?options\W*")
"""How tyro heads a group, in a frame where the terminal can show one."""


def cut_help(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Returns a command line whose --help stands alone, and the group that was named behind it.

    The group is None where no help is asked for, and empty for the everyday knobs.

    Example:
        >>> cut_help(["--help", "model"])
        (['--help'], 'model')
        >>> cut_help(["--seed", "1"])
        (['--seed', '1'], None)
    """
    for place, argument in enumerate(arguments):
        if argument in ("-h", "--help"):
            behind = arguments[place + 1 : place + 2]
            return ["--help"], behind[0] if behind and not behind[0].startswith("-") else ""
    return list(arguments), None


@contextlib.contextmanager
def shown_by_group(wanted: str | None) -> Iterator[None]:
    """Prints of the help that is printed in this context only the groups that are wanted.

    Args:
        wanted: As from `cut_help`.

    Raises:
        ValueError: If there is no such group.
    """
    if wanted is None:
        yield
        return
    # As the terminal would get it: frames are drawn in letters that it has.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    written = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace")
    try:
        with contextlib.redirect_stdout(written):
            yield
    except SystemExit as ended:
        written.flush()
        text = written.buffer.getvalue().decode(encoding, errors="replace")
        print(select(text, wanted) if ended.code in (0, None) else text, end="")
        raise


def select(text: str, wanted: str) -> str:
    """Returns a help text with the wanted groups of knobs, and a line that names the others."""
    start, groups = split_groups(text)
    if wanted == ALL:
        chosen = list(groups)
    elif wanted:
        chosen = [name for name in groups if name == wanted or name.startswith(f"{wanted}.")]
    else:
        chosen = [name for name in EVERYDAY if name in groups]
    tops = list(dict.fromkeys(name.split(".")[0] for name in groups if name))
    if not chosen:
        nearest = difflib.get_close_matches(wanted, groups, 1)
        hint = f"did you mean {nearest[0]}? There" if nearest else "there"
        raise ValueError(
            f"There is no group of knobs {wanted!r}; {hint} are {', '.join(tops)}, and {ALL}."
        )
    more = f"More knobs: --help GROUP, one of {', '.join(tops)}; --help {ALL} shows every knob.\n"
    return start + "".join(groups[name] for name in chosen) + ("" if wanted == ALL else more)


def split_groups(text: str) -> tuple[str, dict[str, str]]:
    """Returns what stands before all groups of knobs, and each group by its name."""
    start, groups, name = "", {}, None
    for line in text.splitlines(keepends=True):
        if found := HEAD.fullmatch(line.rstrip("\n")):
            name = found[1] or ""
            groups[name] = ""
        if name is None:
            start += line
        else:
            groups[name] += line
    return start, groups
