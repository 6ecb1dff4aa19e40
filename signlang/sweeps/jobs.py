"""Jobs of a multirun and their results."""

import copy
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from signlang.errors import SignlangError


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        accuracy: On the validation subset; None if the job failed.
        error: Why it failed.
    """

    accuracy: float | None = None
    error: str = ""

    def as_hydra_has_it(self, overrides: Sequence[str]) -> JobReturn:
        """The same for Hydra's callbacks and sweepers."""
        if self.accuracy is None:
            return JobReturn(
                overrides=overrides,
                status=JobStatus.FAILED,
                _return_value=SignlangError(self.error),
            )
        return JobReturn(
            overrides=overrides, status=JobStatus.COMPLETED, _return_value=self.accuracy
        )


@dataclass
class Jobs:
    """Composes and runs the jobs of a sweep.

    Attributes:
        context: Hydra's.
        task: What a job does.
        config: What the sweep was started with.
    """

    context: HydraContext
    task: TaskFunction
    config: DictConfig
    _composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def configuration(self, overrides: Sequence[str], number: int) -> DictConfig:
        """Compose the configuration of a job; folds of one setting share the work.

        Composing takes tens of milliseconds, which would make up most of a skipped job.
        """
        folds = [word for word in overrides if word.startswith("fold=")]
        rest = tuple(word for word in overrides if word not in folds)
        fold = folds[-1].partition("=")[2] if folds else ""
        if not fold.isdigit():
            rest, fold = tuple(overrides), ""
        if rest not in self._composed:
            loader = self.context.config_loader
            self._composed[rest] = loader.load_sweep_config(self.config, list(rest))
        composed = copy.deepcopy(self._composed[rest])
        with read_write(composed), open_dict(composed):
            if fold:
                composed.fold = int(fold)
            composed.hydra.overrides.task = list(overrides)
            composed.hydra.job.id = composed.hydra.job.num = number
        return composed

    def skipped(self, overrides: Sequence[str], number: int) -> JobResult | None:
        """The outcome of a job that is finished already; None if it is not."""
        from signlang.runs import lifecycle  # brings numpy, which --help does not need

        composed = self.configuration(overrides, number)
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        metrics = lifecycle.finished_metrics(composed, overrides)
        return None if metrics is None else JobResult(float(metrics["validation"]["accuracy"]))

    def run(self, overrides: Sequence[str], number: int) -> JobResult:
        """Run a job in this process, and leave no network of it in memory."""
        returned = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=self.configuration(overrides, number),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        gc.collect()  # trainer, callbacks and module know one another: only this frees them
        value: Any = returned._return_value  # the property writes to the screen and raises
        if returned.status == JobStatus.COMPLETED:
            return JobResult(float(value))
        return JobResult(error=str(value) if isinstance(value, SignlangError) else repr(value))


def display_text(overrides: Sequence[str], all_of_them: Sequence[Sequence[str]]) -> str:
    """Name a job by the overrides in which the jobs of a sweep differ.

    >>> display_text(["a=1", "b=2"], [["a=1", "b=2"], ["a=1", "b=3"]])
    'b=2'
    """
    common = set(overrides).intersection(*map(set, all_of_them)) if len(all_of_them) > 1 else set()
    return " ".join(word for word in overrides if word not in common)
