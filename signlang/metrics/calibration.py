"""Calibration of probabilities: temperature scaling and the reject threshold.

Temperature and threshold are fitted on the validation subset, or cross-fitted over the folds of a
study; the test subset only measures them. Nothing here needs torch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.arrays import Flags, Floats, Ints
from signlang.console import log
from signlang.files import write_json
from signlang.metrics.classification import (
    SMALLEST_PROBABILITY,
    cross_entropy,
    expected_calibration_error,
    of_class,
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


def accepted(confidence: Floats, threshold: float | Floats) -> Flags:
    """(n,) which images are accepted: those of at least the threshold."""
    return np.asarray(confidence >= threshold, dtype=np.bool_)


LabeledProbabilities = tuple[Floats, Ints]  # probabilities and labels
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
    rows, true = _checked_logits(logits, labels)
    return float(fit_temperatures(rows[None], true, None if losses is None else losses[None])[0])


def fit_temperatures(
    logits: npt.ArrayLike, labels: npt.ArrayLike, losses: Floats | None = None
) -> Floats:
    """`fit_temperature` for many networks at once, in a fraction of the time.

    Args:
        logits: (networks, n, classes).
        labels: (n,) positions of the true classes.
        losses: What `grid_losses` makes of them, where it is known already.

    Returns:
        (networks,) temperatures.
    """
    rows, true = _checked_logits(logits, labels)
    of_true, scaled = of_class(rows, true), np.empty_like(rows)

    def loss(log_t: Floats, which: Ints) -> Floats:
        # the mean of `_losses` without its copies: it is called thousands of times
        temperature = np.array([math.exp(t) for t in log_t.tolist()])[:, None]
        chosen = slice(None) if len(which) == len(rows) else which
        out = scaled[: len(which)]
        np.exp(np.divide(rows[chosen], temperature[..., None], out=out), out=out)
        losses = np.log(np.add.reduce(out, axis=2)) - of_true[chosen] / temperature
        return np.asarray(np.add.reduce(losses, axis=1) / losses.shape[1])

    low, high = (np.full(len(rows), end) for end in LOG_BOUNDS)
    if losses is not None:
        nearest = LOG_GRID[losses.sum(1).argmin(1)]
        low, high = (np.clip(nearest + step, *LOG_BOUNDS) for step in (-STEP, STEP))
    log_temperatures, values = bounded_minima(loss, low, high, 1e-7)
    # where margins are huge, the loss is 0 to the last digit over a wide range around 1
    is_better = values < loss(np.zeros(len(rows)), np.arange(len(rows)))
    best = np.array([math.exp(log_temperature) for log_temperature in log_temperatures.tolist()])
    return _raise_to_lowest(np.where(is_better, best, 1.0)[:, None], rows)[:, 0]


GOLDEN: Final = 0.5 * (3 - 5**0.5)
SQRT_EPS: Final = 2.2e-16**0.5  # a minimum is no better known than that


def bounded_minima(
    function: Callable[[Floats, Ints], Floats], low: Floats, high: Floats, tolerance: float
) -> tuple[Floats, Floats]:
    """The minimum of each of k functions between its bounds, all searched at the same time.

    Each takes the very steps of `scipy.optimize.minimize_scalar(method="bounded")`, which searches
    one: a parabola through the three best points, or a golden section where that is no good (Brent
    1973, Algorithms for Minimization Without Derivatives, chapter 5). For small functions the time
    of a step is that of the interpreter, which they share.

    Args:
        function: Takes points and the numbers of the functions, and gives the values there.
        low: (k,) lower bounds.
        high: (k,) upper bounds.
        tolerance: Of the place of a minimum.

    Returns:
        (k,) places of the minima, and (k,) values there.

    >>> around = np.array([1.0, 2.0])
    >>> places, values = bounded_minima(
    ...     lambda x, which: (x - around[which]) ** 2, np.zeros(2), np.full(2, 9.0), 1e-7
    ... )
    >>> places.round(6).tolist(), values.round(6).tolist()
    ([1.0, 2.0], [0.0, 0.0])
    """
    places, values = np.empty(len(low)), np.empty(len(low))
    numbers, ends = np.arange(len(low)), np.stack([low, high])
    first = low + GOLDEN * (high - low)
    x = np.stack([first] * 3)  # best, second and third
    f = np.stack([function(first, numbers)] * 3)
    steps = np.zeros_like(ends)  # the last one, and that before it
    while True:
        tolerances = SQRT_EPS * np.abs(x[0]) + tolerance / 3
        active = np.abs(x[0] - 0.5 * ends.sum(0)) > 2 * tolerances - 0.5 * (ends[1] - ends[0])
        if not active.all():
            places[numbers[~active]], values[numbers[~active]] = x[0, ~active], f[0, ~active]
            numbers, tolerances = numbers[active], tolerances[active]
            ends, x, f, steps = (state[:, active] for state in (ends, x, f, steps))
        if not len(numbers):
            return places, values
        steps = _steps(ends, x, f, steps, tolerances)
        trial = x[0] + _sign(steps[0]) * np.maximum(np.abs(steps[0]), tolerances)
        f_trial = function(trial, numbers)
        rank = [
            f_trial <= f[0],
            (f_trial <= f[1]) | (x[1] == x[0]),
            (f_trial <= f[2]) | (x[2] == x[0]) | (x[2] == x[1]),
        ]
        is_best = rank[0]
        is_low = (trial >= x[0]) == is_best  # of the two, the higher one is the new end
        ends = np.where([is_low, ~is_low], np.where(is_best, x[0], trial), ends)
        x, f = (
            np.select(
                rank,
                [[new, own[0], own[1]], [own[0], new, own[1]], [own[0], own[1], new]],
                own,
            )
            for own, new in ((x, trial), (f, f_trial))
        )


def _steps(ends: Floats, x: Floats, f: Floats, steps: Floats, near: Floats) -> Floats:
    """(2, k) next steps from the best points, and those before them."""
    (low, high), (best, second, third) = ends, x
    middle, (step, before) = 0.5 * (low + high), steps
    r = (best - second) * (f[0] - f[2])
    q = (best - third) * (f[0] - f[1])
    p = (best - third) * q - (best - second) * r
    q = 2 * (q - r)
    p, q = np.where(q > 0, -p, p), np.abs(q)
    is_parabola = (
        (np.abs(before) > near)
        & (np.abs(p) < np.abs(0.5 * q * before))
        & (p > q * (low - best))
        & (p < q * (high - best))
    )
    parabola = np.divide(p, q, out=np.zeros_like(p), where=is_parabola)
    at_end = (best + parabola - low < 2 * near) | (high - (best + parabola) < 2 * near)
    parabola = np.where(at_end, near * _sign(middle - best), parabola)
    section = np.where(best >= middle, low - best, high - best)
    return np.where(is_parabola, [parabola, step], [GOLDEN * section, section])


def _sign(values: Floats) -> Floats:
    """The sign of each, 1 for 0."""
    return np.where(values < 0, -1.0, 1.0)


def _losses(rows: Floats, true: Ints, temperature: Any) -> Floats:
    """(..., n) -log p(true class) at one temperature, or at one of each row, (..., n, 1)."""
    scaled = rows / temperature
    losses: Floats = np.log(np.exp(scaled).sum(-1)) - of_class(scaled, true)
    return losses


def grid_losses(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """(..., n, temperatures) -log p(true class) at each temperature of a grid.

    Rows of it serve every fit on some of the images.

    Args:
        logits: (..., n, classes).
        labels: (n,) positions of the true classes.

    Raises:
        ValueError: As `fit_temperature`.
    """
    rows, true = _checked_logits(logits, labels)
    temperatures = np.exp(LOG_GRID)[:, None]
    flat = rows.reshape(-1, rows.shape[-1])
    of_true = of_class(rows, true).reshape(-1, 1)
    losses = np.empty((len(flat), len(temperatures)))
    block = max(1, BLOCK // (len(temperatures) * flat.shape[1]))
    for start in range(0, len(flat), block):
        block_rows = slice(start, start + block)
        scaled = flat[block_rows, None] / temperatures
        at_true = of_true[block_rows] / temperatures[:, 0]
        losses[block_rows] = np.log(np.exp(scaled, out=scaled).sum(2)) - at_true
    return losses.reshape(*rows.shape[:-1], -1)


def _raise_to_lowest(temperatures: Floats, rows: Floats) -> Floats:
    """(networks, k) temperatures, where they are below the lowest one of their network that."""
    raised = temperatures.copy()
    for network_temperatures, network_logits in zip(raised, rows, strict=True):
        lowest = network_temperatures.min()
        # one look tells whether it is low enough for a search
        if lowest < 1 and _excess(network_logits, lowest) > 0:
            np.maximum(
                network_temperatures, _lowest_temperature(network_logits), out=network_temperatures
            )
    return raised


def _excess(rows: Floats, temperature: float) -> float:
    """By how much the mean confidence is above (n + 1) / (n + 2)."""
    confidence = 1 / np.exp(rows / temperature).sum(1)
    return float(confidence.mean()) - (len(rows) + 1) / (len(rows) + 2)


def _lowest_temperature(rows: Floats) -> float:
    """The temperature, at most 1, at which the mean confidence is (n + 1) / (n + 2)."""
    from scipy import optimize  # type: ignore[import-untyped,unused-ignore]

    def excess(log_t: float) -> float:
        return _excess(rows, math.exp(log_t))

    lowest = math.log(BOUNDS[0])
    if excess(0.0) >= 0:
        return 1.0
    if excess(lowest) <= 0:
        return BOUNDS[0]
    return math.exp(float(optimize.brentq(excess, lowest, 0.0)))


STEP: Final = 0.1  # of log temperatures; a parabola finds the optimum between them
LOG_BOUNDS: Final = (math.log(BOUNDS[0]), math.log(BOUNDS[1]))
LOG_GRID: Final = STEP * np.arange(round(LOG_BOUNDS[0] / STEP), round(LOG_BOUNDS[1] / STEP) + 1)
BLOCK: Final = 2**16  # exponentials at once, which the cache of a core holds
ONE: Final = int(np.abs(LOG_GRID).argmin())  # where the temperature is 1


def leave_one_out_gains(
    logits: npt.ArrayLike, labels: npt.ArrayLike, losses: Floats | None = None
) -> Floats:
    """By how much the temperature that is fitted on all other images lowers the loss of each.

    The loss of every image is computed once at each temperature of a grid; the optimum without
    image i is the minimum of the column sums less row i. The lower bound is that of
    `fit_temperature`.

    Args:
        logits: (..., n, classes); a constant added to a row changes nothing.
        labels: (n,) positions of the true classes.
        losses: What `grid_losses` makes of them, where it is known already.

    Returns:
        (..., n) -log p(true class) at temperature 1, less that at the temperature of the others.

    Raises:
        ValueError: As `fit_temperature`.

    >>> leave_one_out_gains([[2.0, 0.0]] * 4, [0, 0, 0, 1]).round(2).tolist()
    [-0.28, -0.28, -0.28, 0.0]
    """
    rows, true = _checked_logits(logits, labels)
    losses = grid_losses(rows, true) if losses is None else losses
    others = losses.sum(-2, keepdims=True) - losses
    best = others.argmin(-1).clip(1, len(LOG_GRID) - 2)
    before, at, after = (of_class(others, best + offset) for offset in (-1, 0, 1))
    curvature = before - 2 * at + after
    shift = np.divide(before - after, 2 * curvature, out=np.zeros(at.shape), where=curvature > 0)
    fitted = np.exp(LOG_GRID[best] + STEP * shift.clip(-1, 1))
    # where margins are huge, the loss is 0 to the last digit over a wide range around 1
    fitted[(best != ONE) & (at >= others[..., ONE])] = 1
    networks = (-1, *rows.shape[-2:])
    fitted = _raise_to_lowest(fitted.reshape(networks[:-1]), rows.reshape(networks)).reshape(
        at.shape
    )
    return losses[..., ONE] - _losses(rows, true, fitted[..., None])


CLEARLY: Final = 2  # standard errors


def expected_gain(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    temperature: float | Floats,
    losses: Floats | None = None,
) -> tuple[Floats, Floats]:
    """What a fitted temperature gains on other images, as far as the fitted ones can tell.

    The mean of `leave_one_out_gains`, with one mistake more than was seen, as Laplace's rule of
    succession expects: an image whose true class is the second most probable. Without it, images
    that are all recognised recommend any temperature below 1, and say nothing of what it costs.

    Args:
        logits: (..., n, classes).
        labels: (n,) positions of the true classes.
        temperature: (...) fitted on all of them.
        losses: What `grid_losses` makes of them, where it is known already.

    Returns:
        (...) mean gain in -log p(true class), and its standard error; 0 and 0 for a single image.

    >>> sure = np.array([[8.0, 0.0]] * 40)  # all right: 1 / T = 1.5 would do no harm to any
    >>> mean, error = expected_gain(sure, [0] * 40, 1 / 1.5)
    >>> bool(mean < 0)
    True
    """
    rows, true = _checked_logits(logits, labels)
    second = np.argsort(rows, axis=-1)[..., -2]
    fitted = np.asarray(temperature)[..., None, None]
    mistake = (_losses(rows, second, 1.0) - _losses(rows, second, fitted)).mean(-1, keepdims=True)
    gains = leave_one_out_gains(rows, true, losses)
    gains = np.concatenate([gains, np.minimum(mistake, 0.0)], axis=-1)
    return gains.mean(-1), gains.std(-1, ddof=1) / math.sqrt(gains.shape[-1])


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


def apply_temperature(probabilities: npt.ArrayLike, temperature: float | Floats) -> Floats:
    """Softmax of the logits divided by the temperature.

    Args:
        probabilities: (..., n, classes).
        temperature: (...) above 0; the order of the classes stays.

    >>> apply_temperature([[0.9, 0.1]], 2.0).round(3).tolist()
    [[0.75, 0.25]]
    """
    scaled = logits_of(probabilities) / np.asarray(temperature)[..., None, None]
    raised = np.exp(scaled - scaled.max(-1, keepdims=True))
    shares: Floats = raised / raised.sum(-1, keepdims=True)
    return shares


def fit_calibration(
    probabilities: Floats,
    labels: Ints,
    wanted_precision: float,
    source: str = OF_RUN,
) -> Calibration:
    """Fit temperature and threshold on images that the network was not trained on.

    The temperature is kept where it helps images that it was not fitted on by more than `CLEARLY`
    standard errors, see `expected_gain`; else it is 1. No other images are looked at.

    Args:
        probabilities: (n, classes) of the validation subset, uncalibrated.
        labels: (n,) positions of the true classes.
        wanted_precision: Between 0 and 1.
        source: Which images these are.

    Raises:
        ValueError: As `fit_temperature`.
    """
    return fit_calibrations(probabilities[None], labels, [wanted_precision], source)[0]


def fit_calibrations(
    probabilities: Floats,
    labels: Ints,
    wanted_precisions: Sequence[float],
    source: str = OF_RUN,
    losses: Floats | None = None,
) -> list[Calibration]:
    """`fit_calibration` for many networks at once.

    Args:
        probabilities: (networks, n, classes).
        labels: (n,) positions of the true classes.
        wanted_precisions: (networks,).
        source: Which images these are.
        losses: What `grid_losses` makes of their logits, where it is known already.

    Raises:
        ValueError: As `fit_temperature`.
    """
    logits = logits_of(probabilities)
    losses = grid_losses(logits, labels) if losses is None else losses
    fitted = [
        round(temperature, 6) for temperature in fit_temperatures(logits, labels, losses).tolist()
    ]
    gains, errors = expected_gain(logits, labels, np.array(fitted), losses)
    kept = (gains > CLEARLY * errors).tolist()
    in_use = [
        temperature if is_kept else 1.0 for temperature, is_kept in zip(fitted, kept, strict=True)
    ]
    calibrated = apply_temperature(probabilities, np.array(in_use))
    confidence, correct = calibrated.max(2), calibrated.argmax(2) == labels
    thresholds = map(_rounded_threshold, confidence, correct, wanted_precisions)
    return [
        Calibration(
            used, precision, threshold, len(labels), is_kept,
            f"{'kept' if is_kept else 'not kept'}, because a temperature of {temperature:.4g} "
            f"{'lowers' if is_kept else 'does not clearly lower'} the loss of images that it was "
            f"not fitted on: by {gain:.4f} +- {error:.4f} (mean gain, standard error; leave one "
            "out)",
            source,
        )
        for temperature, used, is_kept, precision, threshold, gain, error in zip(
            fitted, in_use, kept, wanted_precisions, thresholds, gains, errors, strict=True
        )
    ]  # fmt: skip


def _rounded_threshold(confidence: Floats, correct: Flags, wanted_precision: float) -> float | None:
    """`reject_threshold`, rounded down to digits that other programs find as well."""
    threshold = reject_threshold(confidence, correct, wanted_precision)
    if threshold is None:
        return None
    return round(min(math.floor(threshold / TOLERANCE), 1 / TOLERANCE - 1) * TOLERANCE, 6)


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
    calibration: Calibration, probabilities: Floats, labels: Ints
) -> dict[str, Any]:
    """Calibration error and loss before and after; coverage and precision at the threshold in use.

    The precision is None where no image is accepted.
    """
    calibrated = apply_temperature(probabilities, calibration.temperature)
    is_accepted = accepted(calibrated.max(1), calibration.threshold)
    return effects(probabilities[None], calibrated[None], is_accepted[None], labels)[0]


def effects(
    before: Floats, after: Floats, is_accepted: Flags, labels: Ints
) -> list[dict[str, Any]]:
    """See `calibration_effects`; of many networks at once.

    Args:
        before: (networks, n, classes) probabilities.
        after: (networks, n, classes) those of the calibrated networks.
        is_accepted: (networks, n) whether the confidence reaches the threshold.
        labels: (n,) positions of the true classes.
    """
    correct = before.argmax(2) == labels
    errors = [expected_calibration_error(p.max(2), correct).tolist() for p in (before, after)]
    losses = [cross_entropy(p, labels).tolist() for p in (before, after)]
    return [
        {
            "calibration_error": _before_and_after(*(values[number] for values in errors)),
            "loss": _before_and_after(*(values[number] for values in losses)),
            "coverage": round(float(mask.mean()), 6),
            "precision": round(float(correct[number, mask].mean()), 6) if mask.any() else None,
        }
        for number, mask in enumerate(is_accepted)
    ]


def _before_and_after(before: float, after: float) -> dict[str, float]:
    return {"before": round(before, 6), "after": round(after, 6)}


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


def _checked_logits(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Ints]:
    rows, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if rows.ndim < 2 or true.shape != rows.shape[-2:-1] or not true.size:
        raise ValueError(f"A temperature needs images, not {rows.shape} and {true.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError("A logit is not a finite number.")
    return rows - rows.max(-1, keepdims=True), true
