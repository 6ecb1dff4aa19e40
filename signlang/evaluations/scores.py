"""Probabilities and labels come in; the figures of an evaluation go out. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from signlang.confidence.calibration import TINIEST
from signlang.confidence.reliability import reliability_diagram
from signlang.studies.statistics import wilson

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Share:
    """How many of some pictures have a property, e.g. were recognised.

    Attributes:
        count: Those that have it.
        total: All of them.
    """

    count: int
    total: int

    @classmethod
    def of(cls, flags: Flags) -> "Share":
        """Count the pictures that are marked."""
        return cls(int(flags.sum()), len(flags))

    @property
    def value(self) -> float:
        """The share, nan of no pictures."""
        return self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval (Wilson 1927), which takes pictures for independent."""
        return wilson(self.count, self.total)


def figures(probabilities: Floats, labels: Ints) -> dict[str, float]:
    """Accuracy, macro F1, loss and calibration error.

    Args:
        probabilities: (n, classes), n of 1 or more.
        labels: (n,) positions of the true classes.

    >>> found = figures(np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]]), np.array([0, 1]))
    >>> found["accuracy"], found["macro_f1"], round(found["loss"], 4)
    (0.5, 0.5, 0.6547)
    """
    predicted = probabilities.argmax(1)
    of_truth = np.maximum(probabilities[np.arange(len(labels)), labels], TINIEST)
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": macro_f1(labels, predicted),
        "loss": float(-np.log(of_truth).mean()),
        "calibration_error": reliability_diagram(probabilities.max(1), predicted == labels).error,
    }


def macro_f1(labels: Ints, predicted: Ints) -> float:
    """Mean F1 of the classes that have pictures.

    A class without pictures has no recall; it counts through the pictures that are taken for it.
    """
    scores = []
    for one in np.unique(labels):
        is_one, said = labels == one, predicted == one
        scores.append(2 * int((is_one & said).sum()) / int(is_one.sum() + said.sum()))
    return float(np.mean(scores))


def among(probabilities: Floats, chosen: Sequence[int]) -> Floats:
    """(n, chosen) what the network would say if it had some of its classes only.

    >>> among(np.array([[0.6, 0.3, 0.1]]), [1, 2]).round(2).tolist()
    [[0.75, 0.25]]
    """
    left = np.maximum(probabilities[:, list(chosen)], TINIEST)
    shares: Floats = left / left.sum(1, keepdims=True)
    return shares


def groups(names: Iterable[str], correct: Flags) -> dict[str, Share]:
    """How many pictures of each group were recognised, the worst first, then the largest.

    >>> groups(["a", "b", "b"], np.array([True, False, True]))
    {'b': Share(count=1, total=2), 'a': Share(count=1, total=1)}
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    found = {name: Share.of(correct[members]) for name, members in rows.items()}
    return dict(sorted(found.items(), key=lambda item: (item[1].value, -item[1].total, item[0])))


def most_frequent(positions: Ints, names: Sequence[str]) -> tuple[str, int]:
    """What pictures were mostly taken for, and how many; nothing of no pictures.

    >>> most_frequent(np.array([1, 1, 0]), ["A", "B"])
    ('B', 2)
    """
    if not len(positions):
        return "", 0
    counts = np.bincount(positions, minlength=len(names))
    best = int(counts.argmax())
    return names[best], int(counts[best])


def as_json(share: Share) -> dict[str, Any]:
    """A share with its interval, for `metrics.json`."""
    low, high = share.interval
    return {
        "share": round(share.value, 6) if share.total else None,
        "low": round(low, 6), "high": round(high, 6),
        "count": share.count, "of": share.total,
    }  # fmt: skip
