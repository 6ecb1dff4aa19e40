"""Confidences come in; the threshold below which a guess is better called unknown goes out.

Pure functions on arrays; which confidences they are given is a matter of `calibration`.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
ROUNDING: Final = 1e-9  # of pictures: 100 * (1 - 0.99) is one of them


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Selective prediction, from the strictest threshold to the laxest.

    Attributes:
        threshold: (k,) falling confidences; pictures with at least it are accepted.
        accepted: (k,) how many these are.
        coverage: (k,) their share of all.
        risk: (k,) share of them that is wrong.
    """

    threshold: Floats
    accepted: npt.NDArray[np.int64]
    coverage: Floats
    risk: Floats


def risk_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> RiskCoverage:
    """What is wrong among the accepted, for each threshold (Geifman and El-Yaniv 2017, section 2).

    Pictures of equal confidence are accepted together.

    Args:
        confidence: (n,) highest probability of each picture.
        correct: (n,) truth values.

    Raises:
        ValueError: With no pictures, different lengths, or a confidence that is not finite.

    >>> found = risk_coverage([0.9, 0.8, 0.8, 0.6], [True, True, False, True])
    >>> found.threshold.tolist(), found.coverage.tolist(), found.risk.round(2).tolist()
    ([0.9, 0.8, 0.6], [0.25, 0.75, 1.0], [0.0, 0.33, 0.25])
    """
    given, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if given.ndim != 1 or given.shape != right.shape or not len(given):
        raise ValueError(f"Thresholds need pictures, not {given.shape} and {right.shape}.")
    if not np.isfinite(given).all():
        raise ValueError("A confidence is not a finite number.")
    order = np.argsort(-given, kind="stable")
    falling = given[order]
    last = np.append(falling[1:] != falling[:-1], True)  # of each run of equal confidences
    accepted = np.flatnonzero(last) + 1
    wrong = np.cumsum(~right[order])[last]
    return RiskCoverage(falling[last], accepted, accepted / len(given), wrong / accepted)


def reject_threshold(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, wanted_precision: float
) -> float | None:
    """The lowest threshold whose accepted pictures are right as often as wanted.

    Fewer than 1 / (1 - wanted_precision) pictures, 100 for 0.99, cannot tell that share from 1, so
    as many must be accepted. A bound instead of the estimate is not asked for: Wilson's (95 %)
    takes 381 pictures without a mistake for 0.99, more than the validation part of a small data set
    has, and no threshold at all serves worse than one that is estimated. So it promises nothing:
    other pictures have to show how precise it is.

    Args:
        confidence: (n,) highest probability of each picture.
        correct: (n,) truth values.
        wanted_precision: Between 0 and 1.

    Returns:
        A confidence that occurs, or None if no threshold will do.

    Raises:
        ValueError: As `risk_coverage`.

    >>> reject_threshold([0.9] * 10 + [0.6] * 5, [True] * 10 + [False] * 5, 0.9)
    0.9
    >>> reject_threshold([0.9] * 9, [True] * 9, 0.9) is None  # too few
    True
    """
    found = risk_coverage(confidence, correct)
    allowed = found.accepted * (1 - wanted_precision) + ROUNDING
    enough = (found.risk * found.accepted <= allowed) & (allowed >= 1)
    return float(found.threshold[enough].min()) if enough.any() else None


def accepted(confidence: Floats, threshold: float | None) -> npt.NDArray[np.bool_]:
    """(n,) which pictures are accepted; all, where there is no threshold."""
    low = -math.inf if threshold is None else threshold
    return np.asarray(confidence >= low, dtype=np.bool_)
