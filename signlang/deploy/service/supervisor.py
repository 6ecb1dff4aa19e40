"""Settings come in; processes that answer are started, and started again when one is killed."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from signlang.deploy.service import journal, listening, worker
from signlang.deploy.service.options import Options
from signlang.errors import ServiceError

PATIENCE: Final = 30.0  # seconds at most between attempts to start a process again
MARGIN: Final = 5.0  # seconds beyond the time that requests get to finish


@dataclass(eq=False)
class _Worker:
    process: Any
    told: Connection
    speaks: bool = True
    is_ready: bool = False


class Supervisor:
    """Keeps the processes of a service running until it is told to stop.

    Args:
        options: The settings.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._address = ""
        self._workers: list[_Worker] = []
        self._failures = 0
        self._not_before = 0.0
        self._is_stopping = False
        self._was_ready = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then wait for the requests that have begun.

        Raises:
            ServiceError: If the address is taken, or a process cannot be started at all.
        """
        with (
            listening.opened(self._options.host, self._options.port) as sock,
            listening.figures() as figures,
            self._bell() as bell,
        ):
            self._address = listening.address(sock)
            try:
                while not self._is_stopping:
                    self._fill(sock)
                    self._wait(bell, figures)
            finally:
                self._is_stopping = True
                sock.close()  # who comes now is refused instead of kept waiting
                self._stop()

    @contextmanager
    def _bell(self) -> Iterator[int]:
        """Let SIGTERM and SIGINT end the waiting; yields what they ring."""
        bell, rope = os.pipe()

        def ring(number: int, frame: Any) -> None:
            self._is_stopping = True
            os.write(rope, b"!")

        before = {number: signal.signal(number, ring) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield bell
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(bell)
            os.close(rope)

    def _fill(self, sock: socket.socket) -> None:
        """Start as many processes as are missing, unless the last ones failed a moment ago."""
        context = multiprocessing.get_context("spawn")  # a fork would share threads and sessions
        while len(self._workers) < self._options.workers and time.monotonic() >= self._not_before:
            told, tells = context.Pipe(duplex=False)
            process = context.Process(
                target=worker.run, args=(self._options, sock, tells), name="signlang-worker"
            )
            process.start()
            tells.close()
            self._workers.append(_Worker(process, told))

    def _wait(self, bell: int, figures: Path) -> None:
        """Wait until a process says something or ends, a signal comes, or a pause is over."""
        says: dict[Any, _Worker] = {w.told: w for w in self._workers if w.speaks}
        ends: dict[Any, _Worker] = {w.process.sentinel: w for w in self._workers}
        pause = max(0.0, self._not_before - time.monotonic())
        is_complete = len(self._workers) == self._options.workers
        happened = connection.wait([*says, *ends, bell], None if is_complete else pause)
        for what in happened:  # words first: they say why a process ends
            if what in says:
                self._hear(says[what])
        for what in happened:
            if what in ends:
                self._lose(ends[what], figures)

    def _hear(self, heard: _Worker) -> None:
        try:
            said = heard.told.recv()
        except EOFError:
            heard.speaks = False
            return
        if said == worker.READY:
            heard.is_ready = self._was_ready = True
            self._failures = 0
            facts = {"address": self._address, "worker": heard.process.pid}
            journal.log.info("ready", extra=facts)
        elif self._was_ready:
            journal.log.error("a worker cannot start", extra={"reason": said})
        else:
            raise ServiceError(said)

    def _lose(self, lost: _Worker, figures: Path) -> None:
        """Bury a process; pause longer each time before the next if it never became ready."""
        lost.process.join()
        lost.told.close()
        self._workers.remove(lost)
        for file in figures.glob(f"gauge_live*_{lost.process.pid}.db"):
            file.unlink(missing_ok=True)  # its present state; what it counted stays
        if self._is_stopping:
            return
        if not self._was_ready:
            raise ServiceError(
                f"The service ended before it was ready (exit code {lost.process.exitcode}). If "
                "nothing above says why, it may have been killed for want of memory."
            )
        if not lost.is_ready:
            self._failures += 1
            self._not_before = time.monotonic() + min(PATIENCE, 2.0**self._failures)
        facts = {"worker": lost.process.pid, "exit_code": lost.process.exitcode}
        journal.log.error("a worker ended, another takes its place", extra=facts)

    def _stop(self) -> None:
        """Let all processes finish what they have begun; kill those that take too long."""
        for one in self._workers:
            one.process.terminate()
        until = time.monotonic() + self._options.grace_s + MARGIN
        for one in self._workers:
            one.process.join(max(0.0, until - time.monotonic()))
            if one.process.is_alive():
                one.process.kill()
                one.process.join()
        if self._was_ready:
            journal.log.info("stopped")
