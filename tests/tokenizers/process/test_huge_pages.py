"""Whether a program restarts once, with huge pages, and leaves the user's own setting alone."""

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tokenizers.process.huge_pages import TUNABLES

PROGRAM = """
import os, sys
print("started", flush=True)
from tokenizers.process.huge_pages import restart_with_huge_pages
restart_with_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux has the setting.")
@pytest.mark.parametrize(
    ("given", "starts", "expected"),
    [(None, 2, "glibc.malloc.hugetlb=1"), ("glibc.malloc.check=0", 1, "glibc.malloc.check=0")],
)
def test_restarts_once_with_its_arguments(given, starts, expected, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != TUNABLES}
    environment |= {"PYTHONPATH": str(ROOT)} | ({TUNABLES: given} if given else {})
    ran = subprocess.run(
        [sys.executable, program, "--run-dir", "a b"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *started, last = ran.stdout.splitlines()
    assert started == ["started"] * starts
    assert last == f"{expected} ['--run-dir', 'a b']"
