"""Hyper-parameter search over all folds with Optuna."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus

from signlang.components import TARGET, build
from signlang.console import log
from signlang.errors import SettingError

if TYPE_CHECKING:
    import optuna

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]


def run_search(
    study: "optuna.Study",
    overrides: Mapping[str, Override],
    *,
    trials: int,
    folds: Sequence[int],
    at_once: int,
    launch: Launch,
) -> list[JobReturn]:
    """Run trials until there are as many as were asked for.

    A trial is one setting on all folds, each an ordinary run. It is rated by the mean accuracy on
    the validation subsets; the test folds are not looked at. After each fold (or as many as run at
    once) a trial that is worse than most is given up.

    Args:
        study: See `open_study`.
        overrides: Those that are swept over are the space; `fold` chooses folds.
        trials: How many in all.
        folds: Which folds a trial has.
        at_once: How many of them run at the same time.
        launch: Runs jobs, given as overrides, with the number of the first.

    Returns:
        The jobs of this call.

    Raises:
        SettingError: If there is nothing to search.
    """
    space = {
        key: _distribution(override)
        for key, override in overrides.items()
        if override.is_sweep_override() and key != "fold"
    }
    if not space:
        raise SettingError(
            "hydra/sweeper=optuna needs something to search, e.g. "
            "'optimizer.lr=tag(log, interval(1e-4, 1e-2))' batch_size=32,64."
        )
    fixed = [
        f"{key}={override.get_value_element_as_str()}"
        for key, override in overrides.items()
        if not (key in space or key == "fold")
    ]
    search = _Trials(fixed, folds, at_once, launch)
    for _ in range(trials - _count(study)):
        trial = study.ask(space)
        state, value = search.run(trial)
        study.tell(trial, value, state=state)
        log.info("trial %d of %d: %s %s", _count(study), trials, state.name.lower(),
                 "" if value is None else f"with validation accuracy {value:.4f}")  # fmt: skip
    _report(study)
    return search.returned


@dataclass
class _Trials:
    """Runs the folds of trials."""

    fixed: Sequence[str]
    folds: Sequence[int]
    at_once: int
    launch: Launch
    returned: list[JobReturn] = field(default_factory=list)

    def run(self, trial: "optuna.Trial") -> tuple["optuna.trial.TrialState", float | None]:
        """Run one trial; its state and its value."""
        from optuna.trial import TrialState

        words = [*self.fixed, *(f"{key}={_word(value)}" for key, value in trial.params.items())]
        log.info("trial %d: %s", trial.number, " ".join(words[len(self.fixed) :]))
        accuracies: list[float] = []
        for begin in range(0, len(self.folds), self.at_once):
            jobs = [[*words, f"fold={fold}"] for fold in self.folds[begin : begin + self.at_once]]
            returned = self.launch(jobs, len(self.returned))
            self.returned += returned
            if any(job.status == JobStatus.FAILED for job in returned):
                return TrialState.FAIL, None
            accuracies += [float(job.return_value) for job in returned]
            trial.report(sum(accuracies) / len(accuracies), step=len(accuracies))
            if len(accuracies) < len(self.folds) and trial.should_prune():
                return TrialState.PRUNED, None  # Optuna keeps what was reported last
        return TrialState.COMPLETE, sum(accuracies) / len(accuracies)


def open_study(
    name: str, storage: str, sampler: Mapping[str, Any], pruner: Mapping[str, Any]
) -> "optuna.Study":
    """Open the study, and put trials that were interrupted in front of the queue.

    Args:
        name: Of the study.
        storage: Where it is kept, a URL of SQLAlchemy.
        sampler: The node of an Optuna sampler.
        pruner: The node of an Optuna pruner.

    Raises:
        SettingError: If Optuna is not installed, or a node does not name what it should.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise SettingError(
            'hydra/sweeper=optuna needs Optuna: pip install "signlang[search]".'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).expanduser().parent.mkdir(
            parents=True, exist_ok=True
        )
    study: optuna.Study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=_part(sampler, optuna.samplers.BaseSampler, "sampler"),
        pruner=_part(pruner, optuna.pruners.BasePruner, "pruner"),
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING], deepcopy=False):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)  # its finished folds are skipped, the others are resumed
    return study


def _part(node: Mapping[str, Any], kind: type, name: str) -> Any:
    made = build(node, {}, key=f"hydra.sweeper.{name}")
    if not isinstance(made, kind):
        raise SettingError(
            f"hydra.sweeper.{name}: {node[TARGET]} returns {type(made).__name__}, not a "
            f"{kind.__name__} of Optuna."
        )
    return made


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


def _word(value: Any) -> str:
    """Write a value so that the name of a run folder stays short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(study: "optuna.Study") -> int:
    """Trials that have come to an end; a failed one is not counted."""
    return sum(trial.state.name in {"COMPLETE", "PRUNED"} for trial in study.trials)


def _report(study: "optuna.Study") -> None:
    finished: Iterable[Any] = (t for t in study.trials if t.state.name == "COMPLETE")
    best = max(finished, key=lambda t: t.value if t.value is not None else -math.inf, default=None)
    if best is not None:
        words = " ".join(f"{key}={_word(value)}" for key, value in best.params.items())
        log.info("best of %d trials: %s with validation accuracy %.4f", _count(study), words,
                 best.value)  # fmt: skip
