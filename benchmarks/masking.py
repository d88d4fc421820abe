"""Times masking and packing: `python -m benchmarks.masking --modalities 21 --budget 256`.

The jitted function alone, on random tokens that are on the device; `benchmarks.input_pipeline`
includes reading. Prints one line of JSON.
"""

from dataclasses import asdict, dataclass
from functools import partial

import jax
import tyro

from benchmarks.measure import print_line, summarize, time_call
from benchmarks.workloads import Modalities, build_mixture, build_workload, draw_tokens
from fourm.masking.mask import mask_batch
from fourm.masking.mixture import Rules
from tokenizers.process.huge_pages import restart_with_huge_pages


@dataclass(frozen=True)
class Masking:
    """What to mask."""

    modalities: Modalities = "7"
    """Those of 4M-7 or 4M-21 that have tokens: 7 or 17."""
    batch: int = 256
    """Samples at once."""
    budget: int = 128
    """Tokens shown, and tokens asked."""
    rules: Rules = "ours"
    """ours, or ml-4m's."""
    repeats: int = 20
    """Batches to time."""


def run(config: Masking) -> dict:
    """Returns the figures."""
    space, _ = build_workload(modalities=config.modalities)
    tokens = draw_tokens(space, config.batch)
    mixture = build_mixture(space, config.budget, rules=config.rules)
    # The tokens are an argument: as constants, some of the work would be done while compiling.
    mask = jax.jit(partial(mask_batch, space=space, config=mixture))
    key = jax.random.key(0)
    first = time_call(lambda: mask(key, tokens))
    masked = mask(key, tokens)
    seconds = [
        time_call(lambda number=number: mask(jax.random.fold_in(key, number), tokens))
        for number in range(config.repeats + 1)
    ]
    return {
        **summarize(seconds[1:], config.batch),
        "share_of_slots_used": round(float(masked.inputs.is_real.mean()), 3),
        "seconds_to_first_call": round(first, 2),
    }


if __name__ == "__main__":
    restart_with_huge_pages()
    options = tyro.cli(Masking, description=__doc__)
    print_line("masking", asdict(options), run(options))
