"""Hyper-parameter search with Optuna, over all folds or nested in each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus

from signlang.components import TARGET, build
from signlang.console import log
from signlang.errors import SettingError, listing
from signlang.files import expanded
from signlang.runs.folder import Trial
from signlang.runs.identity import differences, is_below

if TYPE_CHECKING:
    import optuna

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
# what decides which images a fold holds, and where its runs lie
OF_FOLDS: Final = ("split", "folds", "data", "experiment", "study", "runs_dir")
RESUMED: Final = "resumed"  # attribute of a trial that has the values of an interrupted one


@dataclass(frozen=True)
class SearchSpace:
    """What is searched.

    Attributes:
        texts: Each setting that is searched, with its values as they were typed.
        distributions: The same for Optuna.
        fixed: The other words of the command, without the fold.
    """

    texts: Mapping[str, str]
    distributions: Mapping[str, "optuna.distributions.BaseDistribution"]
    fixed: Sequence[str]


def search_space(overrides: Mapping[str, Override]) -> SearchSpace:
    """Tell what is swept over, and therefore searched, from what is fixed.

    Raises:
        SettingError: If there is nothing to search.
    """
    swept = {k: o for k, o in overrides.items() if o.is_sweep_override() and k != "fold"}
    if not swept:
        raise SettingError(
            "hydra/sweeper=optuna needs something to search, e.g. "
            "'optimizer.lr=tag(log, interval(1e-4, 1e-2))' batch_size=32,64."
        )
    return SearchSpace(
        {key: (o.input_line or "").partition("=")[2].replace(" ", "") for key, o in swept.items()},
        {key: _distribution(override) for key, override in swept.items()},
        [
            f"{key}={override.get_value_element_as_str()}"
            for key, override in overrides.items()
            if not (key in swept or key == "fold")
        ],
    )


def check_nested(overrides: Mapping[str, Override], space: SearchSpace) -> None:
    """Refuse a nested search whose trials would not share their folds.

    Raises:
        SettingError: Names the setting.
    """
    refused = [key for key in space.texts if is_below(key, OF_FOLDS)]
    if "seed" in space.texts and "split.seed" not in overrides:
        refused.append("seed")
    if refused:
        fix = " Add split.seed=0 to fix the folds." if refused == ["seed"] else ""
        raise SettingError(
            f"hydra.sweeper.nested=true: {refused[0]} cannot be searched, because each trial would "
            f"have other folds.{fix}"
        )


@dataclass
class Trials:
    """The trials of one Optuna study.

    Attributes:
        study: See `open_trials`.
        sampler: The node of its sampler.
        space: What is searched.
    """

    study: "optuna.Study"
    sampler: Mapping[str, Any]
    space: SearchSpace

    @property
    def done(self) -> int:
        """Trials that have come to an end; a failed one is not counted."""
        return sum(trial.state.name in {"COMPLETE", "PRUNED"} for trial in self.study.trials)

    @property
    def best(self) -> "optuna.trial.FrozenTrial | None":
        """The finished trial of the highest value, of equal ones the first."""
        completed = [trial for trial in self.study.trials if trial.state.name == "COMPLETE"]
        return max(completed, key=lambda trial: trial.value or 0.0, default=None)

    def ask(self) -> "optuna.Trial":
        """Start the next trial; what it draws depends on seed and number, not on interruptions."""
        number = sum(not trial.user_attrs.get(RESUMED) for trial in self.study.trials)
        self.study.sampler = _sampler(self.sampler, number)
        return self.study.ask(dict(self.space.distributions))

    def words(self, trial: "optuna.trial.BaseTrial") -> list[str]:
        """The words of a trial's runs, without the fold."""
        return [*self.space.fixed, *(f"{k}={v}" for k, v in texts_of(trial).items())]


def texts_of(trial: "optuna.trial.BaseTrial") -> dict[str, str]:
    """What a trial chose, written so that the name of a run folder stays short."""
    values = trial.params.items()
    return {key: f"{v:.4g}" if isinstance(v, float) else str(v) for key, v in values}


def open_trials(
    name: str,
    storage: str,
    sampler: Mapping[str, Any],
    pruner: Mapping[str, Any],
    space: SearchSpace,
    shared: Mapping[str, Any],
) -> Trials:
    """Open an Optuna study, and put trials that were interrupted in front of the queue.

    Args:
        name: Of the Optuna study.
        storage: Where it is kept, a URL of SQLAlchemy.
        sampler: The node of an Optuna sampler.
        pruner: The node of an Optuna pruner.
        space: What is searched.
        shared: What else all trials have in common; numbers, texts and lists.

    Raises:
        SettingError: If Optuna is not installed, a node does not name what it should, or the
            trials that are there were made by another search.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise SettingError(
            'hydra/sweeper=optuna needs Optuna: pip install "signlang[search]".'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage.startswith("sqlite:///"):
        expanded(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    study: optuna.Study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=_sampler(sampler, 0),
        pruner=_build_component(pruner, optuna.pruners.BasePruner, "pruner"),
        direction="maximize",
        load_if_exists=True,
    )
    expected = {**shared, **space.texts}
    stored = study.user_attrs.get("search", expected)
    if stored != expected:
        raise SettingError(
            f"{storage} holds {len(study.trials)} trials of another search:"
            f"{listing(differences(stored, expected))}\nGive this one a study of its own with "
            "study=NAME, or repeat the words of the other."
        )
    study.set_user_attr("search", expected)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING], deepcopy=False):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        # its finished folds are skipped, the others are resumed
        study.enqueue_trial(trial.params, user_attrs={RESUMED: True})
    return Trials(study, sampler, space)


def run_search(
    trials: Trials, *, wanted: int, folds: Sequence[int], at_once: int, launch: Launch
) -> list[JobReturn]:
    """Run trials until there are as many as were asked for.

    A trial is one setting on all folds, each an ordinary run. It is rated by the mean accuracy on
    the validation subsets; the test folds are not looked at. After each fold (or as many as run at
    once) a trial that is worse than most is given up.

    Args:
        trials: Those that there are.
        wanted: How many in all.
        folds: Which folds a trial has.
        at_once: How many of them run at the same time.
        launch: Runs jobs, given as overrides, with the number of the first.

    Returns:
        The jobs of this call.
    """
    search = _AllFolds(trials, folds, at_once, launch)
    for _ in range(wanted - trials.done):
        trial = trials.ask()
        state, value = search.run(trial)
        trials.study.tell(trial, value, state=state)
        log.info("trial %d of %d: %s %s", trials.done, wanted, state.name.lower(),
                 "" if value is None else f"with validation accuracy {value:.4f}")  # fmt: skip
    _report_best(f"best of {trials.done} trials:", trials)
    return search.returned


@dataclass
class _AllFolds:
    """Runs the folds of trials."""

    trials: Trials
    folds: Sequence[int]
    at_once: int
    launch: Launch
    returned: list[JobReturn] = field(default_factory=list)

    def run(self, trial: "optuna.Trial") -> tuple["optuna.trial.TrialState", float | None]:
        """Run one trial; its state and its value."""
        from optuna.trial import TrialState

        words = self.trials.words(trial)
        log.info("trial %d: %s", trial.number, " ".join(words[len(self.trials.space.fixed) :]))
        accuracies: list[float] = []
        for first in range(0, len(self.folds), self.at_once):
            jobs = [[*words, f"fold={fold}"] for fold in self.folds[first : first + self.at_once]]
            returned = self.launch(jobs, len(self.returned))
            self.returned += returned
            if any(job.status == JobStatus.FAILED for job in returned):
                return TrialState.FAIL, None
            accuracies += [float(job.return_value) for job in returned]
            trial.report(sum(accuracies) / len(accuracies), step=len(accuracies))
            if len(accuracies) < len(self.folds) and trial.should_prune():
                return TrialState.PRUNED, None  # Optuna keeps what was reported last
        return TrialState.COMPLETE, sum(accuracies) / len(accuracies)


def run_nested_search(
    searches: Mapping[int, Trials], *, wanted: int, launch: Launch, record: Callable[[], None]
) -> list[JobReturn]:
    """Search each fold by itself, until each has as many trials as were asked for.

    A trial is one setting on one fold, rated by the accuracy on the validation subset of that fold,
    which is cut out of its training images. So nothing that is chosen for a fold has seen its test
    images. The next trials of all folds are launched together.

    Args:
        searches: The trials of each fold.
        wanted: How many trials a fold gets.
        launch: Runs jobs, given as overrides, with the number of the first.
        record: Called whenever trials started or ended.

    Returns:
        The jobs of this call.
    """
    from optuna.trial import TrialState

    returned: list[JobReturn] = []
    remaining = {fold: wanted - trials.done for fold, trials in searches.items()}
    while any(count > 0 for count in remaining.values()):
        started = {fold: searches[fold].ask() for fold, count in remaining.items() if count > 0}
        record()
        jobs = [[*searches[fold].words(trial), f"fold={fold}"] for fold, trial in started.items()]
        outcomes = launch(jobs, len(returned))
        for (fold, trial), outcome in zip(started.items(), outcomes, strict=True):
            remaining[fold] -= 1
            if outcome.status == JobStatus.FAILED:
                searches[fold].study.tell(trial, state=TrialState.FAIL)
            else:
                searches[fold].study.tell(trial, float(outcome.return_value))
        returned += outcomes
        record()
        done = min(trials.done for trials in searches.values())
        log.info("nested search: %d of %d trials of every fold are done", done, wanted)
    for fold, trials in searches.items():
        if trials.done >= wanted:
            _report_best(f"fold {fold} chose", trials)
    return returned


def _report_best(lead: str, trials: Trials) -> None:
    """Log the best trial behind some words, if any has finished."""
    best = trials.best
    if best is not None:
        words = " ".join(f"{key}={value}" for key, value in texts_of(best).items())
        log.info("%s %s with validation accuracy %.4f", lead, words, best.value)


def nested_trials(
    searches: Mapping[int, Trials], wanted: int, setting: Callable[[Sequence[str]], str]
) -> list[Trial]:
    """What a nested search has tried, and what its finished folds chose.

    Args:
        searches: The trials of each fold.
        wanted: How many trials a fold gets before it chooses.
        setting: Names the folder of the runs of some words.
    """
    # one that was interrupted and its second start are one
    tried: dict[tuple[int, str], Trial] = {}
    for fold, trials in searches.items():
        best = trials.best if trials.done >= wanted else None
        for trial in trials.study.get_trials(deepcopy=False):
            name = setting(trials.words(trial))
            earlier = tried.get((fold, name))
            if trial.state.name == "WAITING" or (earlier and earlier.validation is not None):
                continue
            tried[fold, name] = Trial(
                fold=fold,
                setting=name,
                values=texts_of(trial),
                validation=trial.value if trial.state.name == "COMPLETE" else None,
                chosen=best is not None and trial.number == best.number,
            )
    return list(tried.values())


def _sampler(node: Mapping[str, Any], number: int) -> "optuna.samplers.BaseSampler":
    """Build the sampler of the trial of a number.

    Samplers that only draw random numbers get a seed of their own for each trial: a search that is
    resumed would otherwise draw its first trials again. Others keep a sequence by their one seed.
    """
    from optuna import samplers

    sampler: samplers.BaseSampler = _build_component(node, samplers.BaseSampler, "sampler")
    seed = node.get("seed")
    if type(sampler) in {samplers.TPESampler, samplers.RandomSampler} and isinstance(seed, int):
        trial_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        sampler = _build_component({**node, "seed": trial_seed}, samplers.BaseSampler, "sampler")
    return sampler


def _build_component(node: Mapping[str, Any], kind: type, name: str) -> Any:
    component = build(node, {}, key=f"hydra.sweeper.{name}")
    if not isinstance(component, kind):
        raise SettingError(
            f"hydra.sweeper.{name}: {node[TARGET]} returns {type(component).__name__}, not a "
            f"{kind.__name__} of Optuna."
        )
    return component


def chosen_folds(chosen: Override | None, count: int) -> list[int]:
    """The folds of each trial: all of them, or those of the override `fold`."""
    if chosen is None:
        return list(range(count))
    if chosen.is_sweep_override():
        return [int(value) for value in chosen.sweep_string_iterator()]
    return [int(chosen.get_value_element_as_str())]


def _distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """What Hydra's sweep means to Optuna: choices, a range of whole numbers, or an interval."""
    from optuna import distributions

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        log_scale = "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return distributions.IntDistribution(low, high, log=log_scale)
        return distributions.FloatDistribution(float(low), float(high), log=log_scale)
    if isinstance(value, RangeSweep) and all(
        isinstance(v, int) for v in (value.start, value.stop, value.step)
    ):
        numbers = list(range(value.start, value.stop, value.step))  # type: ignore[arg-type]
        return distributions.IntDistribution(numbers[0], numbers[-1], step=int(value.step))
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))
