"""`--model.remat auto` takes the cheapest rematerialisation that fits."""

from dataclasses import replace

import pytest

from fourm.devices.layout import Layout
from fourm.model.config import ModelConfig
from fourm.training import fit_memory
from fourm.training.fit_memory import SHARE, choose_remat, step_bytes
from fourm.training.loop import TrainingConfig
from fourm.training.masked_loss import LossConfig, MaskedLoss
from tests.fourm.tiny import make_tokens
from tests.fourm.training.mesh_worker import MASKING, SPACE

SHAPE = ModelConfig(
    dim=32, num_heads=2, encoder_layers=4, decoder_layers=1, scan_layers=True, remat="auto"
)
TRAINING = TrainingConfig(steps=4, batch_size=64)
LAYOUT = Layout.single()
LOSS = MaskedLoss(SPACE, MASKING, LossConfig(tile=1), LAYOUT)


class Tokens:
    def __len__(self):
        return 64

    def batch(self, indices):
        return make_tokens(len(indices), space=SPACE)


def choose(shape=SHAPE):
    return choose_remat(SPACE, shape, TRAINING, LOSS, Tokens(), LAYOUT)


def test_what_is_given_stays(monkeypatch):
    monkeypatch.setattr(fit_memory, "memory_of_device", lambda: pytest.fail("not asked for"))
    for remat in ("none", "blocks", "everything"):
        given = replace(SHAPE, remat=remat)
        assert choose(given) is given


def test_where_nobody_knows_the_memory_all_is_kept():
    assert fit_memory.memory_of_device() is None  # This is a CPU.
    assert choose() == replace(SHAPE, remat="none")


@pytest.mark.slow
def test_the_first_that_fits_is_taken_and_said(monkeypatch, capsys):
    batch = Tokens().batch(range(64))
    needed = {
        policy: step_bytes(SPACE, replace(SHAPE, remat=policy), TRAINING, LOSS, batch, LAYOUT)
        for policy in ("none", "blocks")
    }
    assert needed["blocks"] < needed["none"]
    # What was measured need not be compiled again.
    monkeypatch.setattr(
        fit_memory,
        "step_bytes",
        lambda space, config, *rest: needed.get(config.remat) or step_bytes(space, config, *rest),
    )
    for policy, memory in (("none", needed["none"]), ("blocks", needed["blocks"])):
        monkeypatch.setattr(fit_memory, "memory_of_device", lambda m=memory: int(m / SHARE) + 9)
        assert choose().remat == policy
        assert f"--model.remat auto is {policy}: of" in capsys.readouterr().out
    monkeypatch.setattr(fit_memory, "memory_of_device", lambda: 1)
    assert choose().remat == "everything"
