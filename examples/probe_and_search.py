"""Probes the encoder of a run, and searches its held-out pictures by picture and by text.

python examples/probe_and_search.py runs/scenes
python examples/probe_and_search.py runs/scenes "a large red sphere"

The probe says how well a linear classifier reads facts off the frozen encoder, beside its rivals
(raw pixels, an untrained encoder, a histogram of tokens, chance). The search lists the held-out
samples whose embeddings are nearest to that of the query.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Where fourm is not installed.

import numpy as np

import fourm
from configs import ProbeConfig
from fourm.evaluation.probes import format_probes, probe, untrained_like
from fourm.run_directory.sample_set import TRAINING, load_heldout

folder, *texts = sys.argv[1:]
run = fourm.load(folder)
training, heldout = load_heldout(folder, TRAINING), load_heldout(folder, "test")

tasks = tuple(heldout.metadata)[:3]
rows, notes = probe(run, untrained_like(run), training, heldout, ProbeConfig("rgb", tasks))
print("\n".join([format_probes(rows), *notes]) if tasks else "The samples have no facts to probe.")


def embed(inputs: dict) -> np.ndarray:
    """Returns embeddings of length 1."""
    found = run.embed(inputs)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


rows = heldout.rows(["rgb", "caption"])
pictures, captions = heldout.take("rgb", rows), heldout.take("caption", rows)
gallery = embed({"rgb": pictures})
query, name = embed({"rgb": pictures[:1]}), captions[0]
if texts:
    query, name = embed({"caption": texts}), texts[0]
print(f"\nNearest to {name!r}:")
for place in np.argsort(-(gallery @ query[0]))[:5]:
    print(f"  sample {rows[place]}: {captions[place]}")
