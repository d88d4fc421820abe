"""Where samples come from, and how they become tokens and batches."""

import sys
from pathlib import Path

# Our folder `tokenizers` lies beside this one, and comes before another package of that name.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
