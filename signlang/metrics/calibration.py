"""Calibration of probabilities: temperature scaling and the reject threshold.

Temperature and threshold are fitted on the validation subset, or cross-fitted over the folds of a
study; the test subset only measures them. Nothing here needs torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.arrays import Floats
from signlang.console import log
from signlang.files import write_json
from signlang.metrics.classification import (
    SMALLEST_PROBABILITY,
    cross_entropy,
    reliability_diagram,
    risk_coverage,
)

ROUNDING: Final = 1e-9  # of images: 100 * (1 - 0.99) is one of them


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


def images_needed(wanted_precision: float) -> int:
    """The fewest images that a reject threshold can be fitted on; see `reject_threshold`.

    >>> images_needed(0.99), images_needed(0.9)
    (100, 10)
    """
    return math.ceil((1 - ROUNDING) / (1 - wanted_precision))


def accepted(confidence: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """(n,) which images are accepted: those of at least the threshold."""
    return np.asarray(confidence >= threshold, dtype=np.bool_)


LabeledProbabilities = tuple[Floats, npt.NDArray[np.int64]]  # probabilities and labels
FILE: Final = "calibration.json"
BOUNDS: Final = (0.01, 100.0)  # of a temperature; beyond, confidence is 0 or 1 to six digits anyway
TOLERANCE: Final = 1e-6  # of a threshold: a softmax in 32 bits, and our files, are no finer


# in use where no threshold was fitted, by `predict`, `serve` and `evaluate` alike: below one half a
# guess is more likely wrong than right
FALLBACK_THRESHOLD: Final = 0.5
OF_RUN: Final = "the validation subset of the run"
OF_STUDY: Final = "the test folds of the study, each predicted by its own network"


@dataclass(frozen=True)
class Calibration:
    """Temperature and reject threshold of a network.

    Attributes:
        temperature: Logits are divided by it; 1 changes nothing.
        wanted_precision: Share of the accepted images that should be right.
        reject_threshold: Lowest confidence, after the temperature, of an accepted image; None
            where none could be fitted, see `no_threshold`.
        images: Images that it was fitted on; 0 where that is not known.
        kept: Whether the fitted temperature is used; without it, the temperature is 1.
        reason: Why it is, or why not; empty in files of before there was a rule.
        source: Which images those are, `OF_RUN` or `OF_STUDY`.
        test_error: Calibration error of the test fold, `before` and `after`; empty where it was
            not measured on images that the calibration was not fitted on.
        cross_fitted: Of a study, what `effects` finds on all folds, each by the other folds' fit.
    """

    temperature: float = 1.0
    wanted_precision: float = 0.99
    reject_threshold: float | None = None
    images: int = 0
    kept: bool = True
    reason: str = ""
    source: str = OF_RUN
    test_error: Mapping[str, float] = field(default_factory=dict, compare=False)
    cross_fitted: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def threshold(self) -> float:
        """The threshold in use: the fitted one, or `FALLBACK_THRESHOLD`."""
        return FALLBACK_THRESHOLD if self.reject_threshold is None else self.reject_threshold

    @property
    def no_threshold(self) -> str:
        """Why there is no fitted threshold; empty where there is one.

        >>> Calibration(images=33).no_threshold
        'too few images: 33, and at least 100 are needed for a precision of 99 %'
        >>> Calibration(images=500).no_threshold
        'none makes 99 % of the accepted images right (500 images)'
        """
        if self.reject_threshold is not None:
            return ""
        if not self.images:
            return "no images are known that it could be fitted on"
        wanted = f"{100 * self.wanted_precision:.6g} %"
        needed = images_needed(self.wanted_precision)
        if self.images < needed:
            return (
                f"too few images: {self.images}, and at least {needed} are needed for a precision "
                f"of {wanted}"
            )
        return f"none makes {wanted} of the accepted images right ({self.images} images)"


def fit_temperature(
    logits: npt.ArrayLike, labels: npt.ArrayLike, losses: Floats | None = None
) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017, arXiv 1706.04599, 4.2).

    The loss is convex in 1 / T, so it has one optimum, which is searched between 0.01 and 100.
    If every image is predicted correctly there is none: every lower T is better. T is then lowered
    below 1 only until the mean confidence is (n + 1) / (n + 2), the accuracy that Laplace's rule of
    succession expects after n correct predictions in a row.

    Args:
        logits: (n, classes); a constant added to a row changes nothing.
        labels: (n,) positions of the true classes.
        losses: What `grid_losses` makes of them, where it is known already.

    Raises:
        ValueError: With no images, different lengths, or logits that are not finite.

    >>> round(fit_temperature([[2.0, 0.0]] * 4, [0, 0, 0, 1]), 3)  # 2 / T = log 3
    1.82
    >>> round(fit_temperature([[9.0, 0.0], [0.0, 9.0]], [0, 1]), 3)  # no mistake: T stays
    1.0
    """
    from scipy import optimize  # type: ignore[import-untyped,unused-ignore]

    rows, true = _checked(logits, labels)
    of_true, scaled = rows[np.arange(len(true)), true], np.empty_like(rows)

    def loss(log_t: float) -> float:
        # the mean of `_losses` without its copies: it is called thousands of times
        temperature = math.exp(log_t)
        np.exp(np.divide(rows, temperature, out=scaled), out=scaled)
        losses = np.log(np.add.reduce(scaled, axis=1)) - of_true / temperature
        return float(np.add.reduce(losses) / len(losses))

    near = None if losses is None else LOG_GRID[losses.sum(0).argmin()]
    optimum = optimize.minimize_scalar(
        loss,
        bounds=LOG_BOUNDS if near is None else np.clip((near - STEP, near + STEP), *LOG_BOUNDS),
        method="bounded",
        options={"xatol": 1e-7},
    )
    # where margins are huge, the loss is 0 to the last digit over a wide range around 1
    best = math.exp(float(optimum.x)) if optimum.fun < loss(0.0) else 1.0
    return max(best, _lowest_temperature(rows))


def _losses(rows: Floats, true: npt.NDArray[np.int64], temperature: Any) -> Floats:
    """(n,) -log p(true class) at one temperature, or at one of each row, (n, 1)."""
    scaled = rows / temperature
    losses: Floats = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(true)), true]
    return losses


def grid_losses(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """(n, temperatures) -log p(true class) at each temperature of a grid.

    Rows of it serve every fit on some of the images.

    Args:
        logits: (n, classes).
        labels: (n,) positions of the true classes.

    Raises:
        ValueError: As `fit_temperature`.
    """
    rows, true = _checked(logits, labels)
    temperatures = np.exp(LOG_GRID)[:, None]
    losses = np.empty((len(rows), len(temperatures)))
    block = max(1, BLOCK // (len(temperatures) * rows.shape[1]))
    for start in range(0, len(rows), block):
        here = slice(start, start + block)
        own = rows[here]
        scaled = own[:, None] / temperatures
        of_true = own[np.arange(len(own)), true[here], None] / temperatures[:, 0]
        losses[here] = np.log(np.exp(scaled, out=scaled).sum(2)) - of_true
    return losses


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


STEP: Final = 0.1  # of log temperatures; a parabola finds the optimum between them
LOG_BOUNDS: Final = (math.log(BOUNDS[0]), math.log(BOUNDS[1]))
LOG_GRID: Final = STEP * np.arange(round(LOG_BOUNDS[0] / STEP), round(LOG_BOUNDS[1] / STEP) + 1)
BLOCK: Final = 2**16  # exponentials at once: what a core keeps at hand
ONE: Final = int(np.abs(LOG_GRID).argmin())  # where the temperature is 1


def leave_one_out_gains(
    logits: npt.ArrayLike, labels: npt.ArrayLike, losses: Floats | None = None
) -> Floats:
    """By how much the temperature that is fitted on all other images lowers the loss of each.

    The loss of every image is computed once at each temperature of a grid; the optimum without
    image i is the minimum of the column sums less row i. The lower bound is that of
    `fit_temperature`.

    Args:
        logits: (n, classes); a constant added to a row changes nothing.
        labels: (n,) positions of the true classes.
        losses: What `grid_losses` makes of them, where it is known already.

    Returns:
        (n,) -log p(true class) at temperature 1, less the same at the temperature of the others.

    Raises:
        ValueError: As `fit_temperature`.

    >>> leave_one_out_gains([[2.0, 0.0]] * 4, [0, 0, 0, 1]).round(2).tolist()
    [-0.28, -0.28, -0.28, 0.0]
    """
    rows, true = _checked(logits, labels)
    losses = grid_losses(rows, true) if losses is None else losses
    others = losses.sum(0) - losses
    image, best = np.arange(len(rows)), others.argmin(1).clip(1, len(LOG_GRID) - 2)
    before, at, after = (others[image, best + offset] for offset in (-1, 0, 1))
    curvature = before - 2 * at + after
    shift = np.divide(before - after, 2 * curvature, out=np.zeros(len(rows)), where=curvature > 0)
    fitted = np.exp(LOG_GRID[best] + STEP * shift.clip(-1, 1))
    # where margins are huge, the loss is 0 to the last digit over a wide range around 1
    fitted[(best != ONE) & (at >= others[:, ONE])] = 1
    fitted = np.maximum(fitted, _lowest_temperature(rows))
    return losses[:, ONE] - _losses(rows, true, fitted[:, None])


CLEARLY: Final = 2  # standard errors


def expected_gain(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    temperature: float,
    losses: Floats | None = None,
) -> tuple[float, float]:
    """What a fitted temperature gains on other images, as far as the fitted ones can tell.

    The mean of `leave_one_out_gains`, with one mistake more than was seen, as Laplace's rule of
    succession expects: an image whose true class is the second most probable. Without it, images
    that are all recognised recommend any temperature below 1, and say nothing of what it costs.

    Args:
        logits: (n, classes).
        labels: (n,) positions of the true classes.
        temperature: Fitted on all of them.
        losses: What `grid_losses` makes of them, where it is known already.

    Returns:
        Mean gain in -log p(true class), and its standard error; 0 and 0 for a single image.

    >>> sure = np.array([[8.0, 0.0]] * 40)  # all right: 1 / T = 1.5 would do no harm to any
    >>> mean, error = expected_gain(sure, [0] * 40, 1 / 1.5)
    >>> mean < 0
    True
    """
    rows, true = _checked(logits, labels)
    second = np.argsort(rows, axis=1)[:, -2]
    mistake = float((_losses(rows, second, 1.0) - _losses(rows, second, temperature)).mean())
    gains = np.append(leave_one_out_gains(rows, true, losses), min(mistake, 0.0))
    return float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))


LAST_DIGIT: Final = 5e-7  # half of it, in a file of six decimals


def fill_zeros(probabilities: Floats) -> Floats:
    """Probabilities of a file, in which a 0 is a number below its last digit.

    >>> fill_zeros(np.array([[1.0, 0.0], [0.75, 0.25]])).tolist()
    [[1.0, 5e-07], [0.75, 0.25]]
    """
    smallest = min(LAST_DIGIT, float(probabilities[probabilities > 0].min()))
    return np.where(probabilities > 0, probabilities, smallest)


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
    probabilities: Floats,
    labels: npt.NDArray[np.int64],
    wanted_precision: float,
    source: str = OF_RUN,
    losses: Floats | None = None,
) -> Calibration:
    """Fit temperature and threshold on images that the network was not trained on.

    The temperature is kept where it helps images that it was not fitted on by more than `CLEARLY`
    standard errors, see `expected_gain`; else it is 1. No other images are looked at.

    Args:
        probabilities: (n, classes) of the validation subset, uncalibrated.
        labels: (n,) positions of the true classes.
        wanted_precision: Between 0 and 1.
        source: Which images these are.
        losses: What `grid_losses` makes of their logits, where it is known already.

    Raises:
        ValueError: As `fit_temperature`.
    """
    logits = logits_of(probabilities)
    losses = grid_losses(logits, labels) if losses is None else losses
    temperature = round(fit_temperature(logits, labels, losses), 6)
    gain, error = expected_gain(logits, labels, temperature, losses)
    kept = gain > CLEARLY * error
    reason = (
        f"{'kept' if kept else 'not kept'}, because a temperature of {temperature:.4g} "
        f"{'lowers' if kept else 'does not clearly lower'} the loss of images that it was not "
        f"fitted on: by {gain:.4f} +- {error:.4f} (mean gain, standard error; leave one out)"
    )
    if not kept:
        temperature = 1.0
    now = apply_temperature(probabilities, temperature)
    threshold = reject_threshold(now.max(1), now.argmax(1) == labels, wanted_precision)
    if threshold is not None:
        threshold = round(min(math.floor(threshold / TOLERANCE), 1 / TOLERANCE - 1) * TOLERANCE, 6)
    return Calibration(temperature, wanted_precision, threshold, len(now), kept, reason, source)


IN_SAMPLE: Final = (
    "The test fold is the validation subset (split.validation=fold): the calibration was fitted on "
    "it, so that there are no figures of other images."
)


def summary(
    calibration: Calibration, outputs: Mapping[str, LabeledProbabilities]
) -> dict[str, Any]:
    """Content of `calibration.json`: the calibration and its effect on each subset.

    Args:
        calibration: Fitted on the validation subset.
        outputs: By subset, (n, classes) uncalibrated probabilities and (n,) labels; without `test`
            where that is the validation subset.
    """
    measured = {
        subset: calibration_effects(calibration, *output) for subset, output in outputs.items()
    }
    return {
        **fields_of(calibration),
        "images": calibration.images,
        **{
            name: {subset: effects[name] for subset, effects in measured.items()}
            for name in ("calibration_error", "loss", "coverage", "precision")
        },
        **({} if "test" in outputs else {"remark": IN_SAMPLE}),
    }


def fields_of(calibration: Calibration) -> dict[str, Any]:
    """Temperature and threshold for a file, with the reason why each is what it is."""
    return {
        "temperature": calibration.temperature,
        "kept": calibration.kept,
        "reason": calibration.reason,
        "wanted_precision": calibration.wanted_precision,
        "reject_threshold": calibration.reject_threshold,
        "no_threshold": calibration.no_threshold or None,
    }


def calibration_effects(
    calibration: Calibration, probabilities: Floats, labels: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Calibration error and loss before and after; coverage and precision at the threshold in use.

    The precision is None where no image is accepted.
    """
    now = apply_temperature(probabilities, calibration.temperature)
    return effects(probabilities, now, accepted(now.max(1), calibration.threshold), labels)


def effects(
    before: Floats, after: Floats, is_accepted: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """See `calibration_effects`.

    Args:
        before: (n, classes) probabilities.
        after: (n, classes) those of the calibrated network, or networks.
        is_accepted: (n,) whether the confidence reaches the threshold.
        labels: (n,) positions of the true classes.
    """
    correct, pair = before.argmax(1) == labels, {"before": before, "after": after}
    return {
        "calibration_error": {
            when: round(reliability_diagram(p.max(1), correct).error, 6) for when, p in pair.items()
        },
        "loss": {when: round(cross_entropy(p, labels), 6) for when, p in pair.items()},
        "coverage": round(float(is_accepted.mean()), 6),
        "precision": round(float(correct[is_accepted].mean()), 6) if is_accepted.any() else None,
    }


def write_calibration(
    run: Path, outputs: Mapping[str, LabeledProbabilities], wanted_precision: float
) -> None:
    """Fit on the validation subset, and write `calibration.json` into a run folder.

    Nothing is written for a network whose training diverged.

    Args:
        run: The run folder.
        outputs: Of the subsets `validation` and `test`; without `test` where that is the former.
        wanted_precision: Between 0 and 1.
    """
    if not all(np.isfinite(probabilities).all() for probabilities, _ in outputs.values()):
        log.warning("no %s: the network's outputs are not finite numbers", FILE)
        return
    calibration = fit_calibration(*outputs["validation"], wanted_precision)
    log.info("calibration: %s", calibration.reason)
    if calibration.no_threshold:
        log.info("calibration: no reject threshold, %s", calibration.no_threshold)
    write_json(run / FILE, summary(calibration, outputs))


def _checked(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64]]:
    rows, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if rows.ndim != 2 or true.shape != rows.shape[:1] or not len(rows):
        raise ValueError(f"A temperature needs images, not {rows.shape} and {true.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError("A logit is not a finite number.")
    return rows - rows.max(1, keepdims=True), true
