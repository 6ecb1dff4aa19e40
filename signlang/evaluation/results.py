"""Results of an evaluation: overall, per class and per signer, with warnings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from PIL import Image

from signlang.arrays import Flags, Floats, Ints
from signlang.data.boxes import MARGIN
from signlang.data.index import Clusters, Index, image_clusters
from signlang.evaluation.class_mapping import ClassMapping
from signlang.evaluation.predictors import BatchPredictor
from signlang.metrics import classification
from signlang.metrics.calibration import (
    OF_RUN,
    OF_STUDY,
    Calibration,
    accepted,
    apply_temperature,
)
from signlang.metrics.classification import Proportion
from signlang.reporting.formatting import counted, intervals_sentence, named, percent

CROPPED: Final = 0.5  # share of cropped images from which a data set counts as cropped
ABSENT: Final = -1  # label of an image whose class the network does not know


@dataclass(frozen=True, eq=False)
class TrainingOverlap:
    """Images that the model was trained or selected on (exact duplicates by digest).

    Attributes:
        trained_on: (N,) images of the training subset.
        selected_on: (N,) images that selected its checkpoint or fitted its calibration.
        unknown: Why the overlap cannot be determined; empty if it was.
    """

    trained_on: Flags
    selected_on: Flags
    unknown: str = ""

    @property
    def either(self) -> Flags:
        """(N,) images of either kind."""
        return self.trained_on | self.selected_on


@dataclass(frozen=True)
class CorruptionScore:
    """Results of one grade of a corruption.

    Attributes:
        kind: Of corruption.
        grade: From 1, the mildest.
        amount: How strong it is.
        accuracy: Recognised images of shared classes.
        without_hand: Those in which no hand is found; None where the network sees whole images.
    """

    kind: str
    grade: int
    amount: str
    accuracy: Proportion
    without_hand: Proportion | None


@dataclass(frozen=True, eq=False)
class Robustness:
    """Results on corrupted images.

    Attributes:
        scores: Of each kind and grade.
        remarks: Sentences on what is left out.
        sheet: One image in all grades of each kind.
        seconds: Duration.
    """

    scores: tuple[CorruptionScore, ...]
    remarks: tuple[str, ...]
    sheet: Image.Image
    seconds: float

    @property
    def kinds(self) -> dict[str, list[CorruptionScore]]:
        """Scores of each kind, by grade."""
        return {
            kind: [one for one in self.scores if one.kind == kind]
            for kind in dict.fromkeys(one.kind for one in self.scores)
        }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions of a network for labelled images, and the metrics derived from them.

    Attributes:
        predictor: The network.
        calibration: Its temperature and threshold.
        name: Name of the data set.
        index: All images of the data set.
        rows: (n,) rows of the images that were evaluated.
        matches: Mapping of the classes of the data set to those of the network.
        probabilities: (n, classes of the network), uncalibrated.
        overlap: Images that the network was trained or selected on.
        seconds: Duration of the predictions.
        box_margin: Of the crops, if there are any.
        hands: (n,) whether a hand was found; None where the network sees whole images.
        robustness: Results on corrupted images; None where they were not asked for.
    """

    predictor: BatchPredictor
    calibration: Calibration
    name: str
    index: Index
    rows: Ints
    matches: tuple[ClassMapping, ...]
    probabilities: Floats
    overlap: TrainingOverlap
    seconds: float
    box_margin: float = MARGIN
    hands: Flags | None = None
    robustness: Robustness | None = None

    @cached_property
    def labels(self) -> Ints:
        """(n,) positions in the classes of the network, `ABSENT` for unknown classes."""
        position_of = {name: position for position, name in enumerate(self.predictor.classes)}
        positions = [ABSENT if m.network is None else position_of[m.network] for m in self.matches]
        return np.array(positions, dtype=np.int64)[self.index.labels[self.rows]]

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
        """(n,) whether the image was recognised; False where its class is not known."""
        return np.asarray(self.predicted == self.labels, dtype=np.bool_)

    @cached_property
    def accepted(self) -> Flags:
        """(n,) whether the calibrated confidence reaches the threshold."""
        return accepted(self.calibrated.max(1), self.calibration.threshold)

    @cached_property
    def calibrated_on(self) -> int:
        """How many of the evaluated images its calibration was fitted on, as far as is known."""
        flags = self.overlap.selected_on[self.rows]
        return int(flags.sum()) if self.calibration.source == OF_RUN else 0

    @cached_property
    def shared(self) -> list[int]:
        """Positions of the classes of the network that occur among the evaluated images."""
        return [int(position) for position in np.unique(self.labels[self.known])]

    @cached_property
    def shared_only_correct(self) -> Flags:
        """(n,) whether the image is recognised when only the shared classes may be predicted."""
        best = np.array(self.shared)[self.probabilities[:, self.shared].argmax(1)]
        return np.asarray(best == self.labels, dtype=np.bool_)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Metrics of the images of shared classes over all classes of the network, uncalibrated."""
        return classification.classification_metrics(
            self.probabilities[self.known], self.labels[self.known]
        )

    @cached_property
    def shared_only_metrics(self) -> dict[str, float]:
        """Metrics of the same images over the shared classes only, uncalibrated."""
        labels = np.searchsorted(self.shared, self.labels[self.known])
        return classification.classification_metrics(
            classification.restrict_to_classes(self.probabilities[self.known], self.shared), labels
        )

    @property
    def coverage(self) -> Proportion:
        """Accepted images among those of shared classes."""
        return self.share(self.accepted, self.known)

    @property
    def precision(self) -> Proportion:
        """Correct images among the accepted ones of shared classes."""
        return self.share(self.correct, self.known & self.accepted)

    @cached_property
    def clusters(self) -> Clusters:
        """(n,) which images are alike."""
        return self.index.clusters[self.rows]

    def share(self, flags: Flags, among: Flags) -> Proportion:
        """The marked ones among some of the images, from (n,) flags of each image."""
        return Proportion.of(flags[among], self.clusters[among])

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """(n,) class of each image, by its name in the data set."""
        return tuple(self.index.classes[label] for label in self.index.labels[self.rows])

    @cached_property
    def signers(self) -> tuple[str, ...] | None:
        """(n,) signer of each image; None if unknown."""
        signers = self.index.signers
        return None if signers is None else tuple(signers[row] for row in self.rows)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """(n,) files, relative to the root of the data set."""
        return tuple(self.index.paths[row] for row in self.rows)


NOTHING: Final = Proportion(0, 0)


@dataclass(frozen=True)
class ClassScore:
    """Results of one class.

    Attributes:
        match: The class.
        images: Number of its images.
        right: Recognised images; `NOTHING` if the network does not know the class.
        shared_only: Recognised images when only the shared classes may be predicted; likewise.
        mistaken_for: The class most frequently predicted for those not recognised.
        times: How often.
        rejected: Images below the threshold.
    """

    match: ClassMapping
    images: int
    right: Proportion
    shared_only: Proportion
    mistaken_for: str
    times: int
    rejected: int


def by_class(evaluation: Evaluation) -> list[ClassScore]:
    """Results of every class of the evaluated images, the worst first, unknown ones last."""
    return sorted(
        _class_scores(evaluation),
        key=lambda one: (one.match.network is None, one.right.value, one.match.data),
    )


def _class_scores(evaluation: Evaluation) -> Iterator[ClassScore]:
    names = np.array(evaluation.class_names, dtype=object)
    for match in evaluation.matches:
        members = np.asarray(names == match.data, dtype=np.bool_)
        if not members.any():
            continue
        known = match.network is not None
        wrong = evaluation.predicted[members & ~evaluation.correct]
        other, times = classification.most_frequent(wrong, evaluation.predictor.classes)
        yield ClassScore(
            match,
            int(members.sum()),
            evaluation.share(evaluation.correct, members) if known else NOTHING,
            evaluation.share(evaluation.shared_only_correct, members) if known else NOTHING,
            other,
            times,
            int((~evaluation.accepted[members]).sum()),
        )


def by_signer(evaluation: Evaluation) -> dict[str, Proportion]:
    """Accuracy of each signer on images of shared classes, the worst first.

    The interval is that of more images of the same person, by block of film.
    """
    if evaluation.signers is None:
        return {}
    is_named = evaluation.known & np.array([bool(name) for name in evaluation.signers])
    signers = select_names(evaluation.signers, is_named)
    paths = select_names(evaluation.paths, is_named)
    classes = select_names(evaluation.class_names, is_named)
    names = list(paths)
    for rows in classification.rows_by_name(signers).values():
        blocks = image_clusters([paths[r] for r in rows], [classes[r] for r in rows], None)
        for row, name in zip(rows, blocks.names.tolist(), strict=True):
            names[row] = name
    return classification.accuracy_by_group(
        signers, evaluation.correct[is_named], Clusters("block", np.array(names))
    )


def by_set(evaluation: Evaluation) -> dict[str, Proportion]:
    """Accuracy on each joined data set, on images of shared classes; empty where there is one."""
    sets = evaluation.index.sets
    if sets is None:
        return {}
    names = np.array(sets)[evaluation.rows]
    return {
        name: evaluation.share(evaluation.correct, of_set)
        for name in sorted(set(names.tolist()))
        if (of_set := (names == name) & evaluation.known).any()
    }


def select_names(names: Sequence[str], flags: Flags) -> list[str]:
    """Names whose flag is set."""
    return [name for name, flag in zip(names, flags, strict=True) if flag]


def warnings(evaluation: Evaluation) -> list[str]:
    """Sentences on what biases the metrics or is excluded from them."""
    known = evaluation.known
    chance = classification.chance_warning(
        evaluation.labels[known], evaluation.predicted[known], evaluation.predictor.classes
    )
    return [
        *([chance] if chance else []),
        *_overlap_warnings(evaluation),
        *_unknown_class_warnings(evaluation),
        *_crop_warnings(evaluation),
        *_calibration_warnings(evaluation),
    ]


def notes(evaluation: Evaluation) -> list[str]:
    """Sentences on the intervals, and on missing classes and files."""
    sentences = [intervals_sentence(evaluation.clusters[evaluation.known])]
    hand_input = evaluation.predictor.hands
    if hand_input is not None and evaluation.hands is not None:
        hand_count = int(evaluation.hands.sum())
        sentences.append(f"{hand_input.summary(hand_count, len(evaluation.hands)).capitalize()}.")
    if evaluation.overlap.unknown:
        sentences.append(
            "It is not known whether the network was trained on some of these images: "
            f"{evaluation.overlap.unknown.rstrip('.')}."
        )
    missing = [
        name
        for position, name in enumerate(evaluation.predictor.classes)
        if position not in evaluation.shared
    ]
    if missing:
        sentences.append(
            f"No image shows {counted(len(missing), 'class')} of the "
            f"{len(evaluation.predictor.classes)} that the network knows: {named(missing)}."
        )
    if evaluation.index.excluded:
        sentences.append(
            f"{counted(len(evaluation.index.excluded), 'file')} could not be used: see files.csv."
        )
    if evaluation.robustness is not None:
        sentences += evaluation.robustness.remarks
    return sentences


def _overlap_warnings(evaluation: Evaluation) -> Iterator[str]:
    trained, selected = (
        int(flags[evaluation.rows].sum())
        for flags in (evaluation.overlap.trained_on, evaluation.overlap.selected_on)
    )
    total = len(evaluation.rows)
    if trained:
        were = "was" if trained == 1 else "were"
        yield (
            f"{trained:,} of these {counted(total, 'image')} {were} trained on: the metrics are "
            "too optimistic. unseen=true leaves them out."
        )
    if selected:
        yield (
            f"{selected:,} of these {counted(total, 'image')} belong to the validation subset, "
            "which selected the checkpoint and the temperature."
        )


def _unknown_class_warnings(evaluation: Evaluation) -> Iterator[str]:
    unknown = ~evaluation.known
    count = int(unknown.sum())
    if not count:
        return
    names = sorted(set(select_names(evaluation.class_names, unknown)))
    rejected = Proportion.of(~evaluation.accepted[unknown])
    outcome = f"{percent(rejected.value)} of them would be rejected"
    yield (
        f"{counted(count, 'image')} of {counted(len(names), 'class')} that the network does "
        f"not know ({named(names)}) are excluded from all accuracies. {outcome}."
    )


def _crop_warnings(evaluation: Evaluation) -> Iterator[str]:
    """Say where the network was trained on crops and sees whole images, or the reverse."""
    trained = evaluation.predictor.crops
    if trained is None:
        return
    cropped_share = evaluation.index.cropped / len(evaluation.index)
    if trained.share > CROPPED and cropped_share < 1 - CROPPED:
        yield (
            f"The network was trained on images cropped to a box ({percent(trained.share)} of "
            f"them), but {percent(1 - cropped_share)} of the images here are whole, with smaller "
            "hands: the metrics are of another task. Give their boxes, e.g. data.boxes=FILE."
        )
    elif trained.share < 1 - CROPPED and cropped_share > CROPPED:
        yield (
            f"{percent(cropped_share)} of the images here are cropped to a box, but the network "
            "was trained on whole images: the metrics are of another task. data.boxes=none takes "
            "them whole."
        )
    elif trained.share > CROPPED and trained.margin != evaluation.box_margin:
        yield (
            f"The crops have a margin of {evaluation.box_margin:g} of the box; the network was "
            f"trained with {trained.margin:g}: data.box_margin={trained.margin:g} gives the same."
        )


def _calibration_warnings(evaluation: Evaluation) -> Iterator[str]:
    calibration = evaluation.calibration
    if evaluation.predictor.calibration is None and not calibration.images:
        yield (
            "The network is not calibrated: confidence is its raw softmax, and "
            f"{calibration.threshold} stands in for a reject threshold."
        )
    elif calibration.reject_threshold is None:
        yield (
            f"No reject threshold was fitted: {calibration.no_threshold}. "
            f"{calibration.threshold} stands in."
        )
    elif (
        evaluation.precision.total
        and evaluation.precision.interval is not None
        and evaluation.precision.interval[1] < calibration.wanted_precision
    ):
        yield (
            f"The threshold was fitted to a precision of {percent(calibration.wanted_precision)} "
            f"of the accepted images; here it is {percent(evaluation.precision.value)}: these "
            "images differ from the training images, and the confidence is not reliable on them."
        )
    if evaluation.predictor.facts.get("protocol") == "validation=fold":
        yield (
            "The run's test fold also selected its checkpoint and fitted its calibration "
            "(validation=fold): on these images all figures of confidence are in-sample."
        )
    if calibration.source == OF_STUDY:
        yield (
            f"Temperature and threshold were fitted on {OF_STUDY}: on images of that data set, "
            "figures of confidence are in-sample; the card of the bundle has cross-fitted ones."
        )
