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
    "huggingface_hub": "tokenizers",
}
MAX_LINES = 530


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


LIBRARY = python_files(*FOLDERS)
EVERYTHING = [*LIBRARY, ROOT / "train.py", *python_files("tests", "benchmarks", "docs")]


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
    assert "tokenizers.base.PADDING" in imports_of(ROOT / "fourm" / "any2any.py")
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


def test_masking_and_model_meet_only_in_the_batches():
    for name in ("masking", "model"):
        other = "model" if name == "masking" else "masking"
        files = python_files(f"fourm/{name}")
        imported = {each for file in files for each in imports_of(file)}
        allowed = {"fourm.masking.ours.MaskedBatch"} if name == "model" else set()
        assert not {each for each in imported if each.startswith(f"fourm.{other}.")} - allowed


def test_only_tests_import_train():
    assert not [name_of(path) for path in LIBRARY if "train" in roots_of(path)]


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


def test_nothing_imports_what_the_requirements_leave_out():
    assert not {
        name_of(path): roots_of(path) & NEVER for path in EVERYTHING if roots_of(path) & NEVER
    }


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
        for name in roots_of(path) - ours - local - set(sys.stdlib_module_names):
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
