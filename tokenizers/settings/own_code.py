"""Classes that a file of the user's own defines: how they are named on disk, and found again.

What is stored names such a class and the file that defines it, and never runs that file. It is
found if the file was handed over, as `python train.py FILE.py` and `--code FILE.py` do, or if the
program has imported it before.
"""

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

OURS = ("configs", "data_pipeline", "fourm", "tokenizers")
"""Packages whose classes are known by their names alone."""
HANDED_OVER = "configuration_"
"""Begins the names of modules that were handed over as files: none replaces another module."""
CODE = "--code"
"""What hands files over on the command line of any command."""


class CodeNeeded(ValueError):
    """What is stored names a class of a file that was not handed over."""


def run_file(path: Path) -> ModuleType:
    """Runs a Python file that the user hands over, and returns it as a module.

    Raises:
        ValueError: One sentence, with the line, if there is no such file, or it raises anything.
    """
    if not path.is_file():
        raise ValueError(f"There is no configuration file {path}; give an existing one.")
    # Dataclasses that the file defines look themselves up by the module's name.
    name = f"{HANDED_OVER}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; give one whose name ends with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.pop(name, None)  # The one that was handed over last is looked at first.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)  # What could not be run has no classes to be found.
        if isinstance(error, SyntaxError):
            line = error.lineno
        else:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(frames) if f.filename == str(path)), None)
        raise ValueError(
            f"{path}{f', line {line},' if line else ''} can't be used: "
            f"{type(error).__name__}: {str(error).rstrip('.')}."
        ) from error
    return module


def handed_over() -> list[Path]:
    """Returns the files that were handed over, in that order."""
    modules = [module for name, module in sys.modules.items() if name.startswith(HANDED_OVER)]
    return [Path(module.__file__) for module in modules if module.__file__]


def take_code(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns a command line without `--code FILE ...`, and the files that it hands over.

    Example:
        >>> take_code(["runs/a", "--code", "mine.py", "--targets", "rgb", "--code=b.py"])
        (['runs/a', '--targets', 'rgb'], ['mine.py', 'b.py'])
    """
    rest, files = [], []
    is_file = False
    for argument in arguments:
        if argument == CODE:
            is_file = True
        elif argument.startswith(f"{CODE}="):
            files.append(argument.removeprefix(f"{CODE}="))
        elif is_file and not argument.startswith("-") and argument.endswith(".py"):
            files.append(argument)
        else:
            is_file = False
            rest.append(argument)
    return rest, files


def is_own(cls: type) -> bool:
    """True for a class that the user defines; False for one of the library, Python or a package.

    A class of an installed package is the user's own if it derives from one of ours: what is stored
    must not be able to name whatever else has been imported.
    """
    package = cls.__module__.partition(".")[0]
    if package in OURS or (package in sys.stdlib_module_names and package != "__main__"):
        return False
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    is_installed = "site-packages" in Path(file).parts or "dist-packages" in Path(file).parts
    bases = {base.__module__.partition(".")[0] for base in cls.__mro__[1:]}
    return not is_installed or bool(bases & set(OURS))


def file_of(cls: type) -> str:
    """Returns the file that defines a class of the user's own, as it is stored; else nothing.

    It has no folders but those of a package: a run directory may lie elsewhere tomorrow.
    """
    if not is_own(cls):
        return ""
    if cls.__module__ == "__main__" or cls.__module__.startswith(HANDED_OVER):
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        return Path(file).name if file else f"{cls.__module__}.py"
    return f"{cls.__module__.replace('.', '/')}.py"


def find_class(name: str, file: str) -> type:
    """Returns a class of the user's own by what is stored of it.

    Looked at are the module of that file, then every file that was handed over, the last one first.
    Nothing is imported.

    Args:
        name: Of the class.
        file: As `file_of` gives it; may be empty if it is not known.

    Raises:
        CodeNeeded: One sentence that names the file, if no module that is there defines the class.
    """
    stem = file.removesuffix(".py")
    handed = [key for key in reversed(list(sys.modules)) if key.startswith(HANDED_OVER)]
    named = [f"{HANDED_OVER}{stem.rpartition('/')[2]}", stem.replace("/", "."), "__main__"]
    for key in [*(named if file else []), *handed]:
        found = vars(sys.modules[key]).get(name) if key in sys.modules else None
        if isinstance(found, type) and is_own(found):
            return found
    where = f"{file}, a file of your own" if file else "a file that is not named"
    raise CodeNeeded(
        f"The class {name!r} is defined in {where}, and what is stored never runs such a file by "
        f"itself: hand it over with {CODE} {Path(file).name or 'FILE.py'}, or code= in Python."
    )
