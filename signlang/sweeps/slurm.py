"""Launcher of sweep jobs as an array of jobs of SLURM, by submitit, and what such a job does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from signlang import system
from signlang.console import log
from signlang.errors import SettingError, first_line
from signlang.files import write_json
from signlang.sweeps.jobs import JobResult, RemoteJob
from signlang.sweeps.launcher import GRACE_S, SerialLauncher, SweepProgress, interrupted

if TYPE_CHECKING:  # the extra `cluster`
    import submitit

CLUSTERS: Final = ("slurm", "local")
# parameters that submitit calls so for every kind of cluster; all others are those of sbatch
COMMON: Final = {
    "name", "timeout_min", "mem_gb", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node",
    "stderr_to_stdout",
}  # fmt: skip
LARGEST_ARRAY: Final = 1000  # jobs; SLURM's own default is that indices stay below 1001
JOBS: Final = "_jobs.json"  # end of the name of the file with the overrides of each job of an array
BETWEEN_LOOKS: Final = 1.0  # seconds from one look for results to the next
BETWEEN_CALLS: Final = 30  # seconds from one call of sacct to the next, at most
LATE: Final = 15.0  # seconds in which the file of a result must show on a shared file system


@dataclass
class SlurmJob:
    """A job of a sweep as a process of a node runs it; submitit pickles it.

    Each task of the job runs it; what several tasks share, Lightning finds out by itself.

    Attributes:
        job: What is to be done.
        limits: What is allowed, for the error of a job that was stopped too often.
    """

    job: RemoteJob
    limits: str

    def __call__(self) -> tuple[JobResult, float]:
        """Run the job.

        Returns:
            How it ended, and after how many seconds. A job that SLURM stops returns nothing.
        """
        started = time.monotonic()
        with _requeueing() as requeue:
            try:
                result = self.job.run()
            except (KeyboardInterrupt, system.StopRequested):
                if not requeue.refused:
                    requeue.leave()
                result = JobResult(error=f"it was stopped by its time limit ({self.limits}).")
        return result, time.monotonic() - started

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """What is to be run when the job is requeued: the same; its checkpoints are on the disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class _Requeue:
    """Requeues the job of this process when SLURM announces its end.

    submitit's own handler leaves the process by an exception in the middle of whatever it does.
    Here the job is requeued first; the SIGTERM that follows stops the run between two batches.

    Attributes:
        original: submitit's handler of that signal.
        code: Exit code, once the job is requeued.
        refused: Whether it has been requeued as often as allowed.
    """

    original: Any
    code: Any = None
    refused: bool = False

    def __call__(self, number: int, frame: Any) -> None:
        """Handle the signal."""
        from submitit.core.utils import UncompletedJobError

        try:
            self.original(number, frame)
        except SystemExit as error:
            self.code = error.code
            if os.environ["SUBMITIT_EXECUTOR"] == "local":  # nobody sends SIGTERM
                raise
        except UncompletedJobError:
            self.refused = True
            signal.raise_signal(signal.SIGTERM)

    def at_end(self) -> None:
        """Requeue a job that is preempted, once SIGTERM has arrived.

        It gets some time from then on, but has to requeue itself: SLURM takes a job that ends in
        that time for one that failed.
        """
        job = os.environ.get("SLURM_JOB_ID")
        if self.code is None and not self.refused and job and _squeue(job, "%T") == "RUNNING":
            self(_preemption_signal(), None)

    def leave(self) -> None:
        """End this process, without a result."""
        self.at_end()
        sys.exit(143 if self.code is None else self.code)


@contextmanager
def _requeueing() -> Iterator[_Requeue]:
    """Requeue the job when its time limit comes near, as long as the block runs."""
    number = _preemption_signal()
    requeue = _Requeue(signal.getsignal(number))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it
    system.end_at_signals(before_end=requeue.at_end)
    signal.signal(number, requeue)
    try:
        yield requeue
    finally:
        signal.signal(number, signal.SIG_IGN)  # the result is written next


def _preemption_signal() -> signal.Signals:
    from submitit.core.job_environment import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


def _squeue(jobs: str, field: str) -> str:
    """What SLURM says of jobs that wait, run or end: `%i` their numbers, `%T` their states.

    Args:
        jobs: Their numbers, or those of arrays, with commas; all of this user if empty.
        field: Of each, a line.
    """
    command = ["squeue", "-h", "-r", *(["-j", jobs] if jobs else ["--me"]), "-o", field]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


class SlurmLauncher(SerialLauncher):
    """Skips what is finished, submits the other jobs as an array, and waits for them.

    Args:
        cluster: `slurm`; or `local` for processes of this machine, all at once.
        folder: For scripts, pickles and logs of the jobs; all nodes must see it.
        max_num_timeout: How often a job is requeued at its time limit.
        parameters: All others, by submitit's names, see `submitit.SlurmExecutor`.
    """

    def __init__(self, cluster: str, folder: str, max_num_timeout: int, **parameters: Any) -> None:
        self.cluster, self.folder, self.max_num_timeout = cluster, folder, max_num_timeout
        self.parameters: dict[str, Any] = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in parameters.items()
            if value is not None
        }
        self.at_once = int(self.parameters.get("array_parallelism", LARGEST_ARRAY))

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare the submission; nothing is submitted yet.

        Raises:
            SettingError: If submitit or SLURM is not there, or a setting is none of theirs.
        """
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if find_spec("submitit") is None:
            raise SettingError(
                'hydra/launcher=slurm needs submitit: pip install "signlang[cluster]".'
            )
        if self.cluster not in CLUSTERS:
            raise SettingError(f"hydra.launcher.cluster={self.cluster}: it must be slurm or local.")
        missing = [name for name in ("sbatch", "srun", "sacct") if shutil.which(name) is None]
        if self.cluster == "slurm" and missing:
            raise SettingError(
                f"hydra/launcher=slurm needs SLURM, and there is no {missing[0]} here: type the "
                "command on a machine from which jobs are submitted."
            )
        if self.cluster == "slurm" and subprocess.run(["sacct"], capture_output=True).returncode:
            log.warning(
                "SLURM keeps no accounts here (sacct): a job that is killed will not be noticed. "
                "Stop this command then, and repeat it."
            )
        self.executor = self.build_executor()

    def build_executor(self) -> "submitit.AutoExecutor":
        """What submits jobs.

        Raises:
            SettingError: If submitit or sbatch know no such parameter.
        """
        import submitit
        from submitit.slurm.slurm import SlurmInfoWatcher

        submitit.SlurmJob.watcher = SlurmInfoWatcher(BETWEEN_CALLS)
        limit = {f"{self.cluster}_max_num_timeout": self.max_num_timeout}
        parameters = {
            name if name in COMMON else f"slurm_{name}": value
            for name, value in self.parameters.items()
        }
        threads = self.parameters.get("cpus_per_task")
        if threads is not None:  # srun does not ask sbatch since SLURM 22.05
            arguments = [*self.parameters.get("srun_args", ()), f"--cpus-per-task={threads}"]
            parameters["slurm_srun_args"] = arguments
        executor = submitit.AutoExecutor(self.folder, self.cluster, **limit)
        try:
            executor.update_parameters(**parameters)
        except (NameError, ValueError, TypeError, AssertionError) as error:
            raise SettingError(f"hydra.launcher: {first_line(error)}") from None
        return executor

    def run(
        self, jobs: Mapping[int, tuple[Sequence[str], int]], names: Mapping[int, str]
    ) -> dict[int, JobResult]:
        """Submit jobs that are not finished, and wait for all of them.

        Those that an earlier command has submitted, which ended before them, are not submitted
        again.

        Raises:
            SettingError: If sbatch refuses them.
            Interrupted: Once they are cancelled.
        """
        from signlang.data.image_io import batched  # brings numpy, which --help does not need

        outcomes: dict[int, JobResult] = {}
        progress = SweepProgress(len(jobs), min(self.at_once, len(jobs)))
        # a result is unpickled: none may be there already, from whoever created the folder
        for file in Path(self.folder).glob("*_result.pkl"):
            file.unlink(missing_ok=True)
        earlier = self._submitted_before(jobs) if self.cluster == "slurm" else {}
        new = [number for number in jobs if number not in earlier]
        with system.stopping_between_batches(), progress:
            for numbers in batched(new, LARGEST_ARRAY) if new else [[]]:
                submitted = {**earlier, **self._submit({n: jobs[n] for n in numbers})}
                earlier = {}
                try:
                    self._wait(submitted, jobs, names, progress, outcomes)
                except (KeyboardInterrupt, system.StopRequested):
                    self._cancel(submitted)
                    raise interrupted(
                        len(outcomes), len(jobs), "; the others are cancelled"
                    ) from None
        return outcomes

    def _submitted_before(
        self, jobs: Mapping[int, tuple[Sequence[str], int]]
    ) -> dict[int, "_Submitted"]:
        """Jobs of an earlier command that still wait or run."""
        import submitit

        active = set(_squeue("", "%i").split())
        job_id_of = {
            tuple(overrides): job_id
            for file in Path(self.folder).glob(f"*{JOBS}")
            for job_id, overrides in json.loads(file.read_text("utf-8")).items()
            if job_id in active
        }
        earlier = {
            number: job_id_of[key]
            for number, job in jobs.items()
            if (key := tuple(job[0])) in job_id_of
        }
        if earlier:
            log.info(
                "%d jobs of an earlier command are still there: waiting for them", len(earlier)
            )
        return {
            number: _Submitted(submitit.SlurmJob(self.executor.folder, job_id), is_own=False)
            for number, job_id in earlier.items()
        }

    def _submit(self, jobs: Mapping[int, tuple[Sequence[str], int]]) -> dict[int, "_Submitted"]:
        """Submit jobs as one array.

        Raises:
            SettingError: If sbatch refuses them.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        limits = (
            f"hydra.launcher.timeout_min={self.parameters.get('timeout_min')}, "
            f"hydra.launcher.max_num_timeout={self.max_num_timeout}"
        )
        if not jobs:
            return {}
        threads = int(self.parameters.get("cpus_per_task", system.cpu_count()))
        submitted = {}
        try:
            with self.executor.batch():
                for number, job in jobs.items():
                    work = SlurmJob(self.jobs.remote(*job, threads), limits)
                    submitted[number] = _Submitted(self.executor.submit(work))
        except (FailedJobError, FailedSubmissionError) as error:
            raise SettingError(f"SLURM accepts no such jobs: {_last_line(error)}") from None
        array = next(iter(submitted.values())).job.job_id.partition("_")[0]
        if self.cluster == "slurm":
            overrides = {one.job.job_id: list(jobs[number][0]) for number, one in submitted.items()}
            write_json(Path(self.folder) / f"{array}{JOBS}", overrides)
            log.info("%d jobs submitted to SLURM: squeue -j %s; their logs are in %s",
                     len(jobs), array, self.folder)  # fmt: skip
        return submitted

    def _wait(
        self,
        submitted: Mapping[int, "_Submitted"],
        jobs: Mapping[int, tuple[Sequence[str], int]],
        names: Mapping[int, str],
        progress: SweepProgress,
        outcomes: dict[int, JobResult],
    ) -> None:
        """Wait for jobs, report each that ends, and put how it ended into `outcomes`."""
        remaining = dict(submitted)
        while remaining:
            for number, one in list(remaining.items()):
                if not one.is_done():
                    continue
                if one.is_own and one.result_file.exists():
                    outcomes[number], seconds = one.result()
                else:
                    outcomes[number], seconds = self.lost(jobs[number], one.end), one.seconds()
                progress.count(names[number], outcomes[number], seconds)
                remaining.pop(number).remove_pickles()
            progress.refresh([one.started for one in remaining.values() if one.started is not None])
            system.check_stop()
            time.sleep(BETWEEN_LOOKS * max(1.0, len(remaining) / 100))  # each look asks for a file

    def _cancel(self, submitted: Mapping[int, "_Submitted"]) -> None:
        """Cancel jobs, and let those that run leave their folders in order."""
        pending = [one.job for one in submitted.values() if not one.result_file.exists()]
        if not pending:  # scancel and squeue without jobs mean others
            return
        arrays = ",".join({job.job_id.partition("_")[0] for job in pending})
        if self.cluster == "slurm":
            subprocess.run(["scancel", *arrays.split(",")], capture_output=True)
        else:
            for job in pending:
                job.cancel(check=False)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and (
            _squeue(arrays, "%i") if self.cluster == "slurm" else not all(j.done() for j in pending)
        ):
            time.sleep(BETWEEN_LOOKS)


@dataclass
class _Submitted:
    """A job that was submitted.

    Attributes:
        job: submitit's.
        started: When it was first seen to run.
        ended: When it was first seen to have ended without a result.
        is_own: Whether this command has submitted it; what another one says of its jobs is not
            unpickled, its run folders tell as much.
    """

    job: "submitit.Job[tuple[JobResult, float]]"
    started: float | None = None
    ended: float | None = None
    is_own: bool = True
    submitted: float = field(default_factory=time.monotonic)

    @property
    def result_file(self) -> Path:
        """What the job writes at its end; of several tasks the first has the result."""
        return self.job.task(0).paths.result_pickle

    def result(self) -> tuple[JobResult, float]:
        """How the job ended, and after how many seconds, once its file is there."""
        from submitit.core.utils import UncompletedJobError

        try:
            return self.job.task(0).result()
        except UncompletedJobError as error:
            return JobResult(error=f"{_last_line(error)}, see {self.log_file}"), self.seconds()

    @property
    def log_file(self) -> str:
        """What the job wrote about its errors."""
        return os.path.relpath(self.job.task(0).paths.stderr)

    @property
    def end(self) -> str:
        """How it ended without a result, as SLURM's accounting has it."""
        return f"its job {self.job.job_id} ended as {self.job.state}, see {self.log_file}"

    def is_done(self) -> bool:
        """Whether there is a result, or the job has ended some time ago and none came."""
        if self.started is None and self.job.state == "RUNNING":
            self.started = time.monotonic()
        if not self.job.done():
            self.ended = None  # a job that is requeued may look as if it had ended
            return False
        if self.result_file.exists():
            return True
        self.ended = self.ended or time.monotonic()
        return time.monotonic() - self.ended >= LATE

    def seconds(self) -> float:
        """Seconds since it was first seen to run."""
        return time.monotonic() - (self.started or self.submitted)

    def remove_pickles(self) -> None:
        """Remove what was for this process and the job only; its logs stay."""
        for file in (self.result_file, self.job.paths.submitted_pickle):
            file.unlink(missing_ok=True)


def _last_line(error: BaseException) -> str:
    """The line of submitit's message that names the cause."""
    lines = [line.strip() for line in str(error).splitlines()]
    rules = [number for number, line in enumerate(lines) if line and not line.strip("-")]
    if len(rules) > 1:  # a trace between two rules
        lines = lines[: rules[1]]
    return next((line for line in reversed(lines) if line), type(error).__name__)
