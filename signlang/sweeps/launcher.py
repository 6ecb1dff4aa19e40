"""Jobs of a sweep come in, their outcomes go out: one after another, or side by side."""

import time
from collections.abc import Sequence

from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from signlang.console import log
from signlang.errors import SettingError, suggestion
from signlang.sweeps.jobs import Jobs, Outcome, plain, shown
from signlang.sweeps.workers import Workers, carried

KINDS = ("serial", "local")


class Launcher(HydraLauncher):
    """Skips what is finished, and runs the rest as the group `launcher` says."""

    jobs: Jobs
    at_once: int
    workers: Workers | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Learn what a job is, and how many the machine carries.

        Raises:
            SettingError: If `launcher` is unknown, or `launcher.jobs` is no number.
        """
        self.jobs = Jobs(hydra_context, task_function, config)
        options = plain(config, "launcher")
        kind = options.get("name")
        if kind not in KINDS:
            raise SettingError(f"launcher={kind}: {suggestion(str(kind), KINDS)}")
        self.at_once = 1
        if kind == "local":
            self.at_once = carried(options["jobs"])
            self.workers = Workers(lambda job: self.jobs.run(*job), self.at_once)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs; a failing one stops none of the others."""
        setup_globals()
        outcomes: dict[int, Outcome] = {}
        begun = time.perf_counter()
        for number, overrides in enumerate(job_overrides):
            skipped = self.jobs.skipped(overrides, initial_job_idx + number)
            if skipped is not None:
                outcomes[number] = skipped
        if outcomes:
            log.info(
                "%d of %d jobs are finished already (looked up in %.1f s)",
                len(outcomes), len(job_overrides), time.perf_counter() - begun,
            )  # fmt: skip
        left = {
            number: (overrides, initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
            if number not in outcomes
        }
        if self.workers is None:
            outcomes |= {number: self.jobs.run(*job) for number, job in left.items()}
        else:
            names = {number: shown(job[0], job_overrides) for number, job in left.items()}
            outcomes |= self.workers.run(left, names)
        return [
            outcomes[number].as_hydra_has_it(overrides)
            for number, overrides in enumerate(job_overrides)
        ]

    def close(self) -> None:
        """End the workers, if there are any."""
        if self.workers is not None:
            self.workers.close()
