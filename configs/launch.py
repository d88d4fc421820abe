"""How processes start; not part of `config.json`, because results do not depend on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from tokenizers.settings.checked import Checked

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Launch(Checked):
    """How a run begins, and how its processes find each other."""

    distributed: Flag = False
    """Train in several processes, each started by this command, with one run directory. Under
    SLURM, Open MPI and Cloud TPU they find each other; elsewhere give the next three options."""
    coordinator: str = ""
    """HOST:PORT at which process 0 can be reached by all; any free port of its machine."""
    num_processes: int | None = None
    """Number of processes, on all machines together."""
    process_index: int | None = None
    """Number of this process, from 0."""
    fork: str = ""
    """Run directory to go on from with other settings, in a new --run-dir. Its tokenizers and
    checkpoints are taken over, and its tokens and held-out samples if the data stay the same. That
    run may be unfinished; it is not changed."""
    dry_run: Flag = False
    """Print what the training will take: tokens, parameters, memory, time and disk. Nothing is
    trained or written."""
    use: str = "last"
    """Checkpoint to fork from: last, best (of the lowest held-out loss), or a step, which must not
    lie beyond --training.steps."""

    def check(self) -> None:
        """Raises ValueError, in one sentence, if the options do not fit each other."""
        if self.use != "last" and not self.fork:
            raise ValueError(f"--use {self.use} says where a fork begins; add --fork RUN.")
        given = {
            "--coordinator": self.coordinator or None,
            "--num-processes": self.num_processes,
            "--process-index": self.process_index,
        }
        missing = [knob for knob, value in given.items() if value is None]
        if not self.distributed:
            if len(missing) < len(given):
                present = ", ".join(knob for knob in given if knob not in missing)
                raise ValueError(f"{present} says how processes meet; add --distributed.")
            return
        if missing and len(missing) < len(given):
            raise ValueError(
                f"{', '.join(missing)} is missing; give --coordinator, --num-processes and "
                "--process-index together, or none of them where SLURM or Cloud TPU knows them."
            )
        if self.num_processes is None or self.process_index is None or not self.coordinator:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(
                f"--coordinator is {self.coordinator!r}; it must be HOST:PORT, such as "
                "10.0.0.1:1234."
            )
        if not 0 <= self.process_index < self.num_processes:
            raise ValueError(
                f"--process-index is {self.process_index} of --num-processes "
                f"{self.num_processes}; it must be at least 0 and below their number."
            )


def read_launch(arguments: Sequence[str]) -> Launch:
    """Returns how a command line starts a run, whatever else it says.

    Processes must find each other before anything else is done, and the rest of the command line
    may name a run whose tokenizers have to be loaded.

    Raises:
        ValueError: If the options do not fit each other.
    """
    launch, _ = tyro.cli(Launch, args=list(arguments), return_unknown_args=True, add_help=False)
    launch.check()
    return launch
