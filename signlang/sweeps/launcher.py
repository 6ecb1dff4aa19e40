"""Launcher of sweep jobs: in this process, or in a pool of worker processes."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, TypeVar

from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from signlang import console, system
from signlang.console import CONSOLE, duration, log, verbose
from signlang.errors import Interrupted, SettingError
from signlang.runs import ranks
from signlang.sweeps.jobs import JobResult, Jobs, Measure, display_text
from signlang.system import cpu_count

Result = TypeVar("Result")


class SweepProgress:
    """Says how far a sweep is: a bar on a terminal, a line for each job in any case."""

    def __init__(self, total: int, at_once: int) -> None:
        self.total, self.at_once, self.done = total, max(1, at_once), 0
        self.started = self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("jobs of the sweep"), BarColumn(20), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=CONSOLE, transient=True, auto_refresh=False,  # a thread would not survive forks
            disable=not (verbose() and CONSOLE.is_terminal),
        )  # fmt: skip
        self.task = self.bar.add_task("", total=total, note=f"{self.at_once} at once")
        self.remarks: set[str] = set()

    def __enter__(self) -> None:
        self.bar.start()

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def refresh(self, running: Sequence[float]) -> None:
        """Draw the bar; in a log, write a line if nothing was written for a while.

        Args:
            running: When each job that runs was started.
        """
        now = time.monotonic()
        if not self.bar.disable:
            self.bar.refresh()
        elif running and now - self.last_line >= console.BETWEEN_LINES:
            self.last_line = now
            log.info("sweep: %d of %d jobs are done, %d running, the longest for %s", self.done,
                     self.total, len(running), duration(now - min(running)))  # fmt: skip

    def count(self, name: str, outcome: JobResult, seconds: float) -> None:
        """Report a job that has ended, and the time that is left; each remark once."""
        for remark in outcome.remarks:
            if remark not in self.remarks:
                log.warning("%s: %s", name, remark)
        self.remarks |= {*outcome.remarks}
        self.done, self.last_line = self.done + 1, time.monotonic()
        remaining = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        note = f"about {duration(remaining)} left" if self.done < self.total else "done"
        self.bar.update(self.task, advance=1, note=note)
        position = f"[{self.done}/{self.total}, {note}]"
        if outcome.accuracy is None:
            log.error("%s %s failed after %s: %s", position, name, duration(seconds), outcome.error)
        else:
            log.info("%s %s: validation accuracy %.4f (%s)", position, name, outcome.accuracy,
                     duration(seconds))  # fmt: skip


JOB_MEMORY: Final = 2 * 2**30  # bytes; torch with one small network takes about half of it
GRACE_S: Final = 10.0  # seconds that an interrupted worker gets to leave its run in order
ATTEMPTS: Final = 2  # the second signal ends a worker at once


def worker_count(jobs: Any) -> int:
    """How many jobs run at once.

    Args:
        jobs: A number, or `auto` for one per core as long as each has 2 GiB of memory.

    Raises:
        SettingError: If it is neither.
    """
    if jobs == "auto":
        memory = available_memory()
        by_memory = cpu_count() if memory is None else memory // JOB_MEMORY
        return max(1, min(cpu_count(), by_memory))
    if isinstance(jobs, int) and not isinstance(jobs, bool) and jobs >= 1:
        return jobs
    raise SettingError(
        f"hydra.launcher.jobs={jobs}: it must be auto or a whole number of at least 1."
    )


def available_memory() -> int | None:
    """Bytes of memory that are free for new processes; None where the system does not say.

    Linux says what it can free as well; other systems what is free now, or (macOS) what there is.
    """
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = [line.split() for line in lines if line.startswith("MemAvailable")]
        if available:
            return int(available[0][1]) * 1024
    for pages in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages)
    return None


@dataclass
class _Worker:
    """A process that works on one job after another."""

    process: BaseProcess
    connection: Connection
    job: int | None = None
    started: float = 0.0


@dataclass
class WorkerPool:
    """Runs jobs in processes; one that is killed costs only the job it had.

    The processes are forked: jobs need not be pickled, and what this process has read and composed
    is there already. It must not have imported torch, whose threads do not survive a fork.

    Attributes:
        task: Runs a job, in a worker.
        at_once: How many workers there are; processor threads are divided among them.
    """

    task: Callable[[Any], JobResult]
    at_once: int
    _workers: list[_Worker] = field(default_factory=list)
    _threads: int = 1

    def run(self, jobs: Mapping[int, Any], names: Mapping[int, str]) -> dict[int, JobResult]:
        """Run jobs; the workers then wait for more until they are closed.

        Args:
            jobs: What the task gets, by number, in the order in which they start.
            names: What to call each.

        Returns:
            The outcome of each.

        Raises:
            Interrupted: Once every worker has left its run in order.
        """
        queue, outcomes = list(jobs), dict[int, JobResult]()
        at_once = max(1, min(self.at_once, len(jobs)))
        progress, self._threads = SweepProgress(len(jobs), at_once), max(1, cpu_count() // at_once)
        try:
            with system.stopping_between_batches(), progress:
                while queue or self._is_busy():
                    while queue and (worker := self._idle()):
                        worker.job, worker.started = queue.pop(0), time.monotonic()
                        worker.connection.send(jobs[worker.job])
                    for worker in self._ready():
                        number, seconds = worker.job, time.monotonic() - worker.started
                        assert number is not None
                        outcomes[number] = self._outcome(worker)
                        progress.count(names[number], outcomes[number], seconds)
                    progress.refresh([w.started for w in self._workers if w.job is not None])
                    if queue or self._is_busy():
                        system.check_stop()
        except (KeyboardInterrupt, system.StopRequested):
            self._interrupt()
            raise interrupted(len(outcomes), len(jobs)) from None
        return outcomes

    def call(self, function: "partial[Result]") -> Result | str:
        """Let a worker call a function while none has a job.

        Args:
            function: It and what it returns are pickled; it raises nothing.

        Returns:
            What it returns, or how the worker ended.
        """
        worker = self._idle()
        assert worker is not None
        worker.connection.send(function)
        try:
            result: Result = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.process.join()
            return _exit_text(worker.process.exitcode)
        return result

    def close(self) -> None:
        """End the workers, in the middle of a job if they have one."""
        for worker in self._workers:
            with suppress(OSError):
                worker.connection.send(None)
            if worker.job is not None:
                worker.process.kill()  # it was asked before; its run resumes from the last epoch
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def _is_busy(self) -> bool:
        return any(worker.job is not None for worker in self._workers)

    def _idle(self) -> _Worker | None:
        """A worker without a job, started if fewer than allowed are running."""
        self._workers = [w for w in self._workers if w.job is not None or w.process.is_alive()]
        for worker in self._workers:
            if worker.job is None:
                return worker
        if len(self._workers) >= self.at_once:
            return None
        assert "torch" not in sys.modules, "torch must not be imported before workers are forked"
        context = multiprocessing.get_context("fork")
        parent_end, child_end = context.Pipe()
        process = context.Process(
            target=_work, args=(child_end, self.task, self._threads, os.getpid())
        )
        process.start()
        child_end.close()
        self._workers.append(_Worker(process, parent_end))
        return self._workers[-1]

    def _ready(self) -> list[_Worker]:
        """Workers with a message, or that ended; waits a moment for the first."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        return [busy[connection] for connection in wait(busy, timeout=0.5)]  # type: ignore[index]

    def _outcome(self, worker: _Worker) -> JobResult:
        """Message of a worker; of an ended one, how it ended."""
        worker.job = None
        try:
            outcome: JobResult = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.process.join()
            return JobResult(error=_exit_text(worker.process.exitcode))
        return outcome

    def _interrupt(self) -> None:
        """Let every worker stop after its batch, and end those that do not."""
        busy = [worker.process for worker in self._workers if worker.job is not None]
        for _ in range(ATTEMPTS):
            for process in busy:
                if process.is_alive() and process.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
            deadline = time.monotonic() + GRACE_S
            for process in busy:
                process.join(max(0.0, deadline - time.monotonic()))


def _work(
    connection: Connection, task: Callable[[Any], JobResult], threads: int, parent: int
) -> None:
    """Work on one job after another, or call a function, until it receives None."""
    with suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which passes it on once
    # read when torch is imported, in a moment
    os.environ |= dict.fromkeys(system.THREADS, str(threads))
    console.mute()
    system.end_at_signals(silent=True)
    threading.Thread(target=system.end_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt, system.StopRequested):
        while (job := connection.recv()) is not None:
            connection.send(job() if isinstance(job, partial) else task(job))


def _exit_text(code: int | None) -> str:
    """Say how a process ended.

    >>> _exit_text(-9)[:59]
    'its process was killed by signal SIGKILL, perhaps for want '
    """
    if code is not None and code < 0:
        return _resumable(f"its process {system.killed_by(code)}")
    return _resumable(f"its process ended with exit code {code}")


def _resumable(what: str) -> str:
    return f"{what}. The same command resumes from its last finished epoch."


def interrupted(done: int, total: int, remark: str = "") -> Interrupted:
    """The error of a sweep that is stopped.

    Args:
        done: Jobs that have ended.
        total: All of them.
        remark: What became of the others.
    """
    return system.interruption(
        f"Interrupted after {done} of {total} jobs{remark}. The same command resumes from there."
    )


class SerialLauncher(HydraLauncher):
    """Skips what is finished, and runs the other jobs one after another in this process."""

    at_once = 1  # jobs that run at the same time
    run_alone: Measure | None = None  # see `measure_latencies`

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what composes and runs the jobs."""
        self.jobs = Jobs(hydra_context, task_function, config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs; a failing one stops none of the others.

        Raises:
            SettingError: If `srun` started this command several times.
        """
        process_count = ranks.started_together()
        if process_count > 1:
            raise SettingError(
                f"srun started {process_count} processes, and each would run the whole sweep: "
                "start it in one (srun --ntasks=1), which starts those that trainer.devices names "
                "itself."
            )
        setup_globals()
        outcomes: dict[int, JobResult] = {}
        started = time.perf_counter()
        for number, overrides in enumerate(job_overrides):
            skipped = self.jobs.skipped(overrides, initial_job_idx + number)
            if skipped is not None:
                outcomes[number] = skipped
        if outcomes:
            log.info(
                "%d of %d jobs are finished already (looked up in %.1f s)",
                len(outcomes), len(job_overrides), time.perf_counter() - started,
            )  # fmt: skip
        remaining = {
            number: (overrides, initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
            if number not in outcomes
        }
        names = {number: display_text(job[0], job_overrides) for number, job in remaining.items()}
        outcomes |= self.run(remaining, names)
        return [
            outcomes[number].as_hydra_has_it(overrides)
            for number, overrides in enumerate(job_overrides)
        ]

    def run(
        self, jobs: Mapping[int, tuple[Sequence[str], int]], names: Mapping[int, str]
    ) -> dict[int, JobResult]:
        """Run jobs that are not finished.

        Args:
            jobs: Overrides and number in the sweep of each.
            names: What to call each.

        Returns:
            The outcome of each.
        """
        return {number: self.jobs.run(*job) for number, job in jobs.items()}

    def lost(self, job: tuple[Sequence[str], int], what: str) -> JobResult:
        """How a job ended that has left no result.

        Args:
            job: Its overrides, and its number in the sweep.
            what: What is known of its end.
        """
        result = self.jobs.skipped(*job)  # it was killed after it had written its metrics
        return result or JobResult(error=_resumable(what))

    def close(self) -> None:
        """End what runs jobs, once there are no more."""


class LocalLauncher(SerialLauncher):
    """Skips what is finished, and runs the other jobs side by side on this machine.

    Args:
        jobs: How many at once, or `auto`, see `worker_count`; fewer if each has several processes.
    """

    def __init__(self, jobs: int | str = "auto") -> None:
        self.requested = jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the pool of workers, none of which is started yet.

        Raises:
            SettingError: If `hydra.launcher.jobs` is no number, or processes cannot be forked here.
        """
        if "fork" not in multiprocessing.get_all_start_methods():
            raise SettingError(
                "hydra/launcher=local forks processes, which this system cannot: leave it out, and "
                "the jobs run one after another."
            )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        processes = ranks.process_count(config.trainer) if self.requested == "auto" else 1
        self.at_once = max(1, worker_count(self.requested) // processes)
        self.workers = WorkerPool(lambda job: self.jobs.run(*job), self.at_once)
        self.run_alone = self.workers.call

    def run(
        self, jobs: Mapping[int, tuple[Sequence[str], int]], names: Mapping[int, str]
    ) -> dict[int, JobResult]:
        """Run jobs in the workers, as many at once as there are."""
        return self.workers.run(jobs, names)

    def close(self) -> None:
        """End the workers."""
        self.workers.close()
