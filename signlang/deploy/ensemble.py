"""Several runs as one network whose probabilities are the mean of theirs (Hansen, Salamon 1990).

The members may be the folds of a setting, the same fold with other seeds, or both. What is known of
their accuracy on new images comes from their test folds alone: an image counts by the members that
were not trained on it. Of the folds of one setting that is one member an image, as the others were
trained on it, so that such an ensemble has no accuracy of its own that could be measured on the
data set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from signlang.errors import RunError, SettingError
from signlang.metrics.calibration import Calibration, apply_temperature
from signlang.metrics.classification import Predictions, classification_metrics
from signlang.runs.results import OPTIMISTIC, Run
from signlang.runs.trained_run import TrainedRun
from signlang.studies.study import CrossFit, Setting, cross_fit, read_setting

OF_MEMBERS: Final = "the validation subset of each member"


@dataclass(frozen=True, eq=False)
class Ensemble(TrainedRun):
    """Runs whose probabilities are averaged.

    What they share, such as classes, sizes and images, is that of the first one.

    Attributes:
        members: At least two, each with the calibration that it has in the ensemble.
    """

    members: tuple[TrainedRun, ...] = field(default=())

    @cached_property
    def predictions(self) -> Predictions:
        """Of each image that a member was tested on, by the members that were tested on it."""
        return pooled(self.members, [one.calibration.temperature for one in self.members])

    @cached_property
    def unseen(self) -> Sequence[tuple[str, int]]:
        """Images that no member was trained on; of the folds of one setting there are none."""
        tested = [dict(member.subset("test")) for member in self.members]
        return [row for row in self.subset("test") if all(row[0] in one for one in tested)]

    @property
    def evidence(self) -> str:
        """Which predictions its accuracy is that of."""
        count, fewest = len(self.members), self.networks_per_image
        if fewest == count:
            return f"images that none of its {count} members was trained on"
        which = "the member that was" if fewest == 1 else f"the {fewest} members that were"
        return f"each image by {which} not trained on it, of {count}"

    @cached_property
    def networks_per_image(self) -> int:
        """By how many members an image of `predictions` was predicted, at least."""
        paths = [path for member in self.members for path in member.predictions.paths]
        return int(np.unique(np.array(paths), return_counts=True)[1].min())

    @property
    def per_set(self) -> dict[str, float]:
        """Accuracy of `predictions` on each of several data sets."""
        sets = np.array(self.predictions.sets or ())
        correct = self.predictions.correct
        return {str(one): round(float(correct[sets == one].mean()), 6) for one in np.unique(sets)}

    @property
    def accuracies(self) -> list[float]:
        """Of each member on its own test fold."""
        return [float(member.metrics["test"]["accuracy"]) for member in self.members]


def build_ensemble(members: Sequence[TrainedRun], calibration: str) -> Ensemble:
    """Join runs that see the same images in the same way.

    Args:
        members: At least two.
        calibration: `run`: each member keeps its own temperature, and the highest of their
            thresholds is taken; `study`: temperature and threshold of the mean are fitted on the
            test folds of the members' settings, each image by the networks that were not trained on
            it; `auto`: the latter where every fold is finished.

    Raises:
        SettingError: If they differ in what they see or name, and in what.
        RunError: If the study is asked for and cannot calibrate.
    """
    check_members(members)
    first, reason = members[0], ""
    try:
        fitted = None if calibration == "run" else _cross_fit(members)
    except RunError as error:
        fitted, reason = None, str(error)
    if reason and calibration == "study":
        raise RunError(
            f"calibration=study cannot be for this ensemble: {reason.rstrip('.')}. calibration=run "
            "takes the members' own."
        )
    if fitted is None:
        stored = _of_members(members)
    else:
        stored = replace(fitted.calibration, cross_fitted=fitted.effects)
        members = [replace(member, stored=None) for member in members]
    ensemble = Ensemble(
        first.path, first.metrics, first.record, first.history, first.classifier, stored,
        tuple(members),
    )  # fmt: skip
    return replace(ensemble, metrics=_metrics(ensemble))


def check_members(members: Sequence[TrainedRun]) -> None:
    """Refuse runs whose probabilities cannot be averaged.

    Raises:
        SettingError: Names two runs and what differs.
    """
    if len({member.path.resolve() for member in members}) < len(members):
        raise SettingError("run: each member of an ensemble must be named once.")
    first = members[0]
    for other in members[1:]:
        wanted, actual = _shared_properties(first), _shared_properties(other)
        differing = [
            f"{key} ({wanted[key]}; {actual[key]})" for key in wanted if wanted[key] != actual[key]
        ]
        if differing:
            raise SettingError(
                f"{first.path} and {other.path} cannot be members of one ensemble: they differ in "
                f"{', '.join(differing)}. Leave one out, or train it again like the other."
            )


def _shared_properties(run: TrainedRun) -> dict[str, str]:
    """What the members of an ensemble must have in common, by its name for people."""
    settings, data = run.record["settings"], run.record["data"]
    hands = {key: settings[key] for key in sorted(settings) if key.partition(".")[0] == "hands"}
    hands.pop("hands.name", None)
    boxes = f"margin {data.get('box_margin')}" if data.get("boxes") else "none"
    return {
        "classes": ", ".join(run.classes),
        "image size": ", then ".join(map(str, run.image_sizes)),
        "hands": ", ".join(f"{key}={value}" for key, value in hands.items()) or "none",
        "boxes": boxes,
        "images": f"{data['images']} of {data.get('name', 'a data set')}, {data['fingerprint']}",
    }


def pooled(runs: Sequence[Run], temperatures: Sequence[float] | None = None) -> Predictions:
    """The mean of the predictions of each image by the runs that were tested on it.

    Args:
        runs: Of one data set, with the same classes.
        temperatures: Of each; None: 1.

    Raises:
        RunError: If predictions cannot be read.
    """
    predictions = Predictions.concatenate([run.predictions for run in runs])
    scales = temperatures or [1.0] * len(runs)
    probabilities = np.concatenate([
        run.predictions.probabilities if scale == 1
        else apply_temperature(run.predictions.probabilities, scale)
        for run, scale in zip(runs, scales, strict=True)
    ])  # fmt: skip
    _, first, image, count = np.unique(
        np.array(predictions.paths), return_index=True, return_inverse=True, return_counts=True
    )
    means = np.zeros((len(first), probabilities.shape[1]))
    np.add.at(means, image, probabilities)
    order = np.argsort(first, kind="stable")  # as the runs have them
    rows = first[order]
    return Predictions(
        predictions.classes,
        tuple(predictions.paths[row] for row in rows),
        predictions.labels[rows],
        (means / count[:, None])[order],
        predictions.folds[rows],
        None if predictions.signers is None else tuple(predictions.signers[row] for row in rows),
        None if predictions.clusters is None else predictions.clusters[rows],
        None if predictions.sets is None else tuple(predictions.sets[row] for row in rows),
    )


def _cross_fit(members: Sequence[TrainedRun]) -> CrossFit:
    """Temperature and threshold of the mean, by all folds of the members' settings.

    Raises:
        RunError: If a member is in no setting with all folds.
    """
    settings: dict[str, Setting] = {}
    for member in members:
        setting = read_setting(member)
        reason = f"{member.path} is in no study" if setting is None else setting.not_calibrated
        if setting is None or reason:
            raise RunError(reason)
        settings.setdefault(str(setting.path.resolve()), setting)
    runs = [run for setting in settings.values() for run in setting.runs]
    return cross_fit(pooled(runs), members[0].calibration.wanted_precision)


def _of_members(members: Sequence[TrainedRun]) -> Calibration:
    """What the calibrations of the members, each in use already, mean for their mean."""
    calibrations = [member.calibration for member in members]
    thresholds = [one.reject_threshold for one in calibrations if one.reject_threshold is not None]
    return Calibration(
        wanted_precision=calibrations[0].wanted_precision,
        reject_threshold=max(thresholds) if len(thresholds) == len(calibrations) else None,
        images=min(one.images for one in calibrations),
        reason="that of each member: "
        + ", ".join(f"{one.temperature:.4g}" for one in calibrations),
        source=OF_MEMBERS,
    )


def _metrics(ensemble: Ensemble) -> Mapping[str, Any]:
    """`metrics.json` of a run, of several together: costs are summed."""
    members, costs = ensemble.members, [one.metrics["cost"] for one in ensemble.members]
    predictions = ensemble.predictions
    flops = [cost["flops"] for cost in costs]
    optimistic = any(member.is_optimistic for member in members)
    return {
        **ensemble.metrics,
        "model": "+".join(dict.fromkeys(str(one.metrics["model"]) for one in members)),
        "protocol": OPTIMISTIC if optimistic else ensemble.metrics["protocol"],
        "test": classification_metrics(predictions.probabilities, predictions.labels),
        "cost": {
            "parameters": sum(cost["parameters"] for cost in costs),
            "flops": None if None in flops else sum(flops),
            "size_mb": sum(cost["size_mb"] for cost in costs),
            "latency_ms": None,
        },
    }
