"""The README and the pages say what is true: the tree, commands, links."""

import ast
import re
import shlex
import typing
from pathlib import Path

import pytest

from configs.command_line import load_preset, parse_command_line
from fourm.__main__ import COMMANDS as FOURM_COMMANDS
from tests.fourm.tiny_run import make_run, write_run
from tests.paths import ROOT
from tokenizers.modality import Modality

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(
        r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
]
COMMANDS = [
    line
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith(("python ", "pip ", "fourm "))
]
FOLDERS = (
    "fourm",
    "fourm/masking",
    "fourm/model",
    "fourm/inference",
    "fourm/requests",
    "fourm/features",
    "fourm/inputs",
    "fourm/devices",
    "fourm/run_directory",
    "fourm/evaluation",
    "fourm/evaluation/metrics",
    "fourm/evaluation/probing",
    "fourm/presentation",
    "fourm/interop/transformer",
    "fourm/interop/autoencoders",
    "fourm/interop/checks",
    "fourm/interop",
    "fourm/training",
    "tokenizers",
    "tokenizers/settings",
    "tokenizers/storage",
    "tokenizers/process",
    "tokenizers/values",
    "tokenizers/content",
    "tokenizers/formats",
    "tokenizers/images",
    "tokenizers/text",
    "tokenizers/signals",
    "tokenizers/embeddings",
    "tokenizers/shapes",
    "data_pipeline",
    "data_pipeline/doctor",
    "data_pipeline/sources",
    "data_pipeline/sources/files",
    "data_pipeline/sources/arrays",
    "data_pipeline/sources/scenes",
    "data_pipeline/tokens",
    "configs",
    "configs/from_folder",
    "configs/presets",
    "configs/runs",
    "examples",
    "benchmarks",
    "docs",
)


def tree() -> dict[str, str]:
    """Returns the gloss of every path in the list of files."""
    (block,) = [block for _, block in BLOCKS if block.startswith("train.py ")]
    glosses, folder = {}, ""
    for line in block.splitlines():
        name, gloss = line.split(maxsplit=1)
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
        path = name if name == folder or not folder else folder + name
        glosses[path] = gloss.strip()
    return glosses


def test_the_tree_lists_every_file_of_the_packages():
    files = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).iterdir()
        if path.is_file() and path.name != "__init__.py" and not path.name.startswith(".")
    }
    files |= {"train.py", "requirements.txt", "requirements-dev.txt", "pyproject.toml"}
    files |= {"CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", ".pre-commit-config.yaml"}
    assert {path for path in tree() if not path.endswith("/")} == files


def test_every_gloss_is_short_and_says_something():
    assert all(3 <= len(gloss) <= 60 for gloss in tree().values())


def test_the_two_commands_stand_there_to_the_letter():
    assert "pip install -r requirements.txt && python train.py" in COMMANDS
    assert "pip install -r requirements.txt && python -m pytest" in COMMANDS
    assert "python -m pytest" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def some_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "some"
    write_run(folder, make_run())
    return folder


@pytest.mark.slow
# In one process, which makes the run once.
@pytest.mark.xdist_group("commands of the README")
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python train.py")])
def test_training_commands_are_understood(command, some_run):
    words = shlex.split(command)[2:]
    if words and words[0].startswith("runs/"):
        words[0] = str(some_run)
    if words and words[-1] == "--help":
        load_preset(words[0])
    else:
        assert parse_command_line(words)[0].run_dir


@pytest.mark.parametrize(
    "command",
    [
        c
        for c in COMMANDS
        if c.startswith(("python -m fourm.", "python -m data_pipeline", "fourm "))
    ],
)
def test_module_commands_name_modules_and_their_options(command):
    words = shlex.split(command)
    if words[0] == "fourm":
        words[:2] = ["python", "-m", FOURM_COMMANDS[words[1]][0]]
    module = ROOT / Path(*words[2].split(".")).with_suffix(".py")
    assert module.is_file()
    modalities = load_preset("scenes")[0].modalities
    source = module.read_text(encoding="utf-8")
    for word in words[3:]:
        if word.startswith("--") and "." not in word:  # Others are knobs of parts.
            name = word.removeprefix("--")
            assert name in modalities or name.replace("-", "_") in source, word
    if "--targets" in words:
        asked = words[words.index("--targets") + 1 :]
        for target in asked[: next((i for i, w in enumerate(asked) if w[0] == "-"), None)]:
            assert target in modalities


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python_snippets_import_what_exists(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = __import__(node.module, fromlist=["_"])
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_configuration_of_the_page_on_own_data_can_be_run(tmp_path):
    page = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
    file = tmp_path / "streets.py"
    file.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)))
    config, _ = parse_command_line([str(file), "--data.path", "PATH"])
    assert config.run_dir == "runs/streets" and config.data.path == "PATH"
    assert set(config.data.modalities) == set(config.modalities)
    kinds = {kind.__name__ for kind in typing.get_args(typing.get_type_hints(Modality)["values"])}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == kinds


def test_the_readme_is_short_and_links_every_page():
    assert len(README.splitlines()) < 200
    for page in PAGES[1:]:
        assert page.name in README, page.name
