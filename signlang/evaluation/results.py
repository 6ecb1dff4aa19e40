"""Results of an evaluation: overall, per class and per signer, with warnings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from signlang.arrays import Flags, Floats, Ints
from signlang.data.index import Index
from signlang.evaluation.class_mapping import ClassMapping
from signlang.evaluation.predictors import BatchPredictor
from signlang.metrics import classification
from signlang.metrics.calibration import Calibration, accepted, apply_temperature
from signlang.metrics.classification import Proportion
from signlang.reporting.formatting import counted, named, percent

ABSENT: Final = -1  # label of an image whose class the network does not know


@dataclass(frozen=True, eq=False)
class TrainingOverlap:
    """Which images are no news to a network, byte for byte.

    Attributes:
        trained: (N,) those that it was trained on.
        chosen: (N,) those that chose its checkpoint or its calibration.
        unknown: Why that cannot be known; nothing where it is.
    """

    trained: Flags
    chosen: Flags
    unknown: str = ""

    @property
    def either(self) -> Flags:
        """(N,) both."""
        return self.trained | self.chosen


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network said of images.

    Attributes:
        candidate: The network.
        calibration: Its temperature and threshold.
        name: Of the data.
        index: All images of the data.
        rows: (n,) those that were judged.
        matches: What each class of the data is for the network.
        probabilities: (n, classes of the network), uncalibrated.
        seen: Which images are no news to the network.
        seconds: That the network took.
    """

    candidate: BatchPredictor
    calibration: Calibration
    name: str
    index: Index
    rows: Ints
    matches: tuple[ClassMapping, ...]
    probabilities: Floats
    seen: TrainingOverlap
    seconds: float

    @cached_property
    def labels(self) -> Ints:
        """(n,) positions in the classes of the network, `ABSENT` where it is none of them."""
        number = {name: place for place, name in enumerate(self.candidate.classes)}
        places = [ABSENT if m.network is None else number[m.network] for m in self.matches]
        return np.array(places, dtype=np.int64)[self.index.labels[self.rows]]

    @cached_property
    def known(self) -> Flags:
        """(n,) whether the network knows the class."""
        return np.asarray(self.labels != ABSENT, dtype=np.bool_)

    @cached_property
    def calibrated(self) -> Floats:
        """(n, classes of the network) probabilities after the temperature."""
        return apply_temperature(self.probabilities, self.calibration.temperature)

    @cached_property
    def predicted(self) -> Ints:
        """(n,) the most probable class."""
        best: Ints = self.probabilities.argmax(1)
        return best

    @cached_property
    def correct(self) -> Flags:
        """(n,) whether the image was recognised; never, where its class is not known."""
        return np.asarray(self.predicted == self.labels, dtype=np.bool_)

    @cached_property
    def accepted(self) -> Flags:
        """(n,) whether the calibrated confidence reaches the threshold."""
        return accepted(self.calibrated.max(1), self.calibration.reject_threshold)

    @cached_property
    def shared(self) -> list[int]:
        """Positions of the classes of the network that some judged image has."""
        return [int(place) for place in np.unique(self.labels[self.known])]

    @cached_property
    def correct_among(self) -> Flags:
        """(n,) whether it would be recognised if there were the shared classes only."""
        best = np.array(self.shared)[self.probabilities[:, self.shared].argmax(1)]
        return np.asarray(best == self.labels, dtype=np.bool_)

    @cached_property
    def figures(self) -> dict[str, float]:
        """Of images of shared classes, over all classes of the network, uncalibrated."""
        return classification.classification_metrics(
            self.probabilities[self.known], self.labels[self.known]
        )

    @cached_property
    def figures_among(self) -> dict[str, float]:
        """Of the same images over the shared classes alone, uncalibrated."""
        labels = np.searchsorted(self.shared, self.labels[self.known])
        return classification.classification_metrics(
            classification.restrict_to_classes(self.probabilities[self.known], self.shared), labels
        )

    @property
    def coverage(self) -> Proportion:
        """How many images of shared classes are accepted."""
        return Proportion.of(self.accepted[self.known])

    @property
    def precision(self) -> Proportion:
        """How many of these are right."""
        return Proportion.of(self.correct[self.known & self.accepted])

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """(n,) class of each image, as the data names it."""
        return tuple(self.index.classes[label] for label in self.index.labels[self.rows])

    @cached_property
    def signers(self) -> tuple[str, ...] | None:
        """(n,) who is in each image, or None."""
        signers = self.index.signers
        return None if signers is None else tuple(signers[row] for row in self.rows)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """(n,) files, relative to the data."""
        return tuple(self.index.paths[row] for row in self.rows)


NOTHING: Final = Proportion(0, 0)


@dataclass(frozen=True)
class ClassScore:
    """How the images of one class were judged.

    Attributes:
        match: The class.
        images: Of it.
        right: Those recognised; of none at all, where the network does not know the class.
        among: Those that would be, if the network had the shared classes only; likewise.
        mistaken_for: What those not recognised were mostly taken for.
        times: How many of them.
        rejected: Images below the threshold.
    """

    match: ClassMapping
    images: int
    right: Proportion
    among: Proportion
    mistaken_for: str
    times: int
    rejected: int


def by_class(found: Evaluation) -> list[ClassScore]:
    """Every class of the judged images, the worst first, unknown ones last."""
    return sorted(
        _classes(found),
        key=lambda one: (one.match.network is None, one.right.value, one.match.data),
    )


def _classes(found: Evaluation) -> Iterator[ClassScore]:
    names = np.array(found.class_names, dtype=object)
    for match in found.matches:
        mine = np.asarray(names == match.data, dtype=np.bool_)
        if not mine.any():
            continue
        known = match.network is not None
        wrong = found.predicted[mine & ~found.correct]
        other, times = classification.most_frequent(wrong, found.candidate.classes)
        yield ClassScore(
            match,
            int(mine.sum()),
            Proportion.of(found.correct[mine]) if known else NOTHING,
            Proportion.of(found.correct_among[mine]) if known else NOTHING,
            other,
            times,
            int((~found.accepted[mine]).sum()),
        )


def by_signer(found: Evaluation) -> dict[str, Proportion]:
    """How many images of shared classes of each signer are recognised, the worst first."""
    if found.signers is None:
        return {}
    named = found.known & np.array([bool(name) for name in found.signers])
    return classification.accuracy_by_group(chosen(found.signers, named), found.correct[named])


def chosen(names: Sequence[str], flags: Flags) -> list[str]:
    """The names that are marked."""
    return [name for name, flag in zip(names, flags, strict=True) if flag]


def warnings(found: Evaluation) -> list[str]:
    """What flatters the figures, or leaves something out of them."""
    return [*_seen(found), *_unknown(found), *_calibration(found)]


def notes(found: Evaluation) -> list[str]:
    """What else to know."""
    told = []
    if found.seen.unknown:
        told.append(
            "It is not known whether the network was trained on some of these images: "
            f"{found.seen.unknown.rstrip('.')}."
        )
    missing = [
        name for place, name in enumerate(found.candidate.classes) if place not in found.shared
    ]
    if missing:
        told.append(
            f"No image shows {counted(len(missing), 'class')} of the "
            f"{len(found.candidate.classes)} that the network knows: {named(missing)}."
        )
    if found.index.excluded:
        told.append(
            f"{counted(len(found.index.excluded), 'file')} could not be used: see files.csv."
        )
    return told


def _seen(found: Evaluation) -> Iterator[str]:
    trained, chosen = (
        int(flags[found.rows].sum()) for flags in (found.seen.trained, found.seen.chosen)
    )
    total = len(found.rows)
    if trained:
        were = "was" if trained == 1 else "were"
        yield (
            f"{trained:,} of these {counted(total, 'image')} {were} trained on: the figures "
            "flatter. unseen=true leaves them out."
        )
    if chosen:
        yield (
            f"{chosen:,} of these {counted(total, 'image')} belong to the validation part, which "
            "chose the checkpoint and the temperature."
        )


def _unknown(found: Evaluation) -> Iterator[str]:
    strange = ~found.known
    count = int(strange.sum())
    if not count:
        return
    names = sorted({name for name, odd in zip(found.class_names, strange, strict=True) if odd})
    rejected = Proportion.of(~found.accepted[strange])
    if found.calibration.reject_threshold is None:
        fate = "Without a threshold all of them are taken for something"
    else:
        fate = f"{percent(rejected.value)} of them would be rejected"
    yield (
        f"{counted(count, 'image')} of {counted(len(names), 'class')} that the network does "
        f"not know ({named(names)}) are in none of the accuracies. {fate}."
    )


def _calibration(found: Evaluation) -> Iterator[str]:
    made = found.calibration
    if found.candidate.calibration is None and not made.images:
        yield "The network is not calibrated: its confidence is its own, and nothing is rejected."
    elif made.reject_threshold is None:
        yield (
            f"No threshold of rejection: on {_fitted_on(made.images)} none was seen to make "
            f"{percent(made.wanted_precision)} of the accepted guesses right."
        )
    elif found.precision.total and found.precision.interval[1] < made.wanted_precision:
        yield (
            f"The threshold was set to make {percent(made.wanted_precision)} of the accepted "
            f"guesses right; here it is {percent(found.precision.value)}: these images are "
            "unlike those that the network knows, and its confidence cannot be believed."
        )
    if found.candidate.facts.get("protocol") == "validation=fold":
        yield "The run's test fold also chose its checkpoint and temperature (validation=fold)."


def _fitted_on(images: int) -> str:
    return counted(images, "validation image") if images else "its validation images"
