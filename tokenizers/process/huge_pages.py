"""How the process gets its memory."""

import os
import sys
from contextlib import suppress

TUNABLES = "GLIBC_TUNABLES"


def restart_with_huge_pages() -> None:
    """Restarts this program with memory in huge pages, before it has done anything.

    XLA on the CPU takes hundreds of megabytes from the system in every step and gives them back.
    In pages of 4 KiB the faults cost more than a third of a training step. glibc can ask for
    larger ones, but reads that setting as a process starts ("Memory Allocation Tunables" in its
    manual). Where the user has set tunables, there is no glibc, or the system allows no restart,
    nothing happens.
    """
    if sys.platform != "linux" or TUNABLES in os.environ:
        return
    os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
    with suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
