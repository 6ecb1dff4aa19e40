"""Significance tests and confidence intervals for cross-validated metrics.

Pure functions on arrays. scipy.stats takes a second to import, so each function imports it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from signlang.arrays import Floats

ROUNDING: Final = 1e-12  # accuracies that differ by less are equal


@dataclass(frozen=True)
class Comparison:
    """How much better one setting is than another.

    Attributes:
        difference: Mean of a - b.
        low: Lower end of its confidence interval.
        high: Upper end of its confidence interval.
        p: Two-sided p value of "there is no difference".
        confidence: Confidence of the interval.
    """

    difference: float
    low: float
    high: float
    p: float
    confidence: float = 0.95


def corrected_t_test(
    differences: npt.ArrayLike, test_share: float, confidence: float = 0.95
) -> Comparison:
    """The corrected resampled t-test (Nadeau and Bengio 2003, Machine Learning 52, section 5).

    Folds share training images, so a plain t-test finds differences that are not there. The
    variance of the mean is (1/k + n_test/n_train) times that of the differences, with k - 1 degrees
    of freedom. Differences that are all equal have no variance: p is 1 if they are 0, otherwise 0.

    Args:
        differences: (k,) one difference a - b for each fold.
        test_share: Test images divided by training images, 1 / (k - 1) in a cross-validation.
        confidence: Of the interval, between 0 and 1.

    Raises:
        ValueError: With fewer than two folds, a figure that is not finite, or a negative share.

    >>> corrected_t_test([0.0, 0.0, 0.0], test_share=0.5)
    Comparison(difference=0.0, low=0.0, high=0.0, p=1.0, confidence=0.95)
    >>> round(corrected_t_test([0.01, 0.02, 0.03, 0.02, 0.02], test_share=0.25).p, 4)
    0.0135
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"The t-test needs two or more folds, not an array of {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("A difference of a fold is not a finite number; leave that fold out.")
    if test_share < 0:
        raise ValueError(f"test_share={test_share} must not be negative.")
    folds = len(values)
    error = float(np.sqrt((1 / folds + test_share) * values.var(ddof=1)))
    return _t_comparison(float(values.mean()), error, folds - 1, confidence)


def _t_comparison(mean: float, error: float, freedom: int, confidence: float) -> Comparison:
    """Interval and p value of a mean with a standard error and its degrees of freedom."""
    from scipy import stats  # type: ignore[import-untyped,unused-ignore]

    _check_confidence(confidence)
    if error <= ROUNDING:
        mean = 0.0 if abs(mean) <= ROUNDING else mean
        return Comparison(mean, mean, mean, 0.0 if mean else 1.0, confidence)
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    half = error * float(stats.t.ppf((1 + confidence) / 2, freedom))
    return Comparison(mean, mean - half, mean + half, p, confidence)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, as 0.95 does.")


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Difference of two accuracies on the same images, with a cluster-robust error.

    Images of one group (a signer, a recording) rise and fall together. With G groups, n images
    and the deviations e = d - mean(d), the standard error is sqrt(G / (G - 1) * sum over groups of
    (sum of e)^2) / n, with G - 1 degrees of freedom (Liang and Zeger 1986, Biometrika 73; what
    Stata and statsmodels give for a constant). Groups of one image make it the paired t-test.

    Args:
        a: (n,) truth values, whether each image was recognised under the first condition.
        b: (n,) the same under the second.
        groups: (n,) label of the group of each image; None makes each image its own.
        confidence: Of the interval, between 0 and 1.

    Raises:
        ValueError: If the lengths differ, or with fewer than two groups.

    >>> result = paired_difference([1, 1, 1, 0], [0, 1, 0, 0], groups=["x", "x", "y", "y"])
    >>> result.difference, result.p
    (0.5, 0.0)
    """
    first, second = np.asarray(a, dtype=np.bool_), np.asarray(b, dtype=np.bool_)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"The images of a and b differ: {first.shape} and {second.shape}.")
    labels = np.arange(len(first)) if groups is None else np.asarray(groups)
    if labels.shape != first.shape:
        raise ValueError(f"groups has {labels.shape} labels for {first.shape} images.")
    names, group = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"An interval needs two or more groups of images, not {len(names)}.")
    differences = first.astype(np.float64) - second
    mean = float(differences.mean())
    sums = np.bincount(group, weights=differences - mean)
    error = float(np.sqrt(len(names) / (len(names) - 1) * np.sum(sums**2))) / len(first)
    return _t_comparison(mean, error, len(names) - 1, confidence)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p value of McNemar's test (1947, Psychometrika 12): a fair coin, n tosses.

    Args:
        only_a: Images that only a recognises.
        only_b: Images that only b recognises.

    Raises:
        ValueError: If a count is negative.

    >>> mcnemar(1, 5), mcnemar(0, 0)
    (0.21875, 1.0)
    """
    from scipy import stats

    if min(only_a, only_b) < 0:
        raise ValueError(f"The counts {only_a} and {only_b} must not be negative.")
    count = only_a + only_b
    return float(stats.binomtest(only_a, count).pvalue) if count else 1.0


def wilson_interval(correct: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, without continuity correction.

    Wilson 1927, JASA 22; method 3 of Newcombe 1998, Statistics in Medicine 17. Of no images at
    all nothing is known: 0 to 1.

    Args:
        correct: Images recognised.
        count: Images predicted.
        confidence: Of the interval, between 0 and 1.

    Raises:
        ValueError: If `correct` does not lie between 0 and `count`.

    >>> [round(end, 4) for end in wilson_interval(81, 263)]
    [0.2553, 0.3662]
    """
    from scipy import stats

    _check_confidence(confidence)
    if not 0 <= correct <= count:
        raise ValueError(f"{correct} correct of {count} cannot be.")
    if count == 0:
        return 0.0, 1.0
    low, high = stats.binomtest(correct, count).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def holm(p_values: npt.ArrayLike) -> Floats:
    """Adjusted p values for several tests at once, in the order given (Holm 1979, Scand J Stat 6).

    Args:
        p_values: (m,) p values.

    Raises:
        ValueError: If one does not lie between 0 and 1.

    >>> holm([0.01, 0.04, 0.03, 0.005]).round(3).tolist()
    [0.03, 0.06, 0.06, 0.02]
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p values must be a list of numbers between 0 and 1: {values}.")
    order = np.argsort(values, kind="stable")
    raised = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return adjusted


def friedman(accuracies: npt.ArrayLike) -> float:
    """P value of "the settings do not differ at all" (Friedman 1937; Demšar 2006, JMLR 7).

    By the chi-square approximation with ties corrected, as in scipy and R; it is rough with few
    folds. Settings that are equal in every fold give 1.

    Args:
        accuracies: (folds, settings) accuracy of each setting on each fold.

    Raises:
        ValueError: With fewer than two folds or three settings, or a figure that is not finite.

    >>> friedman([[0.5, 0.5, 0.5], [0.7, 0.7, 0.7]])
    1.0
    >>> round(friedman([[0.5, 0.6, 0.7], [0.4, 0.6, 0.8], [0.5, 0.7, 0.8]]), 4)
    0.0498
    """
    from scipy import stats

    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 3:
        raise ValueError(
            "The Friedman test needs (folds, settings) with two or more folds and three or more "
            f"settings, not {values.shape}; compare two settings by corrected_t_test."
        )
    if not np.isfinite(values).all():
        raise ValueError("An accuracy is not a finite number; leave out unfinished settings.")
    values = values.round(12)  # ROUNDING: means of equal accuracies must tie
    if (values == values[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*values.T).pvalue)
