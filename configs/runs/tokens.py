"""The tokens of a run: made of its samples once, or opened where they are."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from configs.runs.survey import listed_if_refused
from configs.schema import RunConfig
from data_pipeline.crops import TransformedSource
from data_pipeline.sources.source import max_damaged_of
from data_pipeline.tokens.mixture import TokenMixture
from data_pipeline.tokens.writer import describe_source, encode_split
from fourm.devices.processes import run_on_main
from tokenizers.base import Tokenizer
from tokenizers.storage.folders import fingerprint_files
from tokenizers.storage.run_paths import HELDOUT_TOKENS, TOKENIZERS, TOKENS


def open_tokens(
    config: RunConfig,
    sources: Mapping[str, TransformedSource],
    tokenizers: Mapping[str, Tokenizer],
) -> tuple[TokenMixture, TokenMixture | None]:
    """Returns tokens of training and held-out samples, encoded unless stores are named or there.

    Args:
        config: Of a run that is to be trained.
        sources: By split, as they are open.
        tokenizers: All of the run, saved in its directory.

    Raises:
        TooDamagedError: If more values can't be used than may be.
        ValueError: If a store is not of these tokenizers.
    """
    folder = Path(config.run_dir)
    made_by = {name: fingerprint_files(folder / TOKENIZERS / name) for name in tokenizers}

    def encode(split: str, name: str, num_samples: int | None = None) -> dict[str, float]:
        made_from = describe_source(config.data, config.crops, config.seed, split)
        to_encode = sources[split], tokenizers, made_by, made_from
        most = num_samples, max_damaged_of(config.data)
        with listed_if_refused(config, split):
            run_on_main(partial(encode_split, *to_encode, folder / name, *most))
        return {str(folder / name): 1.0}

    stores = config.tokens or encode("train", TOKENS)
    heldout = dict.fromkeys(config.heldout_tokens, 1.0)
    others = [split for split in sources if split != "train" and len(sources[split])]
    if others and not heldout and config.training.evaluate_every:
        heldout = encode(others[0], HELDOUT_TOKENS, config.training.evaluate_samples)
    tokens = TokenMixture.open(stores, tokenizers, made_by)
    return tokens, TokenMixture.open(heldout, tokenizers, made_by) if heldout else None
