"""Confidences come in, and whether each was right; how far they can be believed goes out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reliability:
    """What a reliability diagram shows.

    Attributes:
        edges: (bins + 1,) edges of the bins, from 0 to 1.
        count: (bins,) pictures in each bin.
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
    """How far confidence is from accuracy (Guo et al. 2017, arXiv 1706.04599, section 2).

    Bins are of equal width and closed on the right; a confidence of 0 belongs to the first. The
    error is the sum over bins of count / n * |accuracy - confidence|.

    Args:
        confidence: (n,) highest probability of each picture, from 0 to 1.
        correct: (n,) truth values, whether that class was the right one.
        bins: Number of bins.

    Raises:
        ValueError: With no pictures, different lengths, or a confidence outside 0 to 1.

    >>> result = reliability_diagram([0.9, 0.8, 0.3], [True, False, True], bins=2)
    >>> result.count.tolist(), result.accuracy.tolist(), round(result.error, 4)
    ([1, 2], [1.0, 0.5], 0.4667)
    """
    given, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if given.ndim != 1 or given.shape != right.shape or not len(given):
        raise ValueError(f"Reliability needs pictures, not {given.shape} and {right.shape}.")
    if not ((given >= 0) & (given <= 1 + 1e-6)).all():  # a softmax in 32 bits may round above 1
        raise ValueError("A confidence lies outside 0 to 1; give probabilities, not logits.")
    if bins < 1:
        raise ValueError(f"bins={bins} must be 1 or more.")
    edges = np.arange(bins + 1) / bins
    index = np.clip(np.searchsorted(edges, given, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    confidences = np.bincount(index, weights=given, minlength=bins)
    hits = np.bincount(index, weights=right, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the nan of an empty bin
        means, accuracy = confidences / count, hits / count
    error = float(np.abs(hits - confidences).sum() / len(given))
    return Reliability(edges, count, means, accuracy, error)
