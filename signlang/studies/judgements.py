"""Out-of-fold predictions come in; charts and lists of what was taken for what go out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from PIL import Image

from signlang.confidence.reliability import Reliability
from signlang.pages.drawing import BLUE, COLOURS, INK, dress, empty, plain
from signlang.pages.sheets import counts, matrix, sheet
from signlang.studies.predictions import Predictions
from signlang.studies.statistics import wilson

Ints = npt.NDArray[np.int64]
ORANGE: Final = COLOURS[1]
FEW: Final = 10  # pictures of a bin whose accuracy says little


@dataclass(frozen=True)
class Confusion:
    """One class taken for another.

    Attributes:
        label: The true class.
        predicted: What it was taken for.
        count: How often.
        share: Of the pictures of the true class.
    """

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Recall:
    """How well one class is recognised.

    Attributes:
        name: Of the class.
        correct: Pictures recognised.
        count: Pictures of it.
        low: Of the 95 % interval (Wilson 1927) of the share recognised.
        high: Likewise.
    """

    name: str
    correct: int
    count: int
    low: float
    high: float


def counted(judged: Predictions) -> Ints:
    """(classes, classes) pictures of the class of a row taken for that of a column."""
    return counts(judged.labels, judged.predicted, len(judged.classes))


def confusions(judged: Predictions, most: int = 12) -> list[Confusion]:
    """The most frequent mistakes, the most frequent first."""
    counts = counted(judged)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    return [
        Confusion(
            judged.classes[row], judged.classes[column], int(wrong[row, column]),
            float(wrong[row, column] / counts[row].sum()),
        )
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]  # fmt: skip


def recalls(judged: Predictions) -> list[Recall]:
    """How well each class is recognised, the worst first."""
    counts = counted(judged)
    found = [
        Recall(name, int(row[number]), int(row.sum()), *wilson(int(row[number]), int(row.sum())))
        for number, (name, row) in enumerate(zip(judged.classes, counts, strict=True))
    ]
    return sorted(found, key=lambda recall: recall.correct / max(recall.count, 1))


def worst(judged: Predictions, most: int = 18) -> Ints:
    """Rows of the pictures that were judged wrongly with the highest confidence, that first."""
    wrong = np.flatnonzero(~judged.correct)
    order = np.argsort(-judged.confidence[wrong], kind="stable")
    return wrong[order][:most].astype(np.int64)


def confusion_chart(judged: Predictions) -> Figure:
    """Draw what was taken for what."""
    return matrix(counted(judged), judged.classes)


def reliability_chart(found: Reliability) -> Figure:
    """Draw accuracy against confidence, above a histogram of the confidences."""
    figure = empty(5.4, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    middle, width = (found.edges[:-1] + found.edges[1:]) / 2, np.diff(found.edges)
    for panel in (upper, lower):
        dress(panel)
    look = {"edgecolor": "white", "linewidth": 1.0}
    for pictures, shade, label in (
        (found.count >= FEW, "#7da7d4", "accuracy"),
        (
            (found.count > 0) & (found.count < FEW),
            "#b5cbe3",
            f"accuracy (fewer than {FEW} pictures)",
        ),
    ):
        if pictures.any():
            upper.bar(
                middle[pictures], found.accuracy[pictures], width[pictures], color=shade,
                label=label, **look,
            )  # fmt: skip
    upper.plot([0, 1], [0, 1], color=INK, linestyle="--", label="accuracy = confidence")
    upper.plot(
        found.confidence, found.accuracy, "o", color=ORANGE, markersize=5, markeredgecolor="white",
        label="mean confidence", zorder=3, clip_on=False,
    )  # fmt: skip
    upper.set_ylim(0, 1.03)
    upper.set_xlim(0, 1)
    upper.set_ylabel("accuracy")
    upper.set_title(f"calibration error {found.error:.4f}")
    lower.bar(middle, found.count, width, color=BLUE, **look)
    lower.set_yscale("log")
    lower.set_ylim(bottom=0.8)
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lower.yaxis.set_minor_formatter(NullFormatter())
    lower.set_ylabel("pictures")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=10)
    lower.set_xlabel("confidence")
    return figure


def mistakes_sheet(
    judged: Predictions, rows: Sequence[int], images: Sequence[Image.Image | None]
) -> Figure:
    """Draw wrongly judged pictures, each with what it is, what it was taken for, how surely.

    Args:
        judged: With the rows.
        rows: (M,) which ones.
        images: (M,) None for one that cannot be read any more.
    """
    titles = [
        f"is {plain(judged.classes[judged.labels[row]], 14)}\n"
        f"taken for {plain(judged.classes[judged.predicted[row]], 9)}\n"
        f"{percent(float(judged.confidence[row]))} sure"
        for row in rows
    ]
    return sheet([None if image is None else np.asarray(image) for image in images], titles)


def percent(share: float) -> str:
    """Write a share rounded down, so that only what is certain is 100 %.

    >>> percent(0.99996), percent(1.0), percent(0.57)
    ('99.9 %', '100.0 %', '57.0 %')
    """
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f} %"
