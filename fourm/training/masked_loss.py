"""The training loss of a run: tokens are masked, and what was masked is predicted."""

from jaxtyping import Array, Float, Int, Key

from fourm.devices.layout import Layout
from fourm.masking.ours import MaskingConfig, mask_batch
from fourm.model.cross_entropy import LossConfig, count_targets, masked_loss
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from tokenizers.base import TokenBatch


class MaskedLoss:
    """Masks a batch of tokens and predicts its targets; a `CountedLoss` of the training step.

    Masks follow from the key and the index of each sample, so a sample has the same targets
    whatever batch, slice or device it is in.
    """

    def __init__(
        self,
        space: TokenSpace,
        masking: MaskingConfig,
        config: LossConfig,
        layout: Layout | None = None,
    ):
        """Describes the loss.

        Args:
            space: That of the model and of the tokens.
            masking: How inputs and targets are drawn.
            config: How the losses of the modalities are joined.
            layout: How the devices share the work; one device by default.
        """
        self._space, self._masking, self._config = space, masking, config
        self._layout = Layout.single() if layout is None else layout

    def __call__(
        self,
        model: FourM,
        batch: TokenBatch,
        key: Key[Array, ""],
        totals: Int[Array, "modalities"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Returns the loss in nats and its metrics; see `fourm.model.cross_entropy.masked_loss`.

        Args:
            model: Predicts.
            batch: Tokens of a batch, or of a device's share of it.
            key: Of the masks.
            totals: Targets of every modality in the whole batch, if this is a slice of it.
        """
        masked = mask_batch(key, batch, self._space, self._masking)
        return masked_loss(
            model, masked, self._config, self._layout.add_up, self._layout.cross_entropy, totals
        )

    def count(self, batch: TokenBatch, key: Key[Array, ""]) -> Int[Array, "modalities"]:
        """Returns how many targets of every modality a batch has, on all devices."""
        masked = mask_batch(key, batch, self._space, self._masking)
        return self._layout.add_up(count_targets(masked, len(self._space.ranges)))
