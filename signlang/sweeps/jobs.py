"""Jobs of a multirun, their results, and the time per image of their networks."""

import copy
import gc
import inspect
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from signlang import console, hydra_app, system
from signlang.components import TARGET, configured_nodes
from signlang.console import log
from signlang.errors import SignlangError
from signlang.system import cpu_name

if TYPE_CHECKING:  # it imports numpy
    from signlang.runs.folder import RunFolder


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        accuracy: On the validation subset; None if the job failed.
        error: Why it failed.
        remarks: Warnings about its setting; a worker has no screen for its log.
    """

    accuracy: float | None = None
    error: str = ""
    remarks: tuple[str, ...] = ()

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
        setting = tuple(word for word in overrides if word not in folds)
        fold = folds[-1].partition("=")[2] if folds else ""
        if not fold.isdigit():
            setting, fold = tuple(overrides), ""
        if setting not in self._composed:
            loader = self.context.config_loader
            self._composed[setting] = loader.load_sweep_config(self.config, list(setting))
        composed = copy.deepcopy(self._composed[setting])
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
        metrics = lifecycle.metrics_of_trained_run(composed, overrides)
        return None if metrics is None else JobResult(float(metrics["validation"]["accuracy"]))

    def run(self, overrides: Sequence[str], number: int) -> JobResult:
        """Run a job in this process."""
        return run_configuration(self.context, self.task, self.configuration(overrides, number))

    def remote(self, overrides: Sequence[str], number: int, threads: int) -> "RemoteJob":
        """A job for a process on another machine."""
        task = _dotted_name(inspect.unwrap(self.task))
        return RemoteJob(self.context, task, self.configuration(overrides, number), threads)


@dataclass
class RemoteJob:
    """A job that is pickled, for a process on another machine.

    Attributes:
        context: Hydra's.
        task: The dotted name of what the job does.
        configuration: Its configuration, as it was when the job was submitted.
        threads: Of the processor.
    """

    context: HydraContext
    task: str
    configuration: DictConfig
    threads: int

    def run(self) -> JobResult:
        """Run the job, which resumes from its last checkpoint if there is one."""
        # read when torch is imported, in a moment
        os.environ |= dict.fromkeys(system.THREADS, str(min(self.threads, system.cpu_count())))
        setup_globals()
        return run_configuration(self.context, hydra_app.sweep_task(self.task), self.configuration)


def _dotted_name(task: TaskFunction) -> str:
    """The name of a task in the module that it lies in, which is `__main__` here but not there."""
    module = task.__module__
    if module == "__main__" and (spec := sys.modules[module].__spec__):
        module = spec.name
    return f"{module}.{task.__qualname__}"


def run_configuration(context: HydraContext, task: TaskFunction, config: DictConfig) -> JobResult:
    """Run the job of a configuration in this process, and leave no network of it in memory."""
    with console.remarks() as remarks:
        returned = run_job(
            hydra_context=context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    gc.collect()  # trainer, callbacks and module know one another: only this frees them
    value: Any = returned._return_value  # the property writes to the screen and raises
    if returned.status == JobStatus.COMPLETED:
        return JobResult(float(value), remarks=tuple(remarks))
    error = str(value) if isinstance(value, SignlangError) else repr(value)
    return JobResult(error=error, remarks=tuple(remarks))


Measure = Callable[["partial[dict[str, Any] | str]"], "dict[str, Any] | str"]


def measure_latencies(
    jobs: Jobs, launched: Iterable[Sequence[str]], run_alone: Measure | None = None
) -> None:
    """Measure the time per image again that jobs took while others ran beside them.

    Each network is measured once, and all of its runs get the result. Runs of other machines are
    left as they are.

    Args:
        jobs: What composes their configurations.
        launched: Overrides of each.
        run_alone: Calls a function in a process beside which none works; None: in a new one.
    """
    networks = _networks_to_measure(jobs, launched)
    if not networks:
        return
    log.info("measuring the time per image again, one network at a time")
    for nodes, folders in networks:
        measured = (run_alone or _run_in_new_process)(partial(_latency, folders[0].path, nodes))
        if isinstance(measured, str):
            log.warning("%s: its time per image stays as it is: %s", folders[0].path, measured)
            continue
        for folder in folders:
            _write_latency(folder, measured)


def _run_in_new_process(function: "partial[dict[str, Any] | str]") -> dict[str, Any] | str:
    # a process that has not imported torch; forking one that has is not safe
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_ignore_interrupts) as pool:
        try:
            return pool.submit(function).result()
        except BrokenProcessPool as error:
            return str(error)


def _networks_to_measure(
    jobs: Jobs, launched: Iterable[Sequence[str]]
) -> list[tuple[dict[str, Any], list["RunFolder"]]]:
    """Each network, as its configuration names it, with the runs that need its time."""
    from signlang.runs import lifecycle, results  # bring numpy, which --help does not need

    networks: dict[str, tuple[dict[str, Any], list[RunFolder]]] = {}
    for number, overrides in enumerate(launched):
        cfg = jobs.configuration(overrides, number)
        try:
            run = results.read_run(lifecycle.run_folder(cfg, overrides).path)
        except SignlangError:  # the comparison reports what is damaged
            continue
        if run is None or run.latency_alone is not False:
            continue
        if cpu_name() in str(run.record.get("device")):
            nodes, classes = configured_nodes(cfg), run.record["data"]["classes"]
            key = json.dumps([nodes[TARGET], nodes["network"], cfg.image_size, classes])
            networks.setdefault(key, (nodes, []))[1].append(run.folder)
    return list(networks.values())


def _latency(run: Path, nodes: dict[str, Any]) -> dict[str, Any] | str:
    """The time per image of a run's network, or why it cannot be measured."""
    from signlang.callbacks.cost import latency
    from signlang.runs.trained_run import load_trained_run

    try:
        trained = load_trained_run(run, nodes=nodes)
        return latency(trained.classifier, trained.image_size)
    except Exception as error:  # a network of the user's own may raise anything
        return str(error)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which waits for a measurement of seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    console.mute()


def _write_latency(folder: "RunFolder", measured: Mapping[str, Any]) -> None:
    with folder.locked():
        metrics = folder.metrics()
        assert metrics is not None
        metrics["cost"] |= {**measured, "latency_alone": True}
        folder.finish(metrics)


def display_text(overrides: Sequence[str], all_of_them: Sequence[Sequence[str]]) -> str:
    """Name a job by the overrides in which the jobs of a sweep differ.

    >>> display_text(["a=1", "b=2"], [["a=1", "b=2"], ["a=1", "b=3"]])
    'b=2'
    """
    common = set(overrides).intersection(*map(set, all_of_them)) if len(all_of_them) > 1 else set()
    return " ".join(word for word in overrides if word not in common)
