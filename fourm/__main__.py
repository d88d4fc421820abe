"""Every command by its name: `fourm NAME ...`, or `python -m fourm NAME ...`.

The table below says where each command is. It holds names of modules only, because a command
prepares its process before anything large is imported.
"""

import difflib
import os
import runpy
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("train", "train a model, resume it, fork it or fine-tune another one"),
    "generate": ("fourm.generate", "generate any modalities from any others"),
    "complete": ("fourm.complete", "make a part of a picture anew, or fill blanks in a text"),
    "evaluate": ("fourm.evaluate", "measure a run on its held-out samples"),
    "score": ("fourm.score", "say what belongs together: texts, words, classes, odd places"),
    "probe": ("configs.probe", "read labels off the frozen encoder: probes and their rivals"),
    "tokenize": ("data_pipeline.tokenize", "turn a data set into tokens with a run's tokenizers"),
    "doctor": ("configs.doctor", "look into a data set: what is there, and will it train"),
    "ml4m": ("fourm.interop.ml4m", "import, check and export published 4M models"),
}
"""Per command its module and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 2 if there is none of that name."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: fourm COMMAND [--help] ...\n")
        print("\n".join(f"  {each:{width}}  {about}" for each, (_, about) in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {nearest[0]}? There" if nearest else "there"
        print(
            f"error: There is no command {name!r}; {hint} are {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    if "" not in sys.path:  # Configuration files may import what lies beside them.
        sys.path.append(os.getcwd())
    sys.argv = [name, *arguments[1:]]
    try:
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
