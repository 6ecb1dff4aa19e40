"""A study: settings with their runs of every fold, read from run folders.

Only run folders are read, and nothing in them is changed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from signlang.arrays import Floats
from signlang.errors import RunError, suggestion
from signlang.metrics import calibration
from signlang.metrics.calibration import OF_STUDY, Calibration
from signlang.metrics.classification import Predictions
from signlang.reporting.formatting import named
from signlang.runs.folder import FOLD, RunFolder, Search, Trial, fold_folders, read_searches
from signlang.runs.identity import (
    PRECISION,
    PRETRAINED,
    choice_of,
    differences,
    is_below,
    overrides_of,
)
from signlang.runs.lifecycle import (
    FoldState,
    IncompleteSetting,
    MissingFold,
    diverged_fold,
    unfinished_fold,
)
from signlang.runs.results import Run, read_run
from signlang.runs.trained_run import read_calibration


@dataclass(frozen=True, eq=False)
class Setting:
    """What was chosen, with its run of every fold.

    Attributes:
        path: Folder of its runs.
        runs: The finished ones, by fold; at least one.
        missing: Why each other fold is missing, by fold.
        search: The nested search that chose its runs, each by its own fold; their settings differ.
    """

    path: Path
    runs: tuple[Run, ...]
    missing: Mapping[int, MissingFold]
    search: Search | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.name

    @property
    def model(self) -> str:
        """Name of the network; of several, if a nested search chose among them."""
        return "/".join(dict.fromkeys(str(run.metrics["model"]) for run in self.runs))

    @property
    def protocol(self) -> str:
        """Whether the test fold picked the checkpoint."""
        return str(self.runs[0].metrics["protocol"])

    @property
    def split(self) -> str:
        """How images were assigned to folds."""
        return str(self.runs[0].metrics["split"])

    @property
    def split_text(self) -> str:
        """The split in words, with the frames that it leaves out around tested ones."""
        gap = self.runs[0].settings.get("split.gap")
        return f"{self.split} with a gap of {gap}" if gap else self.split

    @property
    def folds(self) -> int:
        """How many folds there are, finished or not."""
        return int(self.runs[0].metrics["folds"])

    @property
    def is_complete(self) -> bool:
        """Whether every fold is finished."""
        return not self.missing

    @cached_property
    def fold_assignment(self) -> tuple[Any, ...]:
        """What two settings must share for their folds to hold the same images."""
        record = self.runs[0].record
        split = sorted((k, str(v)) for k, v in record["settings"].items() if k.startswith("split."))
        return (record["data"]["fingerprint"], self.folds, tuple(split))

    @property
    def test_share(self) -> float:
        """Images of a test fold for each that was trained on: mean over the runs."""
        data = [run.record["data"] for run in self.runs]
        return sum(float(one["test"]) / float(one["train"]) for one in data) / len(data)

    def values(self, name: str) -> Floats:
        """(finished folds,) one of `METRICS`."""
        return np.array([run.metric(name) for run in self.runs])

    def mean(self, name: str) -> float:
        """Mean of a metric over the finished folds."""
        if name not in self._mean_of:
            self._mean_of[name] = float(self.values(name).mean())
        return self._mean_of[name]

    @cached_property
    def _mean_of(self) -> dict[str, float]:
        return {}

    @property
    def recorded_accuracy(self) -> float:
        """Mean of the accuracies in `metrics.json`, for which no predictions are read."""
        return float(np.mean([run.recorded_metric("accuracy") for run in self.runs]))

    def two_deviations(self, name: str) -> float:
        """Two standard deviations (n - 1) over the finished folds; nan for a single one."""
        values = self.values(name)
        return 2 * float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    @cached_property
    def predictions(self) -> Predictions:
        """Out-of-fold predictions, fold after fold; those of the runs become views of them."""
        folds = [run.predictions for run in self.runs]
        pooled = Predictions.concatenate(folds)
        ends = np.cumsum([len(fold.labels) for fold in folds])
        tables = np.split(pooled.probabilities, ends[:-1])
        for run, table in zip(self.runs, tables, strict=True):
            run.share_probabilities(table)
        return pooled

    @property
    def not_calibrated(self) -> str:
        """Why its folds cannot calibrate each other; empty if they can."""
        if self.runs[0].is_optimistic:
            return "the test folds selected the checkpoints (split.validation=fold)"
        if self.missing or len(self.runs) < 2:
            missing = ", ".join(map(str, sorted(self.missing))) or "all but one"
            return f"not all folds are finished (fold {missing})"
        return ""

    def expect_cross_fit(self, result: "Callable[[], CrossFit | None]") -> None:
        """Let `cross_fit` ask for what another process fits; where that is None, it fits itself."""
        self.__dict__["_expected_cross_fit"] = result

    @cached_property
    def cross_fit(self) -> "CrossFit | None":
        """Calibration of the networks of all folds together; None if `not_calibrated`.

        Raises:
            RunError: If predictions, or the calibration of the first run, cannot be read.
        """
        if self.not_calibrated:
            return None
        fitted = self._expected_cross_fit()
        if fitted is not None:
            return fitted
        return cross_fit(self.predictions, wanted_precision(self.runs[0].path))

    @cached_property
    def _expected_cross_fit(self) -> "Callable[[], CrossFit | None]":
        return lambda: None

    @cached_property
    def remarks(self) -> list[str]:
        """Sentences on folds computed in different ways, and on a network no better than chance."""
        differing = [
            f"{name} {_by_fold([(run.fold, run.environment[name]) for run in self.runs])}"
            for name in self.runs[0].environment
            if len({run.environment[name] for run in self.runs}) > 1
        ]
        text = f"Its folds were not trained alike: {'; '.join(differing)}."
        warnings = [text] if differing else []
        chance_warning = self.predictions.chance_warning
        return [*([chance_warning] if chance_warning else []), *warnings]

    @cached_property
    def overrides(self) -> dict[str, str]:
        """Overrides of the run, except the fold and settings without effect on the result."""
        searched = self.search.space if self.search is not None else ()
        overrides = overrides_of(self.runs[0].record)
        return {key: value for key, value in overrides.items() if not is_below(key, searched)}

    @property
    def chosen(self) -> list[tuple[Run, Trial]]:
        """The run of each fold of a nested search, with the trial that it was; else none."""
        trials = self.search.tried if self.search is not None else ()
        of_fold = {trial.fold: trial for trial in trials if trial.chosen}
        return [(run, of_fold[run.fold]) for run in self.runs if run.fold in of_fold]

    def choice(self, key: str) -> str:
        """The value of a setting by the name of its override, shortened for people."""
        if self.search is not None and key in self.search.space:
            return "chosen by each fold"
        return choice_of(self.runs[0].record, key)


def accuracy_by_fold(settings: Sequence[Setting]) -> Floats:
    """(settings, folds) accuracy of each finished run; nan where there is none."""
    values = np.full((len(settings), max(setting.folds for setting in settings)), np.nan)
    for row, setting in zip(values, settings, strict=True):
        for run in setting.runs:
            row[run.fold] = run.metric("accuracy")
    return values


@dataclass(frozen=True, eq=False)
class CrossFit:
    """A calibration fitted on the out-of-fold predictions of a setting.

    The networks of the folds are different networks: what fits them all together need not fit each.

    Attributes:
        calibration: Fitted on the images of all test folds, for any of the networks.
        folds: By fold, the calibration fitted on all other folds, with its effect on this one.
        effects: The latter, over the images of all folds; see `metrics.calibration.effects`.
    """

    calibration: Calibration
    folds: Mapping[int, tuple[Calibration, Mapping[str, Any]]]
    effects: Mapping[str, Any]

    def of_fold(self, fold: int) -> Calibration:
        """The calibration, with its cross-fitted effects on a test fold and on all."""
        return replace(
            self.calibration,
            test_error=self.folds[fold][1]["calibration_error"],
            cross_fitted=self.effects,
        )

    def as_json(self) -> dict[str, Any]:
        """For `calibration.json` of a study."""
        return {
            **calibration.fields_of(self.calibration),
            "images": self.calibration.images,
            "cross_fitted": dict(self.effects),
            "folds": {
                str(fold): {**calibration.fields_of(fitted), "images": fitted.images, **effects}
                for fold, (fitted, effects) in self.folds.items()
            },
        }


def wanted_precision(run: Path) -> float:
    """The precision that a run was calibrated for.

    Raises:
        RunError: If its calibration cannot be read.
    """
    return (read_calibration(run) or Calibration()).wanted_precision


def cross_fit(predictions: Predictions, wanted_precision: float) -> CrossFit:
    """Fit temperature and threshold on all folds, and measure them on folds left out of the fit.

    Args:
        predictions: Of at least two test folds, each by the network that was not trained on it.
        wanted_precision: Between 0 and 1.
    """
    return cross_fits([predictions], [wanted_precision])[0]


def cross_fits(
    predictions: Sequence[Predictions], wanted_precisions: Sequence[float]
) -> list[CrossFit]:
    """`cross_fit` of settings whose labels and folds are the same, all at once."""
    before = np.stack([calibration.fill_zeros(one.probabilities) for one in predictions])
    labels, fold_of = predictions[0].labels, predictions[0].folds
    after, is_accepted = np.empty_like(before), np.empty(before.shape[:2], dtype=np.bool_)
    losses = calibration.grid_losses(calibration.logits_of(before), labels)
    folds: list[dict[int, tuple[Calibration, Mapping[str, Any]]]] = [{} for _ in predictions]
    for fold in np.unique(fold_of).tolist():
        rows, other_rows = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        fitted = calibration.fit_calibrations(
            before.take(other_rows, 1), labels[other_rows], wanted_precisions, OF_STUDY,
            losses.take(other_rows, 1),
        )  # fmt: skip
        held_out = before.take(rows, 1)
        scaled = calibration.apply_temperature(
            held_out, np.array([one.temperature for one in fitted])
        )
        thresholds = np.array([[one.threshold] for one in fitted])
        after[:, rows] = scaled
        is_accepted[:, rows] = calibration.accepted(scaled.max(2), thresholds)
        effects = calibration.effects(held_out, scaled, is_accepted.take(rows, 1), labels[rows])
        for of_setting, own_fit, own_effects in zip(folds, fitted, effects, strict=True):
            of_setting[fold] = own_fit, own_effects
    return [
        CrossFit(*of_setting)
        for of_setting in zip(
            calibration.fit_calibrations(before, labels, wanted_precisions, OF_STUDY, losses),
            folds,
            calibration.effects(before, after, is_accepted, labels),
            strict=True,
        )
    ]


@dataclass(frozen=True, eq=False)
class Study:
    """All settings of a study, the most accurate first.

    Attributes:
        path: Its folder.
        settings: With at least one finished run.
        unusable: Settings without any.
        searches: The hyper-parameter searches that made runs of it.
    """

    path: Path
    settings: tuple[Setting, ...]
    unusable: Sequence[IncompleteSetting]
    searches: Sequence[Search] = ()

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.resolve().name

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """Names of the overrides in which the settings differ, the network's first."""
        keys = dict.fromkeys(key for setting in self.settings for key in setting.overrides)
        varying = [k for k in keys if len({s.choice(k) for s in self.settings}) > 1]
        models = len({setting.model for setting in self.settings}) > 1
        return ("model",) * models + tuple(sorted(varying))

    @cached_property
    def labels(self) -> dict[str, str]:
        """A short name of each setting: its network, and the settings that differ."""
        labels = {
            setting.name: self._compose_label(setting, self.factors) for setting in self.settings
        }
        all_labels = list(labels.values())
        return {
            name: label if all_labels.count(label) == 1 else f"{label} ({name})"
            for name, label in labels.items()
        }

    def label(self, setting: Setting, without: str = "") -> str:
        """The short name of a setting, on request without the factors of one group."""
        if not without:
            return self.labels[setting.name]
        return self._compose_label(
            setting, [key for key in self.factors if not is_below(key, [without])]
        )

    @cached_property
    def remarks(self) -> list[str]:
        """Sentences on what makes metrics of settings doubtful, each with those it is about."""
        about: dict[str, list[str]] = {}
        for setting in self.settings:
            for sentence in setting.remarks:
                about.setdefault(sentence, []).append(self.label(setting))
        lines = [f"{named(labels)}: {sentence}" for sentence, labels in about.items()]
        precisions: dict[str, list[str]] = {}
        for setting in self.settings:
            precision = setting.runs[0].environment["precision"]
            if precision is not None:
                precisions.setdefault(precision, []).append(self.label(setting))
        if len(precisions) > 1 and PRECISION not in self.factors:
            groups = (f"{name}: {named(labels)}" for name, labels in precisions.items())
            lines.append(
                "Settings were trained in different precisions, which may make part of their "
                f"differences: {'; '.join(groups)}. trainer.precision=32-true is the same "
                "everywhere."
            )
        return lines

    def _compose_label(self, setting: Setting, factors: Sequence[str]) -> str:
        short = {key: key.rpartition(".")[2] for key in factors}
        if len(set(short.values())) < len(short):
            short = {key: key for key in factors}
        search = setting.search
        chosen = [key for key in factors if search is None or key not in search.space]
        overrides = [f"{short[key]} {setting.choice(key)}" for key in chosen if key != "model"]
        title = [] if search is None else [search.title]
        return ", ".join([setting.model, *overrides, *title])

    @property
    def incomplete(self) -> list[IncompleteSetting]:
        """All settings that lack folds."""
        partly = [
            IncompleteSetting(
                setting.path,
                setting.missing,
                setting.runs[0].record,
                setting.search.words if setting.search is not None else (),
            )
            for setting in self.settings
            if setting.missing
        ]
        return [*partly, *self.unusable]


def _by_fold(values: Sequence[tuple[int, str | None]]) -> str:
    """Name the folds of each value.

    >>> _by_fold([(0, "a"), (1, "a"), (2, None)])
    'a in fold 0, 1, not known in fold 2'
    """
    folds: dict[str, list[str]] = {}
    for fold, value in values:
        folds.setdefault(value or "not known", []).append(str(fold))
    return ", ".join(f"{value} in fold {', '.join(of)}" for value, of in folds.items())


def check_study_folder(path: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        RunError: Names those that are near.
    """
    if not path.is_dir():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggestion(path.name, sorted(names)) if names else "Train something first."
        raise RunError(f"{path}: there is no such folder. {hint}")


def read_study(path: Path, known: Run | None = None) -> Study:
    """Read all run folders of a study.

    Args:
        path: Its folder.
        known: One of its runs that has been read already.

    Raises:
        RunError: If there are none, or the folds of a setting do not belong together.
    """
    check_study_folder(path)
    path = path if path.name not in {"", ".."} else path.resolve()  # `.` has no parents
    settings: list[Setting] = []
    unusable: list[IncompleteSetting] = []
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        folds = fold_folders(folder)
        if not folds:
            continue
        setting = _read_folds(folder, folds, known)
        if isinstance(setting, Setting):
            settings.append(setting)
        else:
            unusable.append(setting)
    searches = read_searches(path)
    settings, unusable = _with_nested(path, settings, unusable, searches)
    if not settings:
        raise RunError(_no_runs_text(path, unusable))
    settings.sort(key=lambda s: (-s.recorded_accuracy, s.name))
    return Study(path, tuple(settings), unusable, searches)


def _with_nested(
    path: Path,
    settings: Sequence[Setting],
    unusable: Sequence[IncompleteSetting],
    searches: Sequence[Search],
) -> tuple[list[Setting], list[IncompleteSetting]]:
    """Put one setting in place of all that a nested search tried, so that no test fold chooses."""
    nested = [search for search in searches if search.nested]
    tried = {(trial.setting, trial.fold) for search in nested for trial in search.tried}
    names = {name for name, _ in tried}
    kept = [s for s in settings if any((s.name, run.fold) not in tried for run in s.runs)]
    incomplete = [one for one in unusable if one.folder.name not in names]
    for search in nested:
        row = _nested(path, settings, search)
        if isinstance(row, Setting):
            kept.append(row)
        else:
            incomplete.append(row)
    return kept, incomplete


def _nested(path: Path, settings: Sequence[Setting], search: Search) -> Setting | IncompleteSetting:
    """The runs that the folds of a nested search chose, as one setting.

    Raises:
        RunError: If their folds do not hold the same images.
    """
    run_of = {(setting.name, run.fold): run for setting in settings for run in setting.runs}
    chosen = {trial.fold: trial.setting for trial in search.tried if trial.chosen}
    runs = [run_of[name, fold] for fold, name in sorted(chosen.items()) if (name, fold) in run_of]
    folder = path / f"{search.name}, {search.title}"
    folds = range(int(runs[0].metrics["folds"])) if runs else search.folds
    missing = {
        fold: MissingFold(FoldState.UNFINISHED, _progress(search, fold))
        for fold in sorted({*folds} - {run.fold for run in runs})
    }
    if not runs:
        return IncompleteSetting(folder, missing, None, search.words)
    setting = Setting(folder, tuple(runs), missing, search)
    for run in runs[1:]:
        if Setting(folder, (run,), {}).fold_assignment != setting.fold_assignment:
            raise RunError(
                f"{run.path} and {runs[0].path}, which a nested search chose, differ in data or "
                "split and cannot be averaged: search in another study with study=NAME."
            )
    return setting


def _progress(search: Search, fold: int) -> str:
    done = sum(trial.validation is not None for trial in search.tried if trial.fold == fold)
    return f"{done} of {search.trials} trials of its search are done"


def read_setting(run: Run) -> Setting | None:
    """The setting of a run, with the runs of the other folds beside it; None if it has no such.

    Args:
        run: In `.../<what was chosen>/fold=<k>`.

    Raises:
        RunError: If the folds do not belong together.
    """
    folder = run.path.resolve()
    if not FOLD.fullmatch(folder.name):
        return None
    setting = _read_folds(folder.parent, fold_folders(folder.parent), run)
    return setting if isinstance(setting, Setting) else None


def _read_folds(
    folder: Path, paths: Mapping[int, Path], known: Run | None
) -> Setting | IncompleteSetting:
    runs: list[Run] = []
    missing: dict[int, MissingFold] = {}
    for fold, path in sorted(paths.items()):
        try:
            run = _run(path, known)
        except RunError as error:
            missing[fold] = MissingFold(FoldState.UNUSABLE, str(error).rstrip("."))
            continue
        if run is None:
            missing[fold] = unfinished_fold(path)
        elif run.metrics.get("partial"):
            missing[fold] = MissingFold(FoldState.PARTIAL, ", ".join(run.metrics["partial"]))
        elif not math.isfinite(loss := run.recorded_metric("loss")):
            missing[fold] = diverged_fold(f"its loss is {loss}")
        else:
            runs.append(run)
    if not runs:
        return _without_runs(folder, missing)
    for run in runs[1:]:
        _check_same_settings(runs[0], run)
    absent = set(range(int(runs[0].metrics["folds"]))) - {run.fold for run in runs} - set(missing)
    missing |= dict.fromkeys(absent, MissingFold(FoldState.NOT_STARTED))
    return Setting(folder, tuple(sorted(runs, key=lambda r: r.fold)), missing)


def _without_runs(folder: Path, missing: Mapping[int, MissingFold]) -> IncompleteSetting:
    """A setting that has no finished run, with the record of any fold that has one."""
    for fold in sorted(missing):
        with suppress(RunError):
            record = RunFolder(folder / f"fold={fold}").record() or {}
            folds = record.get("settings", {}).get("folds")
            if isinstance(folds, int) and "overrides" in record:
                absent = dict.fromkeys(range(folds), MissingFold(FoldState.NOT_STARTED))
                return IncompleteSetting(folder, {**absent, **missing}, record)
    return IncompleteSetting(folder, missing, None)


def _run(path: Path, known: Run | None) -> Run | None:
    """Read a run of a study, unless it is the known one; None if it is not finished."""
    run = known if known is not None and known.path.resolve() == path else read_run(path)
    if run is not None and f"fold={run.fold}" != path.name:
        raise RunError(
            f"{path / 'metrics.json'} is of fold {run.fold}: the folder was moved or copied "
            "here, move it back or delete it"
        )
    return run


def _check_same_settings(one: Run, other: Run) -> None:
    """Refuse folds that differ in settings or data.

    Raises:
        RunError: With the settings in which they differ.
    """
    first, second = dict(one.settings), dict(other.settings)
    if "auto" in (first.get(PRECISION), second.get(PRECISION)):  # not recorded: see `remarks`
        first.pop(PRECISION, None)
        second.pop(PRECISION, None)
    changed = differences(first, second)
    differing = [key for key in first.keys() | second.keys() if first.get(key) != second.get(key)]
    data, other_data = one.record["data"], other.record["data"]
    if data["fingerprint"] != other_data["fingerprint"]:
        differing.append("data")
        changed.append(
            f"data: {data['images']} images of {data['classes']} classes there "
            f"({data['fingerprint'][:8]}), {other_data['images']} of {other_data['classes']} now "
            f"({other_data['fingerprint'][:8]})"
        )
    changed += [
        f"{key}: {one.metrics[key]} there, {other.metrics[key]} now"
        for key in ("model", "data", "split", "protocol", "folds", "seed")
        if one.metrics[key] != other.metrics[key] and not any(is_below(k, [key]) for k in differing)
    ]
    if changed:
        advice = "Train one of them again with overwrite=true"
        if PRECISION in differing:
            advice += " (trainer.precision=32-true is the same on every machine)"
        if PRETRAINED in differing:
            advice += " (what auto finds may change: model.pretrained=true or false does not)"
        raise RunError(
            f"{other.path} and {one.path.name} beside it differ in settings or data and cannot be "
            f"averaged: {'; '.join(changed)}. {advice}, or move it into a study of its own."
        )


def _no_runs_text(path: Path, unusable: Sequence[IncompleteSetting]) -> str:
    if unusable:
        return "\n".join([f"{path} holds no finished run.", *map(str, unusable)])
    studies = sorted({p.parent.parent.parent.name for p in path.glob("*/*/fold=*/record.json")})
    if studies:
        return f"{path} holds studies, not runs. Name one of them: {', '.join(studies)}."
    return (
        f"{path} holds no run. A run folder is <study>/<what was chosen>/fold=<k>, as "
        "python -m signlang.train leaves it; name the folder of the study."
    )
