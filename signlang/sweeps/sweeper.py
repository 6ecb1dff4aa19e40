"""The Hydra sweepers of signlang, grid and search, and the registration of all its plugins."""

import importlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from signlang import console, system
from signlang.console import log
from signlang.errors import SettingError, SignlangError, SweepError
from signlang.files import expanded
from signlang.sweeps.jobs import Jobs, measure_latencies
from signlang.sweeps.launcher import LocalLauncher, SerialLauncher
from signlang.sweeps.ray import RayLauncher
from signlang.sweeps.slurm import SlurmLauncher

if TYPE_CHECKING:
    from signlang.runs.folder import Search
    from signlang.sweeps.optuna_search import SearchSpace, Trials


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
        self.arguments = arguments
        overrides = self._parsed(arguments)
        try:
            returned = self.run(overrides)
            system.restore_signals()
            run_alone = getattr(self.launcher, "run_alone", None)  # of a launcher of ours
            measure_latencies(self.jobs, self.launched, run_alone)
        finally:
            if isinstance(self.launcher, SerialLauncher):
                self.launcher.close()
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
        job_of_setting = {tuple(w for w in job if not w.startswith("fold=")): job for job in jobs}
        for job in job_of_setting.values():
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
        """Write the tables and charts of the studies from what there is."""
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
        nested: Whether each fold is searched by itself.
    """

    def __init__(
        self,
        trials: int,
        storage: str,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        params: dict[str, str] | None = None,
        nested: bool = False,
    ) -> None:
        super().__init__(params)
        self.trials, self.storage, self.nested = trials, storage, nested
        self.sampler, self.pruner = sampler, pruner

    def run(self, overrides: dict[str, Override]) -> list[JobReturn]:
        """Run trials until there are as many as were asked for.

        Raises:
            SettingError: If Optuna is not installed, there is nothing to search, or the test folds
                would choose.
        """
        from signlang.runs import folder, identity
        from signlang.sweeps import optuna_search

        assert self.config is not None
        assert self.launcher is not None
        if not isinstance(self.nested, bool):
            raise SettingError(f"hydra.sweeper.nested={self.nested}: it must be true or false.")
        if type(self.trials) is not int or self.trials < 1:
            raise SettingError(
                f"hydra.sweeper.trials={self.trials}: it must be a whole number of at least 1."
            )
        override = overrides.get("split.validation")
        swept = (
            override.sweep_string_iterator() if override and override.is_sweep_override() else ()
        )
        if "fold" in (str(self.config.split.validation), *swept):
            raise SettingError(
                "split.validation=fold: a search would choose by the test folds. Leave a share for "
                "validation, e.g. split.validation=0.1."
            )
        space = optuna_search.search_space(overrides)
        if self.nested:
            optuna_search.check_nested(overrides, space)
        folds = optuna_search.chosen_folds(overrides.get("fold"), self.config.folds)
        words = [*self.config.hydra.overrides.hydra, *self.arguments]
        model = "networks" if "model" in space.texts else str(self.config.model.name)
        name = identity.former_name(model, str(self.config.study), space.fixed)
        search = folder.Search(
            name=name,
            nested=self.nested,
            trials=self.trials,
            folds=folds,
            space=dict(space.texts),
            words=["-m", *(w for w in words if not w.startswith(("hydra.mode=", "fold=")))],
        )
        return (self._nested if self.nested else self._over_all_folds)(search, space)

    def _over_all_folds(self, search: "Search", space: "SearchSpace") -> list[JobReturn]:
        """Search for one setting of all folds, and say what its test accuracy is worth."""
        from signlang.sweeps import optuna_search

        assert self.config is not None
        shared = {"search": search.name, "folds": search.folds}
        trials = self._open(str(self.config.study), space, shared)
        try:
            returned = optuna_search.run_search(
                trials,
                wanted=self.trials,
                folds=search.folds,
                at_once=int(getattr(self.launcher, "at_once", len(search.folds))),
                launch=self.launch,
            )
        finally:
            self._record(search)
        log.warning("%s", search.caution)
        return returned

    def _nested(self, search: "Search", space: "SearchSpace") -> list[JobReturn]:
        """Search each fold by itself."""
        from signlang.runs import lifecycle
        from signlang.sweeps import optuna_search

        assert self.config is not None
        shared = {"search": search.name, "nested": True}
        searches = {
            fold: self._open(
                f"{self.config.study}: {search.name}, nested, fold {fold}", space, shared
            )
            for fold in search.folds
        }
        names: dict[tuple[str, ...], str] = {}  # composing takes tens of milliseconds

        def setting(words: Sequence[str]) -> str:
            key = tuple(words)
            if key not in names:
                folder = lifecycle.run_folder(self.jobs.configuration(words, 0), words)
                names[key] = folder.path.parent.name
            return names[key]

        def record() -> None:
            tried = optuna_search.nested_trials(searches, self.trials, setting)
            self._record(search.model_copy(update={"tried": tried}))

        returned = optuna_search.run_nested_search(
            searches, wanted=self.trials, launch=self.launch, record=record
        )
        record()  # what is chosen may depend on how many trials are asked for
        return returned

    def _open(self, name: str, space: "SearchSpace", shared: Mapping[str, Any]) -> "Trials":
        from signlang.sweeps import optuna_search

        return optuna_search.open_trials(
            name, self.storage, self.sampler, self.pruner, space, shared
        )

    def _record(self, search: "Search") -> None:
        """Write what was searched into the folder of the study."""
        from signlang.runs import folder

        assert self.config is not None
        study = expanded(self.config.runs_dir) / str(self.config.study)
        self.studies.add(study)
        folder.write_search(study, search)


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
    launchers = (SerialLauncher, LocalLauncher, SlurmLauncher, RayLauncher)
    for plugin in (*launchers, GridSweeper, OptunaSweeper):
        plugin.__module__ = HOME
        setattr(home, plugin.__name__, plugin)
        Plugins.instance().register(plugin)
