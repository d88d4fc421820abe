"""Where compiled programs are kept between processes.

Only Python's own modules are imported here: it is settled before jax is imported.
"""

import hashlib
import importlib.util
import os
import platform
from contextlib import suppress
from pathlib import Path

KNOB = "FOURM_COMPILE_CACHE"
"""Variable of the environment: a folder, or "off"."""
OFF = ("off", "0", "none")
LEAST_SECONDS = "0.2"
"""Programs that took less to compile are not kept."""
MOST_BYTES = 2 * 2**30
"""Of all that is kept; what was not used for longest goes first."""


def keep_compiled_programs() -> None:
    """Has jax keep what it compiles, and take it from there in the next process.

    The folder is `fourm/compiled` in the user's cache folder, or what FOURM_COMPILE_CACHE names;
    "off" keeps nothing. What jax's own variable JAX_COMPILATION_CACHE_DIR says comes first. Each
    kind of processor has a folder of its own: programs use all that theirs can do. Where the folder
    can't be made or written to, nothing is kept.
    """
    given = os.environ.get(KNOB, "")
    if given.lower() in OFF or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with suppress(OSError, RuntimeError):
        folder = Path(given).expanduser() if given else user_cache() / "fourm" / "compiled"
        folder = folder / processor()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", LEAST_SECONDS)
        if importlib.util.find_spec("filelock"):  # Which jax needs to put out what is old.
            os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MOST_BYTES))


def user_cache() -> Path:
    """Returns the user's folder for what can be made again (XDG Base Directory Specification).

    Raises:
        RuntimeError: If the user has no home.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path.home() / ".cache"


def processor() -> str:
    """Returns a name of this kind of processor: the same where the same programs run."""
    able = platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("flags", "Features", "model name")
        able += "".join(sorted({line for line in lines if line.startswith(wanted)}))
    return hashlib.sha256(able.encode()).hexdigest()[:12]
