"""The model that training begins with: random weights, or those of another run."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from fourm.devices.layout import Layout
from fourm.model.config import ModelConfig
from fourm.model.saved_model import load_model
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from fourm.training.code_init import initialize_from_codes
from fourm.training.warm_start import take_weights
from tokenizers.base import CodeFeatures, Tokenizer
from tokenizers.storage.folders import check_made_with, fingerprint_files
from tokenizers.storage.pieces import check_pieces
from tokenizers.storage.run_paths import MODEL, TOKENIZERS


class WeightSource(NamedTuple):
    """What the first weights come from.

    Attributes:
        space: Of the model to be made.
        run: Run directory to take weights from; empty if there is none.
        source: Its model.
        taken: Modalities that are the same there.
    """

    space: TokenSpace
    run: str = ""
    source: FourM | None = None
    taken: tuple[str, ...] = ()


def find_start(tokenizers: Mapping[str, Tokenizer], folder: Path, run: str = "") -> WeightSource:
    """Returns what a model over these modalities starts from.

    Args:
        tokenizers: By modality.
        folder: Run directory that has them, saved.
        run: Run directory to take weights from; empty for random weights.

    Raises:
        ValueError: If `run` has no model, or one that belongs to another run, or shares no
            modality with this one.
    """
    space = TokenSpace.build(dict(tokenizers))
    if not run:
        return WeightSource(space)
    path = Path(run).expanduser()
    check_pieces(path, [MODEL, *(f"{TOKENIZERS}/{name}" for name in tokenizers)])
    check_made_with(path / MODEL, path / TOKENIZERS)
    # Put together in the host's memory: no device may be able to hold it whole.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        source = load_model(path / MODEL)
    taken = find_shared(path, folder, tokenizers)
    return WeightSource(space.with_roles_of(source.space, taken), run, source, taken)


def find_shared(source: Path, folder: Path, tokenizers: Mapping[str, Tokenizer]) -> tuple[str, ...]:
    """Returns the modalities whose tokenizers are the same, bit for bit, in two run directories.

    Raises:
        ValueError: If there is none: then there is nothing to start from.
    """
    of_source = {path.name: path for path in (source / TOKENIZERS).iterdir() if path.is_dir()}
    shared = tuple(
        name
        for name in tokenizers
        if name in of_source
        and fingerprint_files(of_source[name]) == fingerprint_files(folder / TOKENIZERS / name)
    )
    if not shared:
        raise ValueError(
            f"The run {source} has no modality with the same tokenizer as one of "
            f"{', '.join(tokenizers)}; give these its tokenizers (SavedTokenizerConfig), or no "
            "--start-from."
        )
    return shared


def create_model(
    start: WeightSource,
    config: ModelConfig,
    tokenizers: Mapping[str, Tokenizer],
    seed: int,
    layout: Layout,
) -> FourM:
    """Makes the transformer.

    No device ever holds more than its part: random weights are made where they belong, those of
    another run are put together in the host's memory.

    Args:
        start: From `find_start`.
        config: The transformer's shape.
        tokenizers: By modality; those that know which of their ids mean alike shape the rows of
            these ids, unless the rows are taken over.
        seed: Of the random weights.
        layout: Of the devices.

    Raises:
        ValueError: If the weights of the other run do not fit this shape.
    """
    codes = {
        name: tokenizer.code_features()
        for name, tokenizer in tokenizers.items()
        if isinstance(tokenizer, CodeFeatures) and name not in start.taken
    }

    def build() -> FourM:
        model = FourM(start.space, config, nnx.Rngs(seed))
        initialize_from_codes(model, codes, jax.random.key(seed))
        return model

    if start.source is None:
        return layout.create_model(build)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model = build()
        take_weights(model, start.source, start.taken)
    new = [name for name in tokenizers if name not in start.taken]
    print(f"from {start.run}: {', '.join(start.taken)}; anew: {', '.join(new) or 'nothing'}")
    return model
