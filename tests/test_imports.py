"""The rules that hold the folders together, read off the syntax trees: nothing is imported."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

FOLDERS = ("tokenizers", "data_pipeline", "fourm", "configs")
MAY_IMPORT = {
    "tokenizers": {"tokenizers"},
    "data_pipeline": {"data_pipeline", "tokenizers"},
    "fourm": {"fourm", "tokenizers"},
    "configs": {"configs", "data_pipeline", "fourm", "tokenizers"},
}
BELOW = {"tokenizers/settings", "tokenizers/base", "tokenizers/storage"}
INTEROP = {"fourm/interop", "fourm/interop/autoencoders", "fourm/interop/transformer"}
MAY_KNOW: dict[str, set[str]] = {
    "tokenizers/__init__": set(),
    "tokenizers/settings": set(),
    "tokenizers/process": {"tokenizers/settings"},
    "tokenizers/base": set(),
    "tokenizers/spread": {"tokenizers/base"},
    "tokenizers/decomposition": set(),
    "tokenizers/storage": {"tokenizers/settings"},
    "tokenizers/values": {"tokenizers/settings", "tokenizers/base"},
    "tokenizers/content": {"tokenizers/base"},
    "tokenizers/text": BELOW,
    "tokenizers/images": {
        *(*BELOW, "tokenizers/values", "tokenizers/features", "tokenizers/decomposition"),
    },
    "tokenizers/boxes": {*BELOW, "tokenizers/spread", "tokenizers/text"},
    "tokenizers/scalars": BELOW,
    "tokenizers/labels": {*BELOW, "tokenizers/text"},
    "tokenizers/rows": {*BELOW, "tokenizers/scalars"},
    "tokenizers/signals": {*BELOW, "tokenizers/values", "tokenizers/images"},
    "tokenizers/embeddings": {
        *(*BELOW, "tokenizers/spread", "tokenizers/values", "tokenizers/images"),
        "tokenizers/decomposition",
    },
    "tokenizers/shapes": {*BELOW, "tokenizers/spread", "tokenizers/text"},
    "tokenizers/palettes": {
        *(*BELOW, "tokenizers/spread", "tokenizers/text", "tokenizers/values"),
    },
    "tokenizers/codes": BELOW,
    "tokenizers/features": {*BELOW, "tokenizers/values"},
    "tokenizers/modality": {
        *(*BELOW, "tokenizers/values", "tokenizers/text", "tokenizers/images", "tokenizers/boxes"),
        *("tokenizers/scalars", "tokenizers/codes", "tokenizers/features", "tokenizers/labels"),
        *("tokenizers/rows", "tokenizers/signals", "tokenizers/embeddings"),
        *("tokenizers/shapes", "tokenizers/palettes"),
    },
    "tokenizers/formats": {
        *(*BELOW, "tokenizers/content", "tokenizers/values", "tokenizers/text", "tokenizers/boxes"),
        *("tokenizers/codes", "tokenizers/labels", "tokenizers/rows", "tokenizers/scalars"),
        *("tokenizers/signals", "tokenizers/shapes", "tokenizers/palettes"),
    },
    "data_pipeline/__init__": set(),
    "data_pipeline/sources": {
        *("data_pipeline/sources/files", "data_pipeline/sources/scenes"),
        "data_pipeline/sources/arrays",
    },
    "data_pipeline/sources/arrays": {"data_pipeline/sources", "data_pipeline/sources/files"},
    "data_pipeline/sources/files": {"data_pipeline/sources"},
    "data_pipeline/sources/scenes": {"data_pipeline/sources"},
    "data_pipeline/augment": {"data_pipeline/sources"},
    "data_pipeline/crops": {"data_pipeline/sources", "data_pipeline/augment"},
    "data_pipeline/census": {"data_pipeline/sources"},
    "data_pipeline/doctor": {
        *("data_pipeline/sources", "data_pipeline/crops", "data_pipeline/census"),
    },
    "data_pipeline/batches": set(),
    "data_pipeline/tokens": {
        *("data_pipeline/sources", "data_pipeline/crops", "data_pipeline/batches"),
        "data_pipeline/census",
    },
    "data_pipeline/tokenize": {
        *("data_pipeline/sources", "data_pipeline/crops", "data_pipeline/tokens"),
    },
    "fourm/__init__": {
        *("fourm/any2any", "fourm/inference", "fourm/load_run", "fourm/requests"),
    },
    "fourm/__main__": set(),
    "fourm/token_space": set(),
    "fourm/masking": {"fourm/token_space"},
    "fourm/model": {"fourm/token_space"},
    "fourm/inference": {"fourm/token_space", "fourm/model"},
    "fourm/devices": set(),
    "fourm/run_directory": set(),
    "fourm/training": {
        *("fourm/token_space", "fourm/masking", "fourm/model", "fourm/devices"),
        "fourm/run_directory",
    },
    "fourm/inputs": set(),
    "fourm/requests": {"fourm/token_space", "fourm/inference", "fourm/model", "fourm/inputs"},
    "fourm/features": {
        *("fourm/token_space", "fourm/model", "fourm/inference", "fourm/requests"),
    },
    "fourm/load_run": {
        *("fourm/any2any", "fourm/model", "fourm/inference", "fourm/run_directory"),
    },
    "fourm/any2any": {
        *("fourm/token_space", "fourm/model", "fourm/inference", "fourm/run_directory"),
        *("fourm/inputs", "fourm/requests", "fourm/features"),
    },
    "fourm/evaluation": {
        *("fourm/model", "fourm/any2any", "fourm/run_directory", "fourm/requests"),
        *("fourm/inference", "fourm/evaluation/metrics", "fourm/evaluation/probing"),
    },
    "fourm/evaluation/metrics": set(),
    "fourm/evaluation/probing": {"fourm/evaluation", "fourm/run_directory", "fourm/any2any"},
    # Numbers know no pages: only what is above both knows either.
    "fourm/presentation": {
        *("fourm/evaluation", "fourm/run_directory", "fourm/any2any", "fourm/requests"),
    },
    "fourm/generate": {
        *("fourm/any2any", "fourm/inference", "fourm/model", "fourm/presentation"),
        "fourm/load_run",
        "fourm/inputs",
        *("fourm/generate_folder", "fourm/requests"),
    },
    "fourm/complete": {
        *("fourm/any2any", "fourm/inference", "fourm/inputs", "fourm/load_run", "fourm/requests"),
        *("fourm/generate", "fourm/generate_folder", "fourm/token_space"),
    },
    "fourm/generate_folder": {
        *("fourm/any2any", "fourm/inference", "fourm/inputs", "fourm/requests"),
    },
    "fourm/evaluate": {
        *("fourm/any2any", "fourm/evaluation", "fourm/presentation", "fourm/run_directory"),
        "fourm/load_run",
    },
    "fourm/score": {
        *("fourm/any2any", "fourm/inputs", "fourm/load_run", "fourm/model"),
        "fourm/requests",
    },
    "fourm/interop": {
        *INTEROP,
        *("fourm/interop/checks", "fourm/load_run", "fourm/evaluation", "fourm/model"),
        "fourm/token_space",
    },
    "fourm/interop/autoencoders": {"fourm/interop"},
    "fourm/interop/transformer": {"fourm/interop", "fourm/token_space", "fourm/model"},
    "fourm/interop/checks": {
        *INTEROP,
        *("fourm/token_space", "fourm/masking", "fourm/model", "fourm/inference"),
        "fourm/training",
    },
    "configs/__init__": {"configs/presets", "configs/runs", "configs/schema"},
    "configs/schema": set(),
    "configs/launch": set(),
    "configs/help": set(),
    "configs/presets": {"configs/schema"},
    "configs/runs": {"configs/schema", "configs/presets", "configs/command_line"},
    "configs/from_folder": {"configs/__init__", "configs/schema"},
    "configs/probe": {"configs/runs"},
    "configs/doctor": {"configs/schema", "configs/command_line", "configs/runs"},
    "configs/beginning": {
        *("configs/schema", "configs/launch", "configs/command_line", "configs/from_folder"),
        "configs/runs",
    },
    "configs/command_line": {
        *("configs/__init__", "configs/schema", "configs/launch", "configs/help"),
        "configs/from_folder",
        "configs/presets",
        "configs/runs",
    },
}
"""Room by room, whom it may import within its own folder. Nobody imports a room above it."""
# The first two are gigabytes. The others need Hugging Face's package `tokenizers`, which our
# folder of that name shadows.
NEVER = {"tensorflow", "torch", "transformers", "datasets"}
# These run in a process of their own, where `tokenizers` is Hugging Face's package.
ELSEWHERE = {ROOT / "tests" / "fixtures" / "package_wordpiece.py"}
# Written for an earlier version, some of whose modules have moved; see `configs.command_line`.
EARLIER = {ROOT / "tests" / "fixtures" / "earlier_run" / "config.py"}
# Imported names that differ from their distribution's.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    "array_record": "array-record",
    "orbax": "orbax-checkpoint",
    "xdist": "pytest-xdist",
    # What these bring along.
    "ml_dtypes": "jax",
    "scipy": "jax",
    "threadpoolctl": "scikit-learn",
    "absl": "tensorflow-datasets",
    "tensorstore": "orbax-checkpoint",
    "pyarrow": "tensorflow-datasets",
    "fsspec": "tokenizers",
    "huggingface_hub": "tokenizers",
}
# Only those who have such data need them; what asks for one says how to install it.
EXTRAS = {"h5py", "zarr"}
MAX_LINES = 450


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


LIBRARY = python_files(*FOLDERS)
EVERYTHING = [*LIBRARY, ROOT / "train.py", *python_files("tests", "benchmarks", "docs", "examples")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path) -> set[str]:
    """Returns the dotted names of the modules that a file imports, wherever it does so."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                found |= {each.name for each in names}
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package[: len(package) - level + 1] if level else ()
                base = ".".join([*above, *([module] if module else [])])
                found |= {f"{base}.{each.name}" for each in names}
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value)]):
                found.add(value)
    return found


def roots_of(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


def test_the_walk_sees_the_folders_and_their_imports():
    assert {path.relative_to(ROOT).parts[0] for path in LIBRARY} == set(FOLDERS)
    assert "tokenizers.base.RawBatch" in imports_of(ROOT / "fourm" / "any2any.py")
    assert roots_of(ROOT / "configs" / "schema.py") >= {"data_pipeline", "fourm", "tokenizers"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(folder):
    ours = {*FOLDERS, "train", "tests", "benchmarks"}
    wrong = {
        name_of(path): sorted(roots_of(path) & ours - MAY_IMPORT[folder])
        for path in python_files(folder)
        if roots_of(path) & ours - MAY_IMPORT[folder]
    }
    assert not wrong, f"{folder} may import only {sorted(MAY_IMPORT[folder])}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_rooms_know_only_what_lies_below_them(folder):
    wrong = {}
    for path in python_files(folder):
        room = room_of(path)
        names = {name for name in imports_of(path) if name.split(".")[0] == folder}
        rooms = {room_of(module_of(name)) for name in names} - {room}
        if more := rooms - MAY_KNOW[room]:
            wrong[name_of(path)] = sorted(more)
    assert not wrong, "these know a room that MAY_KNOW does not give them"


def room_of(path: Path) -> str:
    """Returns the folder that a module lies in; one that lies in none is a room by itself."""
    inner = path.relative_to(ROOT)
    return (inner.parent if len(inner.parts) > 2 else inner.with_suffix("")).as_posix()


def module_of(name: str) -> Path:
    """Returns the file that an imported name is defined in, or its package."""
    path = ROOT.joinpath(*name.split("."))
    while not path.with_suffix(".py").is_file() and not path.is_dir():
        path = path.parent
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_every_room_has_its_rule():
    assert {room_of(path) for path in LIBRARY} == set(MAY_KNOW)


@pytest.mark.slow
def test_only_tests_import_train():
    assert not [name_of(path) for path in LIBRARY if "train" in roots_of(path)]


@pytest.mark.slow
def test_no_module_imports_itself_by_a_detour():
    modules = {name_of(path)[:-3].replace("/", "."): path for path in LIBRARY}
    edges = {
        module: {
            other
            for name in imports_of(path)
            for other in (name, name.rpartition(".")[0])
            if other in modules
        }
        for module, path in modules.items()
    }
    settled: set[str] = set()
    while ready := {m for m, needs in edges.items() if m not in settled and needs <= settled}:
        settled |= ready
    assert not set(edges) - settled, "these import each other"


@pytest.mark.slow
def test_nothing_imports_what_the_requirements_leave_out():
    assert not {
        name_of(path): roots_of(path) & NEVER for path in EVERYTHING if roots_of(path) & NEVER
    }


@pytest.mark.slow
def test_nothing_imports_the_package_that_our_tokenizers_shadow():
    ours = {path.relative_to(ROOT).with_suffix("").parts[1] for path in python_files("tokenizers")}
    theirs = {
        name_of(path): name
        for path in EVERYTHING
        if path not in ELSEWHERE | EARLIER
        for name in imports_of(path)
        if name.split(".")[0] == "tokenizers" and (*name.split("."), "")[1] not in ours
    }
    assert not theirs
    assert all("tokenizers.Tokenizer" in imports_of(path) for path in ELSEWHERE)


@pytest.mark.slow
def test_requirements_name_every_package_that_is_imported():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {
        re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")
        for line in lines
        if line and not line.startswith("#")
    }
    ours = {*FOLDERS, "train", "tests", "benchmarks"}
    local = {path.stem for path in python_files("tests")}
    missing = {}
    for path in EVERYTHING:
        for name in roots_of(path) - ours - local - set(sys.stdlib_module_names) - EXTRAS:
            if DISTRIBUTIONS.get(name, name).lower().replace("_", "-") not in pinned:
                missing.setdefault(name, name_of(path))
    assert not missing


def test_requirements_are_pinned_and_light():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in packages if "==" not in line] == []
    names = {line.split("==")[0].split("[")[0].lower() for line in packages}
    assert not names & {"tensorflow", "tensorflow-cpu", "torch", "transformers"}


@pytest.mark.parametrize("path", [*LIBRARY, ROOT / "train.py"], ids=name_of)
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    if tree.body:
        first = (ast.get_docstring(tree) or "").split("\n")[0]
        assert len(first) > 20, "the module needs a docstring"


@pytest.mark.parametrize("path", [*LIBRARY, ROOT / "train.py"], ids=name_of)
def test_no_file_grew_too_long(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: look for the concept that is missing in it"


def test_no_text_names_a_machine_s_folders():
    # Written so that this file does not name them either.
    machine = re.compile(r"(?<![\w.~])/(?:work|root|tmp|home|mnt|Users)/\w")
    texts = [
        *EVERYTHING,
        *(ROOT / "docs").rglob("*.md"),
        *(path for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".txt")),
        ROOT / ".ci" / "run",
    ]
    found = {
        name_of(path): machine.search(path.read_text())[0]
        for path in texts
        if machine.search(path.read_text())
    }
    assert not found
