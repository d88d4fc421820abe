"""Settings under which the tests run."""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Four fifths of the time goes to compiling, much of it to compiling the same thing in each worker
# and in the programs that tests start. All of them share what was compiled, by jax's own cache, in
# a folder that lasts as long as the tests. Set before jax is imported, which reads it then.
CACHE = "JAX_COMPILATION_CACHE_DIR"
is_owner = CACHE not in os.environ
if is_owner:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="fourm-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# What is compiled here runs for milliseconds, so that making it fast costs more than it saves.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# The older of XLA's two ways to make code compiles twice as fast. Other versions may not know the
# flag, and end the process at one that they don't know. (One thread per program would save another
# tenth, but together with this flag it makes wrong code: the ray caster's normals are NaN.)
if version("jax").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICK)
# Threads of NumPy that wait for a core spin, and take ten times the time of one that works.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.paths import FIXTURES  # noqa: E402
from tokenizers.settings.own_code import HANDED_OVER  # noqa: E402

# Tracing makes so many objects that to look through them for cycles takes a tenth of the time. With
# this threshold the collector looks seldom; `released_memory` lets it look after every file.
gc.set_threshold(100_000, 50, 100)

# What masks, computes and trains: arrays of different rank meet there only where the code says
# so. Elsewhere, colours and boxes meet whole pictures along their last axis all the time.
STRICT = (
    "fourm/masking/test_budgets",
    "fourm/masking/test_mask",
    "fourm/masking/test_spans",
    "fourm/model/test_cross_entropy",
    "fourm/model/test_transformer",
    "fourm/test_token_space",
    "fourm/training/test_checkpoints",
    "fourm/training/test_loop",
    "fourm/training/test_masked_loss",
    "fourm/training/test_train_state",
)

LONGEST = ("tiny run", "test_train", "elastic runs", "meshes", "the judge", "run on tokens")
"""Groups of more than a minute, most of it in a few tests."""


@pytest.fixture(autouse=True)
def rank_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Makes broadcasting of a lower rank to a higher one an error in the core's tests."""
    with jax.numpy_rank_promotion("raise" if group_of(request.path) in STRICT else "allow"):
        yield


def group_of(file: Path) -> str:
    return file.relative_to(FIXTURES.parent).with_suffix("").as_posix()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives the tests of a file to one worker, which compiles what they share once.

    Tests of a run that is trained for them are slow. The longest groups come first, then those with
    most slow tests, lest a worker is left alone with one of them.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        name = marker.args[0] if marker else group_of(item.path)
        if marker is None:
            item.add_marker(pytest.mark.xdist_group(name))
        if "tiny_scenes_run" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
        groups.setdefault(name, []).append(item)

    def slowness(name: str) -> tuple[bool, int]:
        count = sum(item.get_closest_marker("slow") is not None for item in groups[name])
        return name in LONGEST and count > 0, count

    first = sorted(groups, key=slowness, reverse=True)
    items[:] = [item for name in first for item in groups[name]]


@pytest.fixture(autouse=True, scope="module")
def released_memory() -> Iterator[None]:
    """Lets go of what a module compiled: a worker would grow to gigabytes by the last one."""
    yield
    jax.clear_caches()
    gc.collect()
    gc.freeze()  # What is left stays to the end; to look through it every time takes seconds.


@pytest.fixture(autouse=True, scope="module")
def no_code_of_others() -> Iterator[None]:
    """Forgets the files that a module's tests handed over, as a process that ends does."""
    yield
    for name in [name for name in sys.modules if name.startswith(HANDED_OVER)]:
        del sys.modules[name]


TINY_SCENES = str(FIXTURES / "tiny_scenes.py")


@pytest.fixture(scope="session")
def tiny_scenes_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that tests of the group "tiny run" share, and leave as it is."""
    from train import main

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([TINY_SCENES, "--run-dir", str(folder)]) == 0
    return folder


def pytest_unconfigure() -> None:
    if is_owner:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
