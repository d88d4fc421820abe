"""Settings under which the tests run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
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

import jax  # noqa: E402
import pytest  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

ROOT = Path(__file__).parent.parent

# What masks, computes and trains: arrays of different rank meet there only where the code says
# so. Elsewhere, colours and boxes meet whole pictures along their last axis all the time.
STRICT = (
    "test_budgets",
    "test_checkpoints",
    "test_loss",
    "test_masking",
    "test_model",
    "test_span_corruption",
    "test_token_space",
    "test_train_state",
    "test_loop",
)


@pytest.fixture(autouse=True)
def rank_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Makes broadcasting of a lower rank to a higher one an error in the core's tests."""
    with jax.numpy_rank_promotion("raise" if request.path.stem in STRICT else "allow"):
        yield


@pytest.fixture(autouse=True, scope="module")
def released_memory() -> Iterator[None]:
    """Lets go of what a module compiled: a worker would grow to gigabytes by the last one."""
    yield
    jax.clear_caches()


class ByGroup(LoadScopeScheduling):
    """Gives the tests of a file that has groups (`xdist_group`) to one worker, others to any.

    What they share is then made once. `--dist loadgroup` would do it, but xdist 3.8 marks the names
    of tests in a way that pytest 9.2 does not see.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        has_groups = "xdist_group" in (ROOT / file).read_text(encoding="utf-8")
        return file if has_groups else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByGroup:
    return ByGroup(config, log)


def pytest_unconfigure() -> None:
    if is_owner:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
