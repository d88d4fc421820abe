"""Where tests find what they read."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The clone."""
FIXTURES = ROOT / "tests" / "fixtures"
GOLDENS = FIXTURES / "goldens"
"""Recorded inputs, weights and outputs of ml-4m, those that are small."""
SHARED = ROOT.parent / "shared"
"""What lies beside the clone in some places: tests that read it are skipped elsewhere."""
