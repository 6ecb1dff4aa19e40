"""Significance tests and confidence intervals for cross-validated metrics.

Pure functions on arrays. scipy takes up to a second to import, so each function imports it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from signlang.arrays import Floats, Ints
from signlang.data.index import FEWEST_CLUSTERS

ROUNDING: Final = 1e-12  # accuracies that differ by less are equal

Interval = tuple[float, float]  # lower and upper end


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
        test_share: Test images divided by training images: 1 / (k - 1) in a cross-validation of
            k folds, more where a validation subset is held back from training.
        confidence: Of the interval, between 0 and 1.

    Raises:
        ValueError: With fewer than two folds, a number that is not finite, or a negative share.

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


def corrected_t_p(differences: npt.ArrayLike, test_share: float) -> Floats:
    """P values of `corrected_t_test` for many pairs at once.

    Args:
        differences: (pairs, k) differences a - b; nan where one of the two lacks a fold.
        test_share: As there.

    Returns:
        (pairs,) p values; nan where fewer than two folds are left.

    >>> corrected_t_p([[0.01, 0.02, 0.03], [0.1, np.nan, np.nan]], 0.5).round(4).tolist()
    [0.1598, nan]
    """
    from scipy.special import stdtr  # type: ignore[import-untyped,unused-ignore]

    values = np.asarray(differences, dtype=np.float64)
    folds = np.isfinite(values).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # nan of pairs without two folds
        mean = np.nansum(values, axis=1) / folds
        squares = np.nansum((values - mean[:, None]) ** 2, axis=1)
        error = np.sqrt((1 / folds + test_share) * squares / (folds - 1))
        p = 2 * stdtr(folds - 1, -np.abs(mean) / error)
    p = np.where(error <= ROUNDING, np.where(np.abs(mean) <= ROUNDING, 1.0, 0.0), p)
    return np.where(folds > 1, p, np.nan)


def _t_comparison(mean: float, error: float, freedom: int, confidence: float) -> Comparison:
    """Interval and p value of a mean with a standard error and its degrees of freedom."""
    from scipy.special import stdtr  # type: ignore[import-untyped,unused-ignore]

    half = error * _t_quantile(freedom, confidence)
    if error <= ROUNDING:
        mean = 0.0 if abs(mean) <= ROUNDING else mean
        return Comparison(mean, mean, mean, 0.0 if mean else 1.0, confidence)
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Comparison(mean, mean - half, mean + half, p, confidence)


def _t_quantile(freedom: float, confidence: float) -> float:
    """Upper end of the interval of Student's t that holds it with this confidence."""
    from scipy.special import stdtrit  # type: ignore[import-untyped,unused-ignore]

    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, as 0.95 does.")
    return float(stdtrit(freedom, (1 + confidence) / 2))


@dataclass(frozen=True)
class Difference:
    """How much more accurate one condition is than another, on the same images.

    Attributes:
        value: Mean of a - b.
        interval: Of it; None with too few clusters for one.
    """

    value: float
    interval: Interval | None


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> Difference:
    """Difference of two accuracies on the same images, with a cluster-robust interval.

    Images of one cluster (a signer, a block of film) rise and fall together. With G clusters, n
    images and the deviations e = d - mean(d), the standard error is sqrt(G / (G - 1) * sum over
    clusters of (sum of e)^2) / n (Liang and Zeger 1986, Biometrika 73; what Stata and statsmodels
    give for a constant), with t quantiles of G - 1 degrees of freedom, or of fewer: see
    `clustered_interval`. Clusters of one image make it the paired t-test. Where all differences are
    equal their error is not known: the interval is then as wide as the share of clusters that
    differ could be (Wilson 1927). It is never wider than for clusters of equal images.

    Args:
        a: (n,) truth values, whether each image was recognised under the first condition.
        b: (n,) the same under the second.
        clusters: (n,) label of the cluster of each image; None makes each image its own.
        confidence: Of the interval, between 0 and 1.

    Raises:
        ValueError: If the lengths differ, or there are no images.

    >>> result = paired_difference([1, 1, 1, 0], [0, 1, 0, 0], clusters=["x", "y", "z", "z"])
    >>> result.value, result.interval and [round(end, 2) for end in result.interval]
    (0.5, [-0.43, 1.0])
    """
    first, second = np.asarray(a, dtype=np.bool_), np.asarray(b, dtype=np.bool_)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(f"The images of a and b differ: {first.shape} and {second.shape}.")
    cluster, count = _cluster_numbers(clusters, len(first))
    differences = first.astype(np.float64) - second
    mean = float(differences.mean())
    if count < FEWEST_CLUSTERS:
        return Difference(mean, None)
    error, effective_count = (
        _cluster_error(differences - mean, cluster, count),
        _effective_count(cluster),
    )
    if error <= ROUNDING:
        half = 1 - _wilson(1.0, effective_count, _t_quantile(np.inf, confidence))[0]
    else:
        deviation = float(differences.std(ddof=1))
        differing_clusters = len(np.unique(cluster[differences != 0]))
        independent_error = deviation / len(first) ** 0.5
        freedom = (
            count - 1
            if error <= independent_error + ROUNDING
            else min(count - 1, differing_clusters)
        )
        half = min(
            error * _t_quantile(freedom, confidence),
            max(error, deviation / effective_count**0.5) * _t_quantile(count - 1, confidence),
        )
    return Difference(mean, (max(-1.0, mean - half), min(1.0, mean + half)))


def _cluster_numbers(clusters: npt.ArrayLike | None, count: int) -> tuple[Ints, int]:
    """(n,) number of the cluster of each image, and how many there are."""
    if clusters is None:
        return np.arange(count), count
    labels = np.asarray(clusters)
    if labels.shape != (count,):
        raise ValueError(f"clusters has {labels.shape} labels for {count} images.")
    names, numbers = np.unique(labels, return_inverse=True)
    return numbers.astype(np.int64), len(names)


def _effective_count(cluster: Ints) -> float:
    """How many independent images they count as if all images of a cluster are equal."""
    sizes = np.bincount(cluster)
    return float(sizes.sum() ** 2 / np.sum(sizes**2))


def _cluster_error(deviations: Floats, cluster: Ints, count: int) -> float:
    """Standard error of a mean, from the (n,) deviations from it."""
    sums = np.bincount(cluster, weights=deviations, minlength=count)
    return float(np.sqrt(count / (count - 1) * np.sum(sums**2))) / len(deviations)


def mcnemar(only_a: npt.ArrayLike, only_b: npt.ArrayLike) -> Floats:
    """Exact two-sided p value of McNemar's test (1947, Psychometrika 12): a fair coin, n tosses.

    Args:
        only_a: Images that only a recognises; a number, or an array of any shape for many pairs.
        only_b: Images that only b recognises, likewise.

    Raises:
        ValueError: If a count is negative.

    >>> mcnemar([1, 0], [5, 0]).round(5).tolist()
    [0.21875, 1.0]
    """
    from scipy.special import bdtr  # type: ignore[import-untyped,unused-ignore]

    one, other = np.asarray(only_a, dtype=np.int64), np.asarray(only_b, dtype=np.int64)
    fewer = np.minimum(one, other)
    if fewer.size and fewer.min() < 0:
        raise ValueError(f"The counts {one} and {other} must not be negative.")
    p: Floats = np.minimum(1.0, 2 * bdtr(fewer, one + other, 0.5))
    return p


def wilson_interval(correct: int, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share of independent images, without continuity correction.

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
    if not 0 <= correct <= count:
        raise ValueError(f"{correct} correct of {count} cannot be.")
    quantile = _t_quantile(np.inf, confidence)
    return _wilson(correct / count, count, quantile) if count else (0.0, 1.0)


def _wilson(share: float, count: float, quantile: float) -> Interval:
    """Wilson's interval of a share of `count` images, which need not be a whole number."""
    correction = quantile**2 / count
    middle = (share + correction / 2) / (1 + correction)
    half = float(np.sqrt(share * (1 - share) * correction + correction**2 / 4)) / (1 + correction)
    low, high = (min(1.0, max(0.0, end)) for end in (middle - half, middle + half))
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def clustered_interval(
    correct: npt.ArrayLike, clusters: npt.ArrayLike | None = None, confidence: float = 0.95
) -> Interval | None:
    """Interval of a share of images that come in clusters: Wilson's, of the effective sample size.

    Images of one cluster (a signer, a block of film) are alike, so that n images say as much as
    n / deff independent ones. The design effect deff is the variance of the share between clusters
    (see `paired_difference`) over that of independent images, at least 1. Korn and Graubard 1998,
    Survey Methodology 24, adjust for its own uncertainty: n / deff * (t(n-1) / t(df))^2, at most n,
    with df = G - 1 for G clusters. Here it is the sample size of Wilson's interval, as in SAS's
    SURVEYFREQ; Franco et al. 2019 (J. Survey Statistics and Methodology 7) recommend Wilson's and
    find it too narrow with few clusters. With clusters of one image it is Wilson's interval itself.

    Two rules are our own, as networks make few mistakes; `experiments/intervals` measures them.
    Where deff is above 1, df is at most the number of clusters with a mistake (or with a hit): only
    these tell how much clusters differ. And images of a cluster can at most be equal: n images are
    worth at least n^2 / (sum of the squared sizes of the clusters), which is G for clusters of one
    size. This is taken where deff is not known, without any mistake (or hit).

    Args:
        correct: (n,) truth values, whether each image was recognised.
        clusters: (n,) label of the cluster of each image; None makes each image its own.
        confidence: Of the interval, between 0 and 1.

    Returns:
        Its ends, or None with fewer than three clusters. Of no images at all, 0 to 1.

    >>> flags = [n % 20 > 2 for n in range(100)]  # always three mistakes in a row
    >>> [round(end, 3) for end in clustered_interval(flags) or ()]
    [0.767, 0.907]
    >>> [round(end, 3) for end in clustered_interval(flags, [n // 5 for n in range(100)]) or ()]
    [0.649, 0.946]
    >>> clustered_interval(flags, [n // 50 for n in range(100)])  # two clusters are too few
    """
    flags = np.asarray(correct, dtype=np.bool_)
    count, hits = len(flags), int(flags.sum())
    cluster, groups = _cluster_numbers(clusters, count)
    if groups == count:
        return wilson_interval(hits, count, confidence)
    if groups < FEWEST_CLUSTERS:
        return None
    share, effective_count, quantile = (
        hits / count,
        _effective_count(cluster),
        _t_quantile(np.inf, confidence),
    )
    if hits in {0, count}:
        return _wilson(share, effective_count, quantile)
    error = _cluster_error(flags.astype(np.float64) - share, cluster, groups)
    effect = max(1.0, error**2 * (count - 1) / (share * (1 - share)))
    differing_clusters = min(len(np.unique(cluster[flags])), len(np.unique(cluster[~flags])))
    freedom = groups - 1 if effect <= 1 + ROUNDING else min(groups - 1, differing_clusters)
    correction = _t_quantile(count - 1, confidence) / _t_quantile(freedom, confidence)
    return _wilson(
        share, min(count, max(effective_count, count / effect * correction**2)), quantile
    )


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
        ValueError: With fewer than two folds or three settings, or a number that is not finite.

    >>> friedman([[0.5, 0.5, 0.5], [0.7, 0.7, 0.7]])
    1.0
    >>> round(friedman([[0.5, 0.6, 0.7], [0.4, 0.6, 0.8], [0.5, 0.7, 0.8]]), 4)
    0.0498
    """
    from scipy.special import chdtrc  # type: ignore[import-untyped,unused-ignore]

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
    folds, settings = values.shape
    ranks, ties = np.empty_like(values), 0
    for row, of_fold in zip(ranks, values, strict=True):
        _, place, count = np.unique(of_fold, return_inverse=True, return_counts=True)
        row[:] = (np.cumsum(count) - (count - 1) / 2)[place]  # ties share their mean rank
        ties += int((count * (count**2 - 1)).sum())
    squares = float((ranks.sum(0) ** 2).sum())
    statistic = 12 / (settings * folds * (settings + 1)) * squares - 3 * folds * (settings + 1)
    share = 1 - ties / (settings * (settings**2 - 1) * folds)
    return float(chdtrc(settings - 1, statistic / share))
