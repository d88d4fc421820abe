"""Several processes that make the shards of one token store."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from data_pipeline.sources.source import Source
from data_pipeline.tokens.index import StoreIndex
from data_pipeline.tokens.writer import write_shards
from tokenizers.base import Tokenizer
from tokenizers.settings.own_code import handed_over, run_file

Opened = tuple[Source, dict[str, Tokenizer]]

POLL_SECONDS = 0.5
"""Seconds between two looks at how far the processes are."""


class Stopped(Exception):
    """The other processes are to stop."""


def write_in_processes(
    open_all: Callable[[], Opened],
    folder: Path,
    plan: StoreIndex,
    numbers: Sequence[int],
    processes: int,
    progress: Callable[[int], None],
) -> None:
    """Makes shards in processes of their own; see `token_writer.write_tokens`.

    Args:
        open_all: Opens the source and loads the tokenizers, once in every process. It is sent
            there, so it and what it holds must be known by name.
        folder: Where the store is.
        plan: What it is to be.
        numbers: The shards.
        processes: How many at a time.
        progress: Called with the number of samples that were done since the last call.

    Raises:
        ValueError: What a process raised, or that one was killed.
    """
    # Forking after jax has started hangs. And none may take all of an accelerator's memory.
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    done, stop = context.Value("q", 0), context.Event()
    seen = 0
    with ProcessPoolExecutor(
        min(processes, len(numbers)),
        context,
        initializer=_start,
        # Packed by itself, as the user's files that define its classes must be run before.
        initargs=(handed_over(), pickle.dumps(open_all), folder, plan, done, stop),
    ) as pool:
        waiting = {pool.submit(_write, number) for number in numbers}
        try:
            while waiting:
                finished, waiting = wait(waiting, POLL_SECONDS, FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                if (now := done.value) > seen:
                    progress(now - seen)
                    seen = now
        except BrokenProcessPool as error:
            raise ValueError(
                "A process that makes tokens was killed, perhaps for want of memory; give fewer "
                "--processes and the same command resumes it."
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_work: dict[str, Any] = {}
"""What this process, if it is one of those, works with."""


def _start(files: list[Path], open_all: bytes, folder: Path, plan: StoreIndex, done, stop) -> None:
    # An interruption reaches every process of a terminal; the first one tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for file in files:  # Before what is made of their classes is unpacked.
        run_file(file)
    source, tokenizers = pickle.loads(open_all)()
    _work.update(
        source=source, tokenizers=tokenizers, folder=folder, plan=plan, done=done, stop=stop
    )


def _end_with_parent() -> None:
    """Ends this process when the first one is gone, however it ended; nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _write(number: int) -> None:
    def count(samples: int) -> None:
        with _work["done"].get_lock():
            _work["done"].value += samples
        if _work["stop"].is_set():
            raise Stopped

    source, tokenizers, folder, plan = (
        _work[name] for name in ("source", "tokenizers", "folder", "plan")
    )
    write_shards(source, tokenizers, folder, plan, [number], count)
