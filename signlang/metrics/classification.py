"""Classification metrics: accuracy, F1, calibration error, risk-coverage, confusion matrix, recall.

scikit-learn takes a second to import, so the function that needs it imports it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.arrays import Flags, Floats, Ints
from signlang.data.index import Clusters
from signlang.metrics.significance import Interval, clustered_interval, wilson_interval

SMALLEST_PROBABILITY: Final = 1e-300  # lower bound, so that the logarithm is finite


@dataclass(frozen=True, eq=False)
class Reliability:
    """Data of a reliability diagram.

    Attributes:
        edges: (bins + 1,) edges of the bins, from 0 to 1.
        count: (bins,) images in each bin.
        confidence: (bins,) their mean confidence, nan in an empty bin.
        accuracy: (bins,) share of them that is right, nan in an empty bin.
        error: Expected calibration error, from 0 to 1.
    """

    edges: Floats
    count: npt.NDArray[np.int64]
    confidence: Floats
    accuracy: Floats
    error: float


def reliability_diagram(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15
) -> Reliability:
    """Confidence against accuracy by bin (Guo et al. 2017, arXiv 1706.04599, section 2).

    Bins are of equal width and closed on the right; a confidence of 0 belongs to the first. The
    error is the sum over bins of count / n * |accuracy - confidence|.

    Args:
        confidence: (n,) highest probability of each image, from 0 to 1.
        correct: (n,) truth values, whether that class was the right one.
        bins: Number of bins.

    Raises:
        ValueError: With no images, different lengths, or a confidence outside 0 to 1.

    >>> result = reliability_diagram([0.9, 0.8, 0.3], [True, False, True], bins=2)
    >>> result.count.tolist(), result.accuracy.tolist(), round(result.error, 4)
    ([1, 2], [1.0, 0.5], 0.4667)
    """
    scores, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if scores.ndim != 1:
        raise ValueError(f"Reliability needs images, not {scores.shape} and {right.shape}.")
    count, score_sums, hits = _bin_sums(scores, right, bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the nan of an empty bin
        means, accuracy = score_sums / count, hits / count
    error = float(np.abs(hits - score_sums).sum() / len(scores))
    return Reliability(_edges(bins), count, means, accuracy, error)


def expected_calibration_error(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15
) -> Floats:
    """The error of `reliability_diagram`, of many networks at once.

    Args:
        confidence: (..., n) highest probability of each image, from 0 to 1.
        correct: (..., n) truth values, whether that class was the right one.
        bins: Number of bins.

    Returns:
        (...) errors.

    Raises:
        ValueError: As `reliability_diagram`.

    >>> errors = expected_calibration_error([[0.9, 0.75], [1, 1]], [[True, False], [True, True]])
    >>> errors.round(3).tolist()
    [0.425, 0.0]
    """
    scores, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    _, score_sums, hits = _bin_sums(scores, right, bins)
    return np.asarray(np.abs(hits - score_sums).sum(-1) / scores.shape[-1])


def _edges(bins: int) -> Floats:
    return np.arange(bins + 1) / bins


def _bin_sums(scores: Floats, right: Flags, bins: int) -> tuple[Ints, Floats, Floats]:
    """(..., bins) number of images, sum of their confidence, and number of those that are right."""
    if scores.shape != right.shape or not scores.size:
        raise ValueError(f"Reliability needs images, not {scores.shape} and {right.shape}.")
    if not ((scores >= 0) & (scores <= 1 + 1e-6)).all():  # a softmax in 32 bits may round above 1
        raise ValueError("A confidence lies outside 0 to 1; give probabilities, not logits.")
    if bins < 1:
        raise ValueError(f"bins={bins} must be 1 or more.")
    index = np.clip(np.searchsorted(_edges(bins), scores, side="left") - 1, 0, bins - 1)
    shape = (*scores.shape[:-1], bins)
    total_bins = math.prod(shape)
    # each network has bins of its own
    index = (index.reshape(-1, scores.shape[-1]) + np.arange(0, total_bins, bins)[:, None]).ravel()
    count, score_sums, hits = (
        np.bincount(index, weights, total_bins).reshape(shape)
        for weights in (None, scores.ravel(), right.ravel())
    )
    return count, score_sums, hits


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Selective prediction, from the strictest threshold to the laxest.

    Attributes:
        threshold: (k,) falling confidences; images with at least it are accepted.
        accepted: (k,) how many these are.
        coverage: (k,) their share of all.
        risk: (k,) share of them that is wrong.
    """

    threshold: Floats
    accepted: npt.NDArray[np.int64]
    coverage: Floats
    risk: Floats


def risk_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> RiskCoverage:
    """Error rate among the accepted images by threshold (Geifman and El-Yaniv 2017, section 2).

    Images of equal confidence are accepted together.

    Args:
        confidence: (n,) highest probability of each image.
        correct: (n,) truth values.

    Raises:
        ValueError: With no images, different lengths, or a confidence that is not finite.

    >>> curve = risk_coverage([0.9, 0.8, 0.8, 0.6], [True, True, False, True])
    >>> curve.threshold.tolist(), curve.coverage.tolist(), curve.risk.round(2).tolist()
    ([0.9, 0.8, 0.6], [0.25, 0.75, 1.0], [0.0, 0.33, 0.25])
    """
    scores, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if scores.ndim != 1 or scores.shape != right.shape or not len(scores):
        raise ValueError(f"Thresholds need images, not {scores.shape} and {right.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("A confidence is not a finite number.")
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    is_last = np.append(falling[1:] != falling[:-1], True)  # of each run of equal confidences
    accepted = np.flatnonzero(is_last) + 1
    wrong = np.cumsum(~right[order])[is_last]
    return RiskCoverage(falling[is_last], accepted, accepted / len(scores), wrong / accepted)


@dataclass(frozen=True)
class Proportion:
    """Number of images with a property (for instance recognised) out of a total.

    Attributes:
        count: Images with the property.
        total: All images.
        interval: 95 % interval of the share, see `clustered_interval`; None if it is not known.
    """

    count: int
    total: int
    interval: Interval | None = None

    @classmethod
    def of(cls, flags: Flags, clusters: Clusters | None = None) -> "Proportion":
        """Count the images that are marked.

        Args:
            flags: (n,) truth values.
            clusters: (n,) which of these images are alike; None takes them for independent.
        """
        names = None if clusters is None else clusters.names
        return cls(int(flags.sum()), len(flags), clustered_interval(flags, names))

    @property
    def value(self) -> float:
        """The share, nan of no images."""
        return self.count / self.total if self.total else float("nan")


def classification_metrics(probabilities: Floats, labels: Ints) -> dict[str, float]:
    """Accuracy, macro F1, loss and calibration error.

    Args:
        probabilities: (n, classes), n of 1 or more.
        labels: (n,) positions of the true classes.

    >>> probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    >>> metrics = classification_metrics(probabilities, np.array([0, 1]))
    >>> metrics["accuracy"], metrics["macro_f1"], round(metrics["loss"], 4)
    (0.5, 0.5, 0.6547)
    """
    predicted = probabilities.argmax(1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": macro_f1(labels, predicted),
        "loss": float(cross_entropy(probabilities, labels)),
        "calibration_error": reliability_diagram(probabilities.max(1), predicted == labels).error,
    }


def of_class(table: Floats, classes: Ints) -> Floats:
    """(..., n) of each row of (..., n, classes) what it holds of one class.

    Args:
        table: (..., n, classes).
        classes: (n,) or (..., n) positions of those classes.

    >>> of_class(np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 1])).tolist()
    [0.9, 0.7]
    """
    rows = table.reshape(-1, table.shape[-1])
    columns = np.broadcast_to(classes, table.shape[:-1]).ravel()
    values: Floats = rows[np.arange(len(rows)), columns].reshape(table.shape[:-1])
    return values


def cross_entropy(probabilities: Floats, labels: Ints) -> Floats:
    """(...) mean of -log p(true class), from (..., n, classes) probabilities and (n,) labels."""
    true_probabilities = np.maximum(of_class(probabilities, labels), SMALLEST_PROBABILITY)
    return np.asarray(-np.log(true_probabilities).mean(-1))


def macro_f1(labels: Ints, predicted: Ints) -> float:
    """Mean F1 of the classes that have images.

    A class without images has no recall; it counts through the images that are predicted as it.
    """
    length = int(max(labels.max(), predicted.max())) + 1
    support, predicted_counts = (
        np.bincount(values, minlength=length) for values in (labels, predicted)
    )
    hits = np.bincount(labels[labels == predicted], minlength=length)
    return float((2 * hits[support > 0] / (support + predicted_counts)[support > 0]).mean())


def restrict_to_classes(probabilities: Floats, classes: Sequence[int]) -> Floats:
    """(n, len(classes)) probabilities, renormalized over some of the classes.

    >>> restrict_to_classes(np.array([[0.6, 0.3, 0.1]]), [1, 2]).round(2).tolist()
    [[0.75, 0.25]]
    """
    kept = np.maximum(probabilities[:, list(classes)], SMALLEST_PROBABILITY)
    shares: Floats = kept / kept.sum(1, keepdims=True)
    return shares


def rows_by_name(names: Iterable[str]) -> dict[str, list[int]]:
    """Rows of each name, in the order in which the names come first.

    >>> rows_by_name(["b", "a", "b"])
    {'b': [0, 2], 'a': [1]}
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows


def accuracy_by_group(
    names: Iterable[str], correct: Flags, clusters: Clusters | None = None
) -> dict[str, Proportion]:
    """Accuracy of each group of images, the worst first, then the largest.

    >>> shares = accuracy_by_group(["a", "b", "b"], np.array([True, False, True]))
    >>> [(name, share.count, share.total) for name, share in shares.items()]
    [('b', 1, 2), ('a', 1, 1)]
    """
    accuracies = {
        name: Proportion.of(correct[rows], None if clusters is None else clusters[rows])
        for name, rows in rows_by_name(names).items()
    }
    return dict(
        sorted(accuracies.items(), key=lambda item: (item[1].value, -item[1].total, item[0]))
    )


def most_frequent(positions: Ints, names: Sequence[str]) -> tuple[str, int]:
    """The most frequent name and its count; an empty name and 0 for no images.

    >>> most_frequent(np.array([1, 1, 0]), ["A", "B"])
    ('B', 2)
    """
    if not len(positions):
        return "", 0
    counts = np.bincount(positions, minlength=len(names))
    best = int(counts.argmax())
    return names[best], int(counts[best])


def as_json(share: Proportion) -> dict[str, Any]:
    """A share with its interval, for `metrics.json`; null where it is not known."""
    low, high = (round(end, 6) for end in share.interval) if share.interval else (None, None)
    return {
        "share": round(share.value, 6) if share.total else None,
        "low": low, "high": high, "count": share.count, "of": share.total,
    }  # fmt: skip


MOST: Final = 0.5  # of the predictions are one class
OVER: Final = 1.5  # times the share of that class in the images, which alone may be most of them


def chance_warning(labels: Ints, predicted: Ints, names: Sequence[str]) -> str:
    """Say that a network is no better than chance, or that it mostly predicts one class.

    Guesses are independent of each other even where images are alike, so the interval (Wilson 1927)
    takes them so.

    Args:
        labels: (n,) positions of the true classes.
        predicted: (n,) positions of the predicted ones.
        names: Of the classes among which the network chooses.

    Returns:
        At most two sentences; empty where neither holds, and with fewer than two classes.

    >>> chance_warning(np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 0, 1, 2]), ("A", "B", "C"))
    ''
    >>> dead = chance_warning(np.array([0, 1, 2] * 9), np.array([1] * 27), ("A", "B", "C"))
    >>> print(dead)  # doctest: +NORMALIZE_WHITESPACE
    No better than chance: 9 of 27 images are recognised (95 % interval as of independent guesses
    0.1864 to 0.5218), guessing among 3 classes gives 0.3333.
    It predicts B for 27 of 27 images, of which 9 show it.
    """
    if len(names) < 2 or not len(labels):
        return ""
    sentences = []
    right, chance = int((labels == predicted).sum()), 1 / len(names)
    low, high = wilson_interval(right, len(labels))
    if low <= chance:
        sentences.append(
            f"No better than chance: {right:,} of {len(labels):,} images are recognised (95 % "
            f"interval as of independent guesses {low:.4f} to {high:.4f}), guessing among "
            f"{len(names)} classes gives {chance:.4f}."
        )
    name, predicted_count = most_frequent(predicted, names)
    true_count = int((labels == names.index(name)).sum())
    if predicted_count > MOST * len(predicted) and predicted_count >= OVER * true_count:
        sentences.append(
            f"It predicts {name} for {predicted_count:,} of {len(predicted):,} images, of which "
            f"{true_count:,} show it."
        )
    return " ".join(sentences)


def confusion_counts(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """(classes, classes) confusion matrix: rows are true classes, columns predicted ones.

    >>> confusion_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    cells = labels * classes + predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for images that the networks were not trained on.

    Attributes:
        classes: Names.
        paths: One per image, relative to the data set.
        labels: (n,) positions in `classes`.
        probabilities: (n, classes).
        folds: (n,) fold in which each image was tested.
        signers: Signer of each image; None if unknown.
        clusters: (n,) which images are alike; None takes them for independent.
        sets: (n,) the data set of each image; None where there is one only.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Ints
    probabilities: Floats
    folds: Ints
    signers: tuple[str, ...] | None
    clusters: Clusters | None = None
    sets: tuple[str, ...] | None = None

    @cached_property
    def predicted(self) -> Ints:
        """(n,) the most probable class."""
        best: Ints = self.probabilities.argmax(1)
        return best

    @cached_property
    def confidence(self) -> Floats:
        """(n,) its probability."""
        highest: Floats = self.probabilities.max(1)
        return highest

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(n,) whether the image was recognised."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right

    @cached_property
    def chance_warning(self) -> str:
        """See `chance_warning`."""
        return chance_warning(self.labels, self.predicted, self.classes)

    @cached_property
    def accuracy(self) -> Proportion:
        """The images that were recognised."""
        return Proportion.of(self.correct, self.clusters)

    @classmethod
    def concatenate(cls, folds: Sequence["Predictions"]) -> "Predictions":
        """Concatenate the predictions of several folds."""
        first = folds[0]
        signers, sets = [fold.signers for fold in folds], [fold.sets for fold in folds]
        clusters = [fold.clusters for fold in folds if fold.clusters is not None]
        return cls(
            first.classes,
            _concatenate_texts(tuple(fold.paths for fold in folds)),
            np.concatenate([fold.labels for fold in folds]),
            np.concatenate([fold.probabilities for fold in folds]),
            np.concatenate([fold.folds for fold in folds]),
            None if None in signers else _concatenate_texts(tuple(fold or () for fold in signers)),
            _concatenate_clusters(tuple(clusters)) if len(clusters) == len(folds) else None,
            None if None in sets else _concatenate_texts(tuple(names or () for names in sets)),
        )


# the settings of a study share the images of their folds, of which there may be a million
@lru_cache(maxsize=4)
def _concatenate_texts(folds: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    return tuple(chain.from_iterable(folds))


@lru_cache(maxsize=4)
def _concatenate_clusters(folds: tuple[Clusters, ...]) -> Clusters:
    return Clusters.concatenate(folds)


@dataclass(frozen=True)
class Confusion:
    """A pair of confused classes.

    Attributes:
        label: The true class.
        predicted: The predicted class.
        count: Images confused this way.
        share: Their share of the images of the true class.
    """

    label: str
    predicted: str
    count: int
    share: float


def confusion_matrix(predictions: Predictions) -> Ints:
    """(classes, classes) confusion matrix: rows are true classes, columns predicted ones."""
    return confusion_counts(predictions.labels, predictions.predicted, len(predictions.classes))


def confusions(predictions: Predictions, most: int = 12) -> list[Confusion]:
    """The most frequent mistakes, the most frequent first."""
    counts = confusion_matrix(predictions)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    return [
        Confusion(
            predictions.classes[row], predictions.classes[column], int(wrong[row, column]),
            float(wrong[row, column] / counts[row].sum()),
        )
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]  # fmt: skip


def recalls(predictions: Predictions) -> dict[str, Proportion]:
    """Recall of each class, the worst first; classes without images come first."""
    shares = {}
    for label, name in enumerate(predictions.classes):
        rows = np.flatnonzero(predictions.labels == label)
        clusters = None if predictions.clusters is None else predictions.clusters[rows]
        shares[name] = Proportion.of(predictions.correct[rows], clusters)
    return dict(sorted(shares.items(), key=lambda item: item[1].count / max(item[1].total, 1)))


def accuracy_by_set(predictions: Predictions) -> dict[str, Proportion]:
    """Accuracy on each data set, in the order of their names; empty where there is one only."""
    if predictions.sets is None:
        return {}
    sets, shares = np.array(predictions.sets), {}
    for name in sorted(set(predictions.sets)):
        rows = np.flatnonzero(sets == name)
        clusters = None if predictions.clusters is None else predictions.clusters[rows]
        shares[name] = Proportion.of(predictions.correct[rows], clusters)
    return shares


def most_confident_mistakes(predictions: Predictions, most: int = 18) -> Ints:
    """Rows of the wrong predictions with the highest confidence, in falling order."""
    wrong = np.flatnonzero(~predictions.correct)
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    return wrong[order][:most].astype(np.int64)


def per_class_accuracy(labels: Ints, predicted: Ints, classes: tuple[str, ...]) -> dict[str, float]:
    """Share of the images of each class that was recognised; classes without images left out.

    >>> per_class_accuracy(np.array([0, 0, 1]), np.array([0, 1, 1]), ("A", "B"))
    {'A': 0.5, 'B': 1.0}
    """
    from sklearn.metrics import recall_score

    present = np.unique(labels)
    shares = recall_score(labels, predicted, labels=present, average=None)
    return {
        classes[label]: round(float(share), 6) for label, share in zip(present, shares, strict=True)
    }
