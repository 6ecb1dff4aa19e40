"""Calibration of probabilities: temperature scaling, risk-coverage and the reject threshold.

Temperature and threshold are fitted on the validation subset; the test subset only measures them.
Nothing here needs torch.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from signlang.arrays import Floats
from signlang.console import log
from signlang.constraints import Index, Positive, Probability, Strict, validated
from signlang.errors import RunError
from signlang.files import write_json
from signlang.metrics.classification import SMALLEST_PROBABILITY, reliability_diagram

ROUNDING: Final = 1e-9  # of images: 100 * (1 - 0.99) is one of them


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
    last = np.append(falling[1:] != falling[:-1], True)  # of each run of equal confidences
    accepted = np.flatnonzero(last) + 1
    wrong = np.cumsum(~right[order])[last]
    return RiskCoverage(falling[last], accepted, accepted / len(scores), wrong / accepted)


def reject_threshold(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, wanted_precision: float
) -> float | None:
    """The lowest threshold at which the accepted images reach the wanted precision.

    Fewer than 1 / (1 - wanted_precision) images, 100 for 0.99, cannot distinguish that precision
    from 1, so at least as many must be accepted. The estimate is used, not its lower bound:
    Wilson's (95 %) needs 381 images without a mistake for 0.99, more than the validation subset of
    a small data set has, and an estimated threshold is better than none. It guarantees nothing: the
    precision has to be measured on other images.

    Args:
        confidence: (n,) highest probability of each image.
        correct: (n,) truth values.
        wanted_precision: Between 0 and 1.

    Returns:
        A confidence that occurs, or None if no threshold reaches the precision.

    Raises:
        ValueError: As `risk_coverage`.

    >>> reject_threshold([0.9] * 10 + [0.6] * 5, [True] * 10 + [False] * 5, 0.9)
    0.9
    >>> reject_threshold([0.9] * 9, [True] * 9, 0.9) is None  # too few
    True
    """
    curve = risk_coverage(confidence, correct)
    allowed = curve.accepted * (1 - wanted_precision) + ROUNDING
    enough = (curve.risk * curve.accepted <= allowed) & (allowed >= 1)
    return float(curve.threshold[enough].min()) if enough.any() else None


def accepted(confidence: Floats, threshold: float | None) -> npt.NDArray[np.bool_]:
    """(n,) which images are accepted; all, where there is no threshold."""
    low = -math.inf if threshold is None else threshold
    return np.asarray(confidence >= low, dtype=np.bool_)


LabeledProbabilities = tuple[Floats, npt.NDArray[np.int64]]  # probabilities and labels
FILE: Final = "calibration.json"
BOUNDS: Final = (0.01, 100.0)  # of a temperature; beyond, confidence is 0 or 1 to six digits anyway
TOLERANCE: Final = 1e-6  # of a threshold: a softmax in 32 bits, and our files, are no finer


@dataclass(frozen=True)
class Calibration:
    """Temperature and reject threshold of a network.

    Attributes:
        temperature: Logits are divided by it; 1 changes nothing.
        wanted_precision: Share of the accepted images that should be right.
        reject_threshold: Lowest confidence, after the temperature, of an accepted image; None
            where no threshold reaches the wanted precision.
        images: Validation images that it was fitted on; 0 where that is not known.
        test_error: Calibration error of the test fold, `before` and `after`; empty where it was
            not measured.
    """

    temperature: float = 1.0
    wanted_precision: float = 0.99
    reject_threshold: float | None = None
    images: int = 0
    test_error: Mapping[str, float] = field(default_factory=dict, compare=False)


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017, arXiv 1706.04599, 4.2).

    The loss is convex in 1 / T, so it has one optimum, which is searched between 0.01 and 100.
    If every image is predicted correctly there is none: every lower T is better. T is then lowered
    below 1 only until the mean confidence is (n + 1) / (n + 2), the accuracy that Laplace's rule of
    succession expects after n correct predictions in a row.

    Args:
        logits: (n, classes); a constant added to a row changes nothing.
        labels: (n,) positions of the true classes.

    Raises:
        ValueError: With no images, different lengths, or logits that are not finite.

    >>> round(fit_temperature([[2.0, 0.0]] * 4, [0, 0, 0, 1]), 3)  # 2 / T = log 3
    1.82
    >>> round(fit_temperature([[9.0, 0.0], [0.0, 9.0]], [0, 1]), 3)  # no mistake: T stays
    1.0
    """
    from scipy import optimize  # type: ignore[import-untyped,unused-ignore]

    rows, true = _checked(logits, labels)
    rows = rows - rows.max(1, keepdims=True)

    def loss(log_t: float) -> float:
        return _cross_entropy(rows, true, math.exp(log_t))

    optimum = optimize.minimize_scalar(
        loss,
        bounds=(math.log(BOUNDS[0]), math.log(BOUNDS[1])),
        method="bounded",
        options={"xatol": 1e-7},
    )
    # where margins are huge, the loss is 0 to the last digit over a wide range around 1
    best = math.exp(float(optimum.x)) if optimum.fun < loss(0.0) else 1.0
    return max(best, _lowest_temperature(rows))


def _cross_entropy(rows: Floats, true: npt.NDArray[np.int64], temperature: float) -> float:
    """Mean of -log p(true class); the highest logit of each row is 0."""
    scaled = rows / temperature
    return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(true)), true]).mean())


def _lowest_temperature(rows: Floats) -> float:
    """The temperature, at most 1, at which the mean confidence is (n + 1) / (n + 2)."""
    from scipy import optimize

    expected = (len(rows) + 1) / (len(rows) + 2)

    def excess(log_t: float) -> float:
        return float((1 / np.exp(rows / math.exp(log_t)).sum(1)).mean()) - expected

    lowest = math.log(BOUNDS[0])
    if excess(0.0) >= 0:
        return 1.0
    if excess(lowest) <= 0:
        return BOUNDS[0]
    return math.exp(float(optimize.brentq(excess, lowest, 0.0)))


def logits_of(probabilities: npt.ArrayLike) -> Floats:
    """Logarithms of probabilities: logits up to a constant per row."""
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY))


def apply_temperature(probabilities: npt.ArrayLike, temperature: float) -> Floats:
    """Softmax of the logits divided by the temperature.

    Args:
        probabilities: (n, classes).
        temperature: Above 0; the order of the classes stays.

    >>> apply_temperature([[0.9, 0.1]], 2.0).round(3).tolist()
    [[0.75, 0.25]]
    """
    scaled = logits_of(probabilities) / temperature
    raised = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: Floats = raised / raised.sum(1, keepdims=True)
    return shares


def fit_calibration(
    probabilities: Floats, labels: npt.NDArray[np.int64], wanted_precision: float
) -> Calibration:
    """Fit temperature and threshold on validation images.

    Args:
        probabilities: (n, classes) of the validation subset, uncalibrated.
        labels: (n,) positions of the true classes.
        wanted_precision: Between 0 and 1.

    Raises:
        ValueError: As `fit_temperature`.
    """
    temperature = round(fit_temperature(logits_of(probabilities), labels), 6)
    now = apply_temperature(probabilities, temperature)
    threshold = reject_threshold(now.max(1), now.argmax(1) == labels, wanted_precision)
    if threshold is not None:
        threshold = round(min(math.floor(threshold / TOLERANCE), 1 / TOLERANCE - 1) * TOLERANCE, 6)
    return Calibration(temperature, wanted_precision, threshold, len(now))


def summary(
    calibration: Calibration, outputs: Mapping[str, LabeledProbabilities]
) -> dict[str, Any]:
    """Content of `calibration.json`: the calibration and its effect on each subset.

    Args:
        calibration: Fitted on the validation subset.
        outputs: By subset, (n, classes) uncalibrated probabilities and (n,) labels.
    """
    measured = {
        subset: calibration_errors(calibration, *output) for subset, output in outputs.items()
    }
    return {
        "temperature": calibration.temperature,
        "wanted_precision": calibration.wanted_precision,
        "reject_threshold": calibration.reject_threshold,
        "images": calibration.images,
        **{
            name: {subset: errors[name] for subset, errors in measured.items()}
            for name in ("calibration_error", "coverage", "precision")
        },
    }


def calibration_errors(
    calibration: Calibration, probabilities: Floats, labels: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Calibration error before and after, and coverage and precision at the threshold, or None."""
    now = apply_temperature(probabilities, calibration.temperature)
    correct = probabilities.argmax(1) == labels
    kept = accepted(now.max(1), calibration.reject_threshold)
    known = calibration.reject_threshold is not None
    errors = [reliability_diagram(p.max(1), correct).error for p in (probabilities, now)]
    return {
        "calibration_error": {"before": round(errors[0], 6), "after": round(errors[1], 6)},
        "coverage": round(float(kept.mean()), 6) if known else None,
        "precision": round(float(correct[kept].mean()), 6) if known and kept.any() else None,
    }


def write_calibration(
    run: Path, outputs: Mapping[str, LabeledProbabilities], wanted_precision: float
) -> None:
    """Fit on the validation subset, and write `calibration.json` into a run folder.

    Nothing is written for a network whose training diverged.

    Args:
        run: The run folder.
        outputs: Of the subsets `validation` and `test`.
        wanted_precision: Between 0 and 1.
    """
    if not all(np.isfinite(probabilities).all() for probabilities, _ in outputs.values()):
        log.warning("no %s: the network's outputs are not finite numbers", FILE)
        return
    calibration = fit_calibration(*outputs["validation"], wanted_precision)
    write_json(run / FILE, summary(calibration, outputs))


class CalibrationFile(Strict, extra="ignore"):
    """`calibration.json`, as far as it is read again."""

    temperature: Positive
    wanted_precision: Probability
    reject_threshold: Probability | None
    images: Index
    calibration_error: dict[str, dict[str, Probability]] = Field(default={})


def read_calibration(run: Path) -> Calibration | None:
    """Read `calibration.json` of a run folder; None where there is none.

    Raises:
        RunError: If it is damaged.
    """
    file, fix = run / FILE, "Delete it, or calibrate again."
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}). {fix}") from None
    found = validated(CalibrationFile, content, error=RunError, before=str(file), fix=fix)
    values = found.model_dump(exclude={"calibration_error"})
    return Calibration(**values, test_error=found.calibration_error.get("test", {}))


def _checked(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64]]:
    rows, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if rows.ndim != 2 or true.shape != rows.shape[:1] or not len(rows):
        raise ValueError(f"A temperature needs images, not {rows.shape} and {true.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError("A logit is not a finite number.")
    return rows, true
