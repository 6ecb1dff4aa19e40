"""Launcher of sweep jobs as tasks of a Ray cluster."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from signlang import console, system
from signlang.console import log
from signlang.errors import SettingError, first_line
from signlang.sweeps.jobs import JobResult, RemoteJob
from signlang.sweeps.launcher import GRACE_S, SerialLauncher, SweepProgress, interrupted

BETWEEN_LOOKS: Final = 0.5  # seconds


@dataclass
class RayJob:
    """A job of a sweep as a worker of Ray runs it.

    Attributes:
        job: What is to be done.
        folder: In which the command was typed; all nodes must see it.
        path: Where Python searches for modules there.
    """

    job: RemoteJob
    folder: str
    path: list[str]

    def __call__(self) -> tuple[JobResult, float]:
        """Run the job.

        Returns:
            How it ended, and after how many seconds.
        """
        started = time.monotonic()
        console.start(verbose=False)  # which sets what the logs of runs contain
        console.mute()  # lines for a screen are for that of the sweep
        os.chdir(self.folder)
        sys.path += [entry for entry in self.path if entry not in sys.path]
        return self.job.run(), time.monotonic() - started


class RayLauncher(SerialLauncher):
    """Skips what is finished, and runs the other jobs on a Ray cluster.

    Args:
        address: `local` starts Ray here for the time of the sweep; `auto` or HOST:PORT join a
            cluster that is there.
        num_cpus: Processors of a job, and its threads.
        num_gpus: GPUs of a job; also a share of one.
        max_retries: How often a job is run again whose process or node was lost.
        init: Further arguments of `ray.init`.
    """

    def __init__(
        self,
        address: str,
        num_cpus: int,
        num_gpus: float,
        max_retries: int,
        init: Mapping[str, Any] | None = None,
    ) -> None:
        self.address, self.init = address, dict(init or {})
        self.options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": max_retries}
        self.threads = max(1, int(num_cpus))

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Join the cluster; one of this machine is started when there is work.

        Raises:
            SettingError: If Ray is not installed, or no cluster is there.
        """
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if find_spec("ray") is None:
            raise SettingError('hydra/launcher=ray needs Ray: pip install "signlang[cluster]".')
        if self.address == "local":
            self.at_once = max(1, system.cpu_count() // self.threads)
        else:
            self._connect()

    def run(
        self, jobs: Mapping[int, tuple[Sequence[str], int]], names: Mapping[int, str]
    ) -> dict[int, JobResult]:
        """Run jobs that are not finished, as many at once as the cluster has processors for.

        Raises:
            SettingError: If there is no cluster at the address, or Ray knows no such setting.
            Interrupted: Once the jobs have left their runs in order.
        """
        if not jobs:
            return {}
        self._connect()
        import ray

        outcomes: dict[int, JobResult] = {}
        progress = SweepProgress(len(jobs), min(self.at_once, len(jobs)))
        work = ray.remote(**self.options)(_run)
        with system.stopping_between_batches(), progress:
            pending = {
                work.remote(
                    RayJob(self.jobs.remote(*job, self.threads), str(Path.cwd()), sys.path)
                ): number
                for number, job in jobs.items()
            }
            try:
                while pending:
                    for reference in ray.wait([*pending], timeout=BETWEEN_LOOKS)[0]:
                        number = pending.pop(reference)
                        outcomes[number], seconds = self._outcome(reference, jobs[number])
                        progress.count(names[number], outcomes[number], seconds)
                    system.check_stop()
            except (KeyboardInterrupt, system.StopRequested):
                for reference in pending:
                    ray.cancel(reference)
                ray.wait([*pending], num_returns=len(pending), timeout=GRACE_S)
                raise interrupted(len(outcomes), len(jobs)) from None
        return outcomes

    def close(self) -> None:
        """Leave the cluster; one that was started for the sweep ends."""
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()

    def _connect(self) -> None:
        """Join the cluster, or start one.

        Raises:
            SettingError: If that fails.
        """
        # it reports the use of a cluster that it starts to its makers otherwise
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if ray.is_initialized():
            return
        options = {"logging_level": "ERROR", "log_to_driver": False, **self.init}
        if self.address == "local":
            options = {"num_cpus": system.cpu_count(), "include_dashboard": False, **options}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(self.address, **options)
        except (ConnectionError, ValueError, TypeError, RuntimeError) as error:
            raise SettingError(
                f"hydra.launcher.address={self.address}: {first_line(error)}"
            ) from None
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own
        resources = ray.cluster_resources()
        self.at_once = max(1, int(resources.get("CPU", 1) // self.threads))
        log.info("Ray: %d jobs at once on %d processors", self.at_once, resources.get("CPU", 0))

    def _outcome(self, reference: Any, job: tuple[Sequence[str], int]) -> tuple[JobResult, float]:
        """How a job ended, and after how many seconds."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            outcome: tuple[JobResult, float] = ray.get(reference)
        except RayTaskError as error:  # the cause is of a type that is not known before
            lines = [line for line in str(error).splitlines() if line.strip()]
            return JobResult(error=lines[-1].strip()), 0.0
        except RayError as error:
            return self.lost(job, f"its process was lost ({type(error).__name__})"), 0.0
        return outcome


def _run(job: RayJob) -> tuple[JobResult, float]:
    return job()
