"""The Hydra sweepers of signlang, grid and search, and the registration of all its plugins."""

import importlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from signlang import console
from signlang.console import log
from signlang.errors import SettingError, SignlangError, SweepError
from signlang.sweeps.jobs import Jobs, measure_latencies
from signlang.sweeps.launcher import LocalLauncher, SerialLauncher


class GridSweeper(HydraSweeper):
    """Launches every combination of the values that are swept over, then compares the study.

    Args:
        params: Values to sweep by name, as on the command line, which has the last word.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}
        self.studies: set[Path] = set()
        self.launched: list[Sequence[str]] = []

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher."""
        console.start(config.verbose is not False)
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.jobs = (
            self.launcher.jobs
            if isinstance(self.launcher, SerialLauncher)
            else Jobs(hydra_context, task_function, config)
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep and compare the study, whether or not jobs failed.

        Raises:
            SweepError: If jobs failed.
        """
        assert self.config is not None
        overrides = self._parsed(arguments)
        try:
            returned = self.run(overrides)
        finally:
            if isinstance(self.launcher, SerialLauncher):
                self.launcher.close()
        measure_latencies(self.jobs, self.launched)
        self._compare()
        failed = sum(job.status == JobStatus.FAILED for job in returned)
        if failed:
            raise SweepError(
                f"{failed} of {len(returned)} jobs of the sweep failed, see above. Repeat the "
                "command to run them again."
            )
        return [returned]

    def run(self, overrides: dict[str, Override]) -> list[JobReturn]:
        """Run the jobs that the overrides ask for."""
        return list(self.launch(combinations(overrides)))

    def launch(self, jobs: Sequence[Sequence[str]], first: int = 0) -> Sequence[JobReturn]:
        """Compose one fold of each setting, so that mistakes show at once, then run all jobs."""
        from signlang.runs import lifecycle  # brings numpy, which --help does not need

        assert self.launcher is not None
        unlike = {tuple(w for w in job if not w.startswith("fold=")): job for job in jobs}
        for job in unlike.values():
            configuration = self.jobs.configuration(job, first)
            self.studies.add(lifecycle.run_folder(configuration, job).path.parent.parent)
        self.launched += jobs
        return self.launcher.launch(jobs, initial_job_idx=first)

    def _parsed(self, arguments: Sequence[str]) -> dict[str, Override]:
        """The overrides by their keys; a later one replaces an earlier one."""
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)  # type: ignore[union-attr]
        return {override.get_key_element(): override for override in parser.parse_overrides(words)}

    def _compare(self) -> None:
        """Make the tables and figures of the studies from what there is."""
        from signlang.studies import comparison

        for study in sorted(self.studies):
            try:
                comparison.compare_study(study, allow_incomplete=True)
            except SignlangError as error:
                log.warning("%s was not compared: %s", study, error)


class OptunaSweeper(GridSweeper):
    """Searches among the values that are swept over, then compares the study.

    Args:
        params: As of `GridSweeper`; also intervals.
        trials: How many in all, with those of earlier calls.
        storage: Where Optuna keeps them, a URL of SQLAlchemy.
        sampler: The node of an Optuna sampler.
        pruner: The node of an Optuna pruner.
    """

    def __init__(
        self,
        trials: int,
        storage: str,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        params: dict[str, str] | None = None,
    ) -> None:
        super().__init__(params)
        self.trials, self.storage = trials, storage
        self.sampler, self.pruner = sampler, pruner

    def run(self, overrides: dict[str, Override]) -> list[JobReturn]:
        """Run trials until there are as many as were asked for.

        Raises:
            SettingError: If Optuna is not installed, there is nothing to search, or the test folds
                would choose.
        """
        from signlang.sweeps import optuna_search

        assert self.config is not None
        assert self.launcher is not None
        given = overrides.get("split.validation")
        swept = given.sweep_string_iterator() if given and given.is_sweep_override() else ()
        if "fold" in (str(self.config.split.validation), *swept):
            raise SettingError(
                "split.validation=fold: a search would choose by the test folds. Leave a share for "
                "validation, e.g. split.validation=0.1."
            )
        folds = optuna_search.chosen_folds(overrides.get("fold"), self.config.folds)
        study = optuna_search.open_study(
            str(self.config.study), self.storage, self.sampler, self.pruner
        )
        return optuna_search.run_search(
            study,
            overrides,
            trials=self.trials,
            folds=folds,
            at_once=int(getattr(self.launcher, "at_once", len(folds))),
            launch=self.launch,
        )


def combinations(overrides: dict[str, Override]) -> list[list[str]]:
    """Every combination of swept values with the fixed ones, the last key varying fastest.

    Raises:
        HydraException: For an interval, which has no end of values.
    """
    lists = []
    for key, override in overrides.items():
        if override.is_discrete_sweep():
            lists.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        elif override.is_sweep_override():
            raise HydraException(
                f"{override.input_line}: an interval is for a search; say hydra/sweeper=optuna as "
                "well."
            )
        else:
            lists.append([f"{key}={override.get_value_element_as_str()}"])
    return [list(job) for job in itertools.product(*lists)]


ROOT: Final = "hydra_plugins"  # Hydra instantiates nothing from outside of this name space
HOME: Final = f"{ROOT}.signlang"


def register() -> None:
    """Give them a place in Hydra's name space for plugins, in this process only.

    A package there would do as well, but every start of every Hydra program on the machine would
    import it.
    """
    try:
        importlib.import_module(ROOT)
    except ModuleNotFoundError:  # no plugin is installed
        sys.modules[ROOT] = ModuleType(ROOT)
        sys.modules[ROOT].__path__ = []
    home = sys.modules[HOME] = ModuleType(HOME)
    for plugin in (SerialLauncher, LocalLauncher, GridSweeper, OptunaSweeper):
        plugin.__module__ = HOME
        setattr(home, plugin.__name__, plugin)
        Plugins.instance().register(plugin)
