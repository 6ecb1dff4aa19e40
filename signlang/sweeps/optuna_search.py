"""Hyper-parameter search over all folds with Optuna."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate

from signlang.console import log
from signlang.errors import SettingError
from signlang.runs import lifecycle

if TYPE_CHECKING:
    import optuna

    from signlang.sweeps.sweeper import Sweeper


def run_search(
    sweeper: "Sweeper", overrides: Mapping[str, Override], options: Mapping[str, Any]
) -> list[JobReturn]:
    """Run trials until there are as many as were asked for.

    A trial is one setting on all folds, each an ordinary run. It is judged by the mean accuracy on
    the validation parts; the test folds are not looked at. After each fold (or as many as run at
    once) a trial that is worse than most is given up.

    Args:
        sweeper: Launches the folds.
        overrides: Those that are swept over are the space; `fold` chooses folds.
        options: The group `sweep`: trials, storage, sampler, pruner.

    Returns:
        The jobs of this call.

    Raises:
        SettingError: If Optuna is not installed, or there is nothing to search.
    """
    _require_optuna()
    space = {
        key: _distribution(override)
        for key, override in overrides.items()
        if override.is_sweep_override() and key != "fold"
    }
    if not space:
        raise SettingError(
            "sweep=optuna needs something to search, e.g. "
            "'optimizer.lr=tag(log, interval(1e-4, 1e-2))' batch_size=32,64."
        )
    study = _study(options, str(sweeper.config.study))  # type: ignore[union-attr]
    fixed = [
        f"{key}={override.get_value_element_as_str()}"
        for key, override in overrides.items()
        if not (key in space or key == "fold" or key == "sweep" or key.startswith("sweep."))
    ]
    trials = _Trials(sweeper, fixed, _folds(sweeper, overrides))
    for _ in range(int(options["trials"]) - _count(study)):
        trial = study.ask(space)
        state, value = trials.run(trial)
        study.tell(trial, value, state=state)
        log.info("trial %d of %d: %s %s", _count(study), options["trials"], state.name.lower(),
                 "" if value is None else f"with validation accuracy {value:.4f}")  # fmt: skip
    _report(study)
    return trials.returned


class _Trials:
    """Runs the folds of trials."""

    def __init__(self, sweeper: "Sweeper", fixed: Sequence[str], folds: Sequence[int]) -> None:
        self.sweeper, self.fixed, self.folds = sweeper, fixed, folds
        self.at_once = int(getattr(sweeper.launcher, "at_once", len(folds)))
        self.returned: list[JobReturn] = []

    def run(self, trial: "optuna.Trial") -> tuple["optuna.trial.TrialState", float | None]:
        """Run one trial; its state and its value."""
        from optuna.trial import TrialState

        words = [*self.fixed, *(f"{key}={_word(value)}" for key, value in trial.params.items())]
        log.info("trial %d: %s", trial.number, " ".join(words[len(self.fixed) :]))
        found: list[float] = []
        for begin in range(0, len(self.folds), self.at_once):
            jobs = [[*words, f"fold={fold}"] for fold in self.folds[begin : begin + self.at_once]]
            returned = self.sweeper.launch(jobs, first=len(self.returned))
            self.returned += returned
            if any(job.status == JobStatus.FAILED for job in returned):
                return TrialState.FAIL, None
            found += [self._validation_accuracy(job) for job in jobs]
            trial.report(sum(found) / len(found), step=len(found))
            if len(found) < len(self.folds) and trial.should_prune():
                return TrialState.PRUNED, None  # Optuna keeps what was reported last
        return TrialState.COMPLETE, sum(found) / len(found)

    def _validation_accuracy(self, job: Sequence[str]) -> float:
        metrics = lifecycle.run_folder(self.sweeper.jobs.configuration(job, 0), job).metrics()
        assert metrics is not None
        return float(metrics["validation"]["accuracy"])


def _require_optuna() -> None:
    try:
        import optuna
    except ModuleNotFoundError:
        raise SettingError('sweep=optuna needs Optuna: pip install "signlang[search]".') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _study(options: Mapping[str, Any], name: str) -> "optuna.Study":
    """Open the study, and put trials that were interrupted in front of the queue."""
    import optuna

    storage = str(options["storage"])
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).expanduser().parent.mkdir(
            parents=True, exist_ok=True
        )
    study: optuna.Study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=instantiate(options["sampler"]),
        pruner=instantiate(options["pruner"]),
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING], deepcopy=False):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)  # its finished folds are skipped, the rest goes on
    return study


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


def _folds(sweeper: "Sweeper", overrides: Mapping[str, Override]) -> list[int]:
    chosen = overrides.get("fold")
    if chosen is None:
        return list(range(sweeper.config.folds))  # type: ignore[union-attr]
    if chosen.is_sweep_override():
        return [int(value) for value in chosen.sweep_string_iterator()]
    return [int(chosen.get_value_element_as_str())]


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
