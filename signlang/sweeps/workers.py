"""Jobs come in, their outcomes go out: run side by side in processes of this machine."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Final

from signlang import console
from signlang.errors import SettingError
from signlang.machine import cores
from signlang.sweeps.jobs import Outcome
from signlang.sweeps.meter import Meter

MEMORY_OF_A_JOB: Final = 2 * 2**30  # bytes; torch with one small network takes about half of it
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                  "OPENCV_FOR_THREADS_NUM")  # fmt: skip
PATIENCE: Final = 10.0  # seconds that an interrupted worker gets to leave its run in order
ATTEMPTS: Final = 3


def carried(jobs: Any) -> int:
    """How many jobs run at once.

    Args:
        jobs: A number, or `auto` for one per core as long as each has 2 GiB of memory.

    Raises:
        SettingError: If it is neither.
    """
    if jobs == "auto":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        with suppress(OSError):
            lines = Path("/proc/meminfo").read_text().splitlines()
            available = [line.split() for line in lines if line.startswith("MemAvailable")]
            memory = int(available[0][1]) * 1024 if available else memory
        return max(1, min(cores(), memory // MEMORY_OF_A_JOB))
    if isinstance(jobs, int) and not isinstance(jobs, bool) and jobs >= 1:
        return jobs
    raise SettingError(f"launcher.jobs={jobs}: it must be auto or a whole number of at least 1.")


@dataclass
class _Worker:
    """A process that works on one job after another."""

    process: ForkProcess
    connection: Connection
    job: int | None = None
    begun: float = 0.0


@dataclass
class Workers:
    """Runs jobs in processes; one that is killed costs only the job it had.

    The processes are forked: jobs need not be pickled, and what this process has read and composed
    is there already. It must not have imported torch, whose threads do not survive a fork.

    Attributes:
        task: Runs a job, in a worker.
        at_once: How many workers there are; processor threads are divided among them.
    """

    task: Callable[[Any], Outcome]
    at_once: int
    _workers: list[_Worker] = field(default_factory=list)

    def run(self, jobs: Mapping[int, Any], names: Mapping[int, str]) -> dict[int, Outcome]:
        """Run jobs; the workers then wait for more until they are closed.

        Args:
            jobs: What the task gets, by number, in the order in which they begin.
            names: What to call each.

        Returns:
            The outcome of each.

        Raises:
            KeyboardInterrupt: Once every worker has left its run in order.
        """
        queue, outcomes = list(jobs), dict[int, Outcome]()
        at_once = max(1, min(self.at_once, len(jobs)))
        meter, threads = Meter(len(jobs), at_once), max(1, cores() // at_once)
        try:
            with meter:
                while queue or any(worker.job is not None for worker in self._workers):
                    while queue and (worker := self._idle(threads)):
                        worker.job, worker.begun = queue.pop(0), time.monotonic()
                        worker.connection.send(jobs[worker.job])
                    for worker in self._ready():
                        number, seconds = worker.job, time.monotonic() - worker.begun
                        assert number is not None
                        outcomes[number] = self._outcome(worker)
                        meter.count(names[number], outcomes[number], seconds)
                    meter.refresh()
        except KeyboardInterrupt:
            self._interrupt()
            raise KeyboardInterrupt(
                f"Interrupted after {len(outcomes)} of {len(jobs)} jobs. The same command goes on "
                "from there."
            ) from None
        return outcomes

    def close(self) -> None:
        """End the workers, in the middle of a job if they have one."""
        for worker in self._workers:
            with suppress(OSError):
                worker.connection.send(None)
            if worker.job is not None:
                worker.process.kill()  # it was asked before; its run goes on from the last epoch
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def _idle(self, threads: int) -> _Worker | None:
        """A worker without a job, made if there are fewer than may be."""
        self._workers = [w for w in self._workers if w.job is not None or w.process.is_alive()]
        for worker in self._workers:
            if worker.job is None:
                return worker
        if len(self._workers) >= self.at_once:
            return None
        assert "torch" not in sys.modules, "torch must not be imported before workers are forked"
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.task, threads, os.getpid()))
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def _ready(self) -> list[_Worker]:
        """Workers that have something to say, or have died; waits a moment for the first."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        return [busy[connection] for connection in wait(busy, timeout=0.5)]  # type: ignore[index]

    def _outcome(self, worker: _Worker) -> Outcome:
        """What a worker has to say; of a dead one, how it died."""
        worker.job = None
        try:
            outcome: Outcome = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.process.join()
            return Outcome(error=_death(worker.process.exitcode))
        return outcome

    def _interrupt(self) -> None:
        """Let every worker end as after Ctrl-C; ask again, as an exception can get lost in C."""
        busy = [worker.process for worker in self._workers if worker.job is not None]
        for _ in range(ATTEMPTS):
            for process in busy:
                if process.is_alive() and process.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
            deadline = time.monotonic() + PATIENCE
            for process in busy:
                process.join(max(0.0, deadline - time.monotonic()))


def _work(
    connection: Connection, task: Callable[[Any], Outcome], threads: int, parent: int
) -> None:
    """Work on one job after another, until None comes in."""
    with suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which passes it on once
    os.environ |= dict.fromkeys(THREADS, str(threads))  # read when torch is imported, in a moment
    console.mute()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while (job := connection.recv()) is not None:
            connection.send(task(job))


def _end_with(parent: int) -> None:
    """End this process soon after its parent, however that ended: nobody waits for its work."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _death(code: int | None) -> str:
    """Say how a process ended.

    >>> _death(-9)[:59]
    'its process was killed by signal SIGKILL, perhaps for want '
    """
    if code is not None and code < 0:
        why = f"was killed by signal {signal.Signals(-code).name}"
        why += ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    else:
        why = f"ended with exit code {code}"
    return f"its process {why}. The same command goes on from its last finished epoch."
