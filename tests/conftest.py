"""Settings under which the tests run."""

from collections.abc import Iterator

import jax
import pytest

# What masks, computes and trains: arrays of different rank meet there only where the code says
# so. Elsewhere, colours and boxes meet whole pictures along their last axis all the time.
STRICT = (
    "test_budgets",
    "test_checkpoints",
    "test_loss",
    "test_masking",
    "test_model",
    "test_span_corruption",
    "test_token_space",
    "test_train_state",
    "test_training",
)


@pytest.fixture(autouse=True)
def rank_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Makes broadcasting of a lower rank to a higher one an error in the core's tests."""
    with jax.numpy_rank_promotion("raise" if request.path.stem in STRICT else "allow"):
        yield
