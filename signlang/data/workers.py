"""Processes that work on image files beside this one, where threads would wait for each other.

Pillow decodes JPEG under the interpreter's lock. `multiprocessing` would fork threads, or import
the caller's main module again; these processes are programs of their own, which end with their
input.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from signlang.data.image_io import batched, map_in_order
from signlang.system import child_environment, cpu_count

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK: Final = 50  # items that are sent at a time
FEWEST: Final = 4000  # files; for fewer, starting processes takes longer than they save


def map_files(
    function: Callable[[Item], Result], items: Sequence[Item], fewest: int = FEWEST
) -> Iterator[Result]:
    """Map a function over many files on all cores, in order.

    A process that is killed, or that cannot be started, loses nothing: this one does its work.

    Args:
        function: A function of a module, or a `functools.partial` of one; it and the items are
            pickled.
        items: Its arguments.
        fewest: Number of items from which processes are started; threads do for fewer.
    """
    count = cpu_count()
    with _processes(count if len(items) >= fewest and count > 1 else 0) as idle:
        process_chunk = partial(_process_chunk, idle, function)
        for results in map_in_order(process_chunk, batched(items, CHUNK), count, ahead=2 * count):
            yield from results


Idle = SimpleQueue["subprocess.Popen[bytes] | None"]


@contextmanager
def background_processes() -> Iterator["Submit"]:
    """Start processes that work beside this one, one for each core, until the block ends.

    Yields:
        A function that submits chunks of items; like `map_files`, it takes the work of a process
        that is killed.
    """
    with ThreadPoolExecutor(cpu_count()) as pool, _processes(cpu_count()) as idle:

        def submit(
            function: Callable[[Item], Result], items: Sequence[Item], chunk: int
        ) -> list[Future[list[Result]]]:
            return [
                pool.submit(_process_chunk, idle, function, batch)
                for batch in batched(items, chunk)
            ]

        try:
            yield submit
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Submit(Protocol):
    """Submits a function and its arguments, by chunks, to processes in the background."""

    def __call__(
        self, function: Callable[[Item], Result], items: Sequence[Item], chunk: int
    ) -> list[Future[list[Result]]]:
        """The results of each chunk."""
        ...


@contextmanager
def _processes(count: int) -> Iterator[Idle]:
    """Start processes; yields those that wait for work, with None for each that does not exist."""
    idle: Idle = SimpleQueue()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            with suppress(OSError):  # too many processes
                started.append(_start())
                idle.put(started[-1])
        for _ in range(cpu_count() - len(started)):
            idle.put(None)
        yield idle
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=child_environment(), process_group=0,  # Ctrl-C is for the process that starts them
    )  # fmt: skip


def _process_chunk(
    idle: Idle, function: Callable[[Item], Result], chunk: Sequence[Item]
) -> list[Result]:
    process = idle.get()
    try:
        results = None if process is None else _send_chunk(process, (function, chunk))
    except (OSError, EOFError, pickle.UnpicklingError):  # it was killed
        process = results = None
    finally:
        idle.put(process)
    return [function(item) for item in chunk] if results is None else results


def _send_chunk(process: "subprocess.Popen[bytes]", task: Any) -> list[Any] | None:
    assert process.stdin
    assert process.stdout
    pickle.dump(task, process.stdin)
    process.stdin.flush()
    results: list[Any] | None = pickle.load(process.stdout)  # noqa: S301  our own process
    return results


def _work() -> None:
    """Process chunks from the standard input until it ends."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not get between them
    while True:
        try:
            function, chunk = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own process
        except EOFError:
            return
        results: list[Any] | None = None
        with suppress(Exception):  # raised again where it is understood
            results = [function(item) for item in chunk]
        pickle.dump(results, output)
        output.flush()


if __name__ == "__main__":
    _work()
