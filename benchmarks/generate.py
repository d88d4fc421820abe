"""Times generation with random weights: `python -m benchmarks.generate --size b`.

RGB tokens to depth tokens by every kind of scheme, and to a caption token by token. What is
generated means nothing. Prints one line of JSON.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import jax
import tyro
from flax import nnx

from benchmarks.measure import print_line, summarize, time_call
from benchmarks.workloads import Precision, Size, build_workload, draw_tokens
from fourm.inference.generate_tokens import generate_tokens
from fourm.inference.settings import GenerationConfig
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from tokenizers.process.huge_pages import restart_with_huge_pages

RGB, DEPTH, CAPTION = "tok_rgb@224", "tok_depth@224", "caption"


@dataclass(frozen=True)
class Generate:
    """What to generate."""

    size: Size = "b"
    """Of the model."""
    batch: int = 1
    """Samples at once."""
    caption_tokens: int = 64
    """Of every caption."""
    dtype: Precision = "float32"
    """Precision of activations."""
    repeats: int = 5
    """Calls to time."""


def shorten_captions(space: TokenSpace, length: int) -> TokenSpace:
    """Returns a space in which captions have at most `length` tokens."""
    ranges = [
        replace(entry, token_shape=(length,)) if entry.name == CAPTION else entry
        for entry in space.ranges
    ]
    return TokenSpace(tuple(ranges))


def time_generation(call: Callable[[], object], config: Generate) -> dict[str, float]:
    """Returns samples per second, the spread, and the time of the first call."""
    first = time_call(call)
    seconds = [time_call(call) for _ in range(config.repeats)]
    return {**summarize(seconds, config.batch), "seconds_to_first_call": round(first, 2)}


def run(config: Generate) -> dict:
    """Returns the figures."""
    space, model_config = build_workload(config.size, scan_layers=True, dtype=config.dtype)
    space = shorten_captions(space, config.caption_tokens)
    model = nnx.jit(lambda: FourM(space, model_config, nnx.Rngs(0)))()
    # A caption ends when its end is drawn: with one that is never likeliest, all are full.
    end = space[CAPTION].first_id + space[CAPTION].special.end
    model.output_table[...] = model.output_table[...].at[end].set(0)
    known = {RGB: draw_tokens(space, config.batch).ids[RGB]}
    keys = jax.random.split(jax.random.key(0), config.batch)

    def generate(target: str, **settings) -> Callable[[], object]:
        per_target = {target: GenerationConfig(**settings)}
        return lambda: generate_tokens(model, known, [target], keys, per_target).ids[target]

    maskgit = {"scheme": "maskgit", "num_steps": 8}
    calls = {
        "rgb_to_depth_1_step": generate(DEPTH, num_steps=1, temperature=0.0),
        "rgb_to_depth_maskgit_8_steps": generate(DEPTH, **maskgit),
        "rgb_to_depth_maskgit_8_steps_guided": generate(DEPTH, **maskgit, guidance=2.0),
        "rgb_to_depth_random_8_steps": generate(
            DEPTH, scheme="random", num_steps=8, schedule="linear"
        ),
        "rgb_to_caption": generate(CAPTION, temperature=0.0),
    }
    figures = {name: time_generation(call, config) for name, call in calls.items()}
    written = int((calls["rgb_to_caption"]() >= 0).sum(1).min())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return {**figures, "fewest_caption_tokens": written, "parameters": parameters}


if __name__ == "__main__":
    restart_with_huge_pages()
    options = tyro.cli(Generate, description=__doc__)
    print_line("generate", asdict(options), run(options))
