"""Tests and intervals, each against published figures or somebody else's code."""

from itertools import chain, combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from signlang.metrics.significance import (
    Comparison,
    Difference,
    clustered_interval,
    corrected_t_p,
    corrected_t_test,
    friedman,
    holm,
    mcnemar,
    paired_difference,
    wilson_interval,
)
from signlang.studies.verdicts import verdict


def ends(comparison: Comparison) -> tuple[float, float]:
    return comparison.low, comparison.high


def test_corrected_t_test_gives_the_figures_of_scikit_learns_documentation() -> None:
    # "Statistical comparison of models using grid search": the radial and the linear kernel have
    # a corrected t of 0.750 and a one-sided p of 0.227
    images, labels = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    radial, linear = (
        cross_val_score(SVC(kernel=kernel), images, labels, cv=folds, scoring="roc_auc")
        for kernel in ("rbf", "linear")
    )
    ours = corrected_t_test(radial - linear, test_share=10 / 90)
    assert ours.difference == pytest.approx(0.01)
    assert ours.p / 2 == pytest.approx(0.227, abs=0.0005)
    t = stats.t.ppf(0.975, 99) * ours.difference / (ours.high - ours.difference)
    assert t == pytest.approx(0.750, abs=0.0005)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_without_a_test_share_it_is_scipys_t_test(confidence: float) -> None:
    differences = np.random.default_rng(0).normal(0.01, 0.02, 5)
    ours = corrected_t_test(differences, 0.0, confidence)
    theirs = stats.ttest_1samp(differences, 0)
    assert ours.difference == pytest.approx(differences.mean())
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ends(ours) == pytest.approx(theirs.confidence_interval(confidence))
    assert ours.confidence == confidence


def test_turning_the_differences_round_turns_the_comparison_round() -> None:
    differences = np.array([0.01, -0.02, 0.03, 0.05, 0.01])
    one, other = corrected_t_test(differences, 0.25), corrected_t_test(-differences, 0.25)
    assert other == Comparison(-one.difference, -one.high, -one.low, one.p)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5])
def test_a_confidence_lies_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        corrected_t_test([0.1, 0.2], 0.25, confidence)
    with pytest.raises(ValueError, match="must lie between"):
        wilson_interval(1, 2, confidence)


def test_differences_that_are_all_equal() -> None:
    assert corrected_t_test(np.zeros(5), 0.25) == Comparison(0.0, 0.0, 0.0, 1.0)
    # 0.9 - 0.8, 0.8 - 0.7 ... differ in the last bit
    same = corrected_t_test(np.array([0.9, 0.8, 0.7]) - np.array([0.8, 0.7, 0.6]), 0.5)
    assert same.p == 0
    assert (same.difference, *ends(same)) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("differences", "share", "confidence", "words"),
    [
        ([], 0.25, 0.95, "two or more folds"),
        ([0.1], 0.25, 0.95, "two or more folds"),
        (0.1, 0.25, 0.95, "two or more folds"),
        ([[0.1, 0.2], [0.3, 0.4]], 0.25, 0.95, "two or more folds"),
        ([0.1, np.nan], 0.25, 0.95, "not a finite number"),
        ([0.1, 0.2], -0.1, 0.95, "must not be negative"),
        ([0.1, 0.2], 0.25, 95, "between 0 and 1"),
    ],
)
def test_corrected_t_test_refuses(
    differences: Any, share: float, confidence: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        corrected_t_test(differences, share, confidence)


def test_many_pairs_have_the_p_values_of_each() -> None:
    differences = np.random.default_rng(0).normal(0.01, 0.02, (6, 5))
    differences[1, 2:] = np.nan
    differences[2, :4] = np.nan  # a single fold
    differences[3], differences[4] = 0.0, 0.1
    expected = [
        corrected_t_test(row[np.isfinite(row)], 0.3).p if np.isfinite(row).sum() > 1 else np.nan
        for row in differences
    ]
    np.testing.assert_allclose(corrected_t_p(differences, 0.3), expected, rtol=1e-12)
    one, other = np.array([[3, 0], [7, 9]]), np.array([[4, 0], [1, 2]])
    assert mcnemar(one, other).tolist() == [
        [mcnemar(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)
    ]


def test_paired_difference_of_single_images_is_scipys_paired_t_test() -> None:
    a, b = np.random.default_rng(1).random((2, 200)) < np.array([[0.9], [0.8]])
    theirs = stats.ttest_rel(a.astype(float), b.astype(float)).confidence_interval(0.95)
    for clusters in (None, [f"image {number}" for number in range(200)]):
        ours = paired_difference(a, b, clusters)
        assert ours.value == pytest.approx(a.mean() - b.mean())
        assert ours.interval == pytest.approx(tuple(theirs))


def test_paired_difference_of_equal_clusters_is_the_t_test_of_their_means() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 12, 20)) < rng.random((2, 12, 1))
    order = rng.permutation(240)
    clusters = np.repeat(np.arange(12), 20)[order]
    ours = paired_difference(a.ravel()[order], b.ravel()[order], clusters, confidence=0.9)
    theirs = stats.ttest_1samp(a.mean(axis=1) - b.mean(axis=1), 0).confidence_interval(0.9)
    assert ours.interval == pytest.approx(tuple(theirs))


def test_paired_difference_of_unequal_clusters_is_the_sandwich_of_liang_and_zeger() -> None:
    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 7, 100)
    a, b = rng.random((2, 100)) < np.array([[0.8], [0.6]])
    differences = a.astype(float) - b
    # (X'X)^-1 X' Omega X (X'X)^-1, where X is a column of ones and Omega has a block each cluster
    ones, error = np.ones((100, 1)), differences - differences.mean()
    omega = np.outer(error, error) * (clusters[:, None] == clusters)
    bread = np.linalg.inv(ones.T @ ones)
    variance = (7 / 6 * bread @ ones.T @ omega @ ones @ bread).item()
    half = stats.t.ppf(0.975, 6) * np.sqrt(variance)
    ours = paired_difference(a, b, clusters)
    assert ours.interval == pytest.approx((ours.value - half, ours.value + half))


def test_where_only_some_clusters_differ_their_number_is_the_freedom() -> None:
    a, b = np.ones(200, dtype=bool), np.ones(200, dtype=bool)
    b[:3] = b[10:13] = b[20:23] = False  # all in the first three of twenty clusters
    clusters = np.repeat(np.arange(20), 10)
    means = (a.astype(float) - b).reshape(20, 10).mean(1)
    half = stats.t.ppf(0.975, 3) * means.std(ddof=1) / np.sqrt(20)  # not of 19 degrees of freedom
    assert paired_difference(a, b, clusters).interval == pytest.approx((0.045 - half, 0.045 + half))


def test_intervals_are_no_wider_than_if_images_of_a_cluster_were_equal() -> None:
    clusters = np.repeat(np.arange(8), 6)
    one_is_hard = clusters > 0  # everything of the first signer is wrong
    one_is_hard[0] = True
    share = one_is_hard.mean()
    ours = clustered_interval(one_is_hard, clusters)
    assert ours is not None
    for end in ours:
        assert abs(share - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 8), rel=1e-6)
    difference = paired_difference(np.ones(48, dtype=bool), one_is_hard, clusters).interval
    half = stats.t.ppf(0.975, 7) * (~one_is_hard).std(ddof=1) / np.sqrt(8)
    assert difference == pytest.approx((1 - share - half, 1 - share + half))


def test_paired_difference_where_nothing_or_everything_differs_is_not_certain() -> None:
    right, wrong = np.ones(60, dtype=bool), np.zeros(60, dtype=bool)
    clusters = np.repeat(list("abcdef"), 10)
    half = 1 - wilson_interval(6, 6)[0]  # a seventh signer might differ
    assert paired_difference(right, right, clusters) == Difference(0.0, (-half, half))
    assert paired_difference(right, wrong, clusters) == Difference(1.0, (1 - half, 1.0))


def test_one_or_two_clusters_have_no_interval() -> None:
    right = [True, False, True, True]
    assert paired_difference(right, [True] * 4, list("aabb")) == Difference(-0.25, None)
    assert clustered_interval(right, list("aabb")) is None
    assert clustered_interval(right, list("aaaa")) is None
    assert clustered_interval(right, list("aabc")) is not None


@pytest.mark.parametrize(
    ("a", "b", "clusters", "words"),
    [
        ([1, 0], [1], None, "differ"),
        (1, 1, None, "differ"),
        ([[1, 0]], [[1, 0]], None, "differ"),
        ([], [], None, "differ"),
        ([1, 0], [1, 0], ["x"], "1,. labels for"),
    ],
)
def test_paired_difference_refuses(a: Any, b: Any, clusters: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paired_difference(a, b, clusters)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        # VassarStats' calculator, in statsmodels/stats/tests/test_nonparametric.py
        (121, 59, 0.000004),
        (70, 59, 0.378688),
        (80, 59, 0.089452),
        (30, 60, 0.00206),
        (10, 30, 0.002221),
        (10, 10, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_gives_published_figures(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p, abs=5.1e-7)


def test_mcnemar_is_symmetric_and_that_of_mlxtend() -> None:
    # mlxtend/evaluate/tests/test_mcnemar_test.py
    assert mcnemar(121, 59) == pytest.approx(4.4344492637555101e-06, rel=1e-9)
    for only_a, only_b in [(86, 150), (0, 7), (3, 3), (4, 3), (1, 0)]:
        tail = stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
        assert mcnemar(only_a, only_b) == pytest.approx(min(1, 2 * tail), rel=1e-9)
        assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 3)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_intervals_of_newcombe(
    correct: int, count: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_solves_its_quadratic() -> None:
    for confidence in (0.8, 0.95, 0.99):
        z = stats.norm.ppf((1 + confidence) / 2)
        for correct, count in [(1, 2), (3, 7), (86_990, 87_000)]:
            for end in wilson_interval(correct, count, confidence):
                error = z * np.sqrt(end * (1 - end) / count)
                assert abs(correct / count - end) == pytest.approx(error, abs=1e-12)


def test_wilson_stays_within_0_and_1_and_refuses_what_cannot_be() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 9)[0] == 0
    assert wilson_interval(9, 9)[1] == 1
    for correct, count in [(3, 2), (-1, 2), (0, -1)]:
        with pytest.raises(ValueError, match="cannot be"):
            wilson_interval(correct, count)


def test_wilson_is_that_of_scipy() -> None:
    for correct, count in [(0, 5), (5, 5), (81, 263), (86_990, 87_000)]:
        theirs = stats.binomtest(correct, count).proportion_ci(0.9, method="wilson")
        assert wilson_interval(correct, count, 0.9) == pytest.approx(tuple(theirs))


def test_clusters_of_one_image_make_it_wilsons_interval() -> None:
    flags = np.arange(50) < 47
    assert clustered_interval(flags) == wilson_interval(47, 50)
    assert clustered_interval(flags, [f"{n}" for n in range(50)]) == wilson_interval(47, 50)
    assert clustered_interval([]) == (0.0, 1.0)


SIZES = (5, 9, 14, 22, 29, 7, 18, 11)  # of eight clusters
CLUSTERS = np.repeat(np.arange(8), SIZES)


def recognised(hits: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The first images of each cluster."""
    return np.concatenate([np.arange(n) < hit for n, hit in zip(SIZES, hits, strict=True)])


ONE, OTHER = recognised((4, 3, 13, 9, 24, 6, 17, 2)), recognised((2, 8, 12, 10, 14, 1, 15, 4))


def test_paired_difference_is_that_of_statsmodels() -> None:
    # statsmodels 0.15.0: OLS(one - other, ones).fit(cov_type="cluster", cov_kwds={"groups":
    # clusters}, use_t=True).conf_int()
    ours = paired_difference(ONE, OTHER, CLUSTERS).interval
    assert ours == pytest.approx((-0.14172937746342934, 0.3504250296373424), rel=1e-12)


def test_images_count_as_many_as_korn_and_graubard_say() -> None:
    error = 0.10617580334735445  # of statsmodels likewise, of OLS(one, ones)
    n, share = 115, 78 / 115
    size = share * (1 - share) / error**2 * n / (n - 1)
    size *= (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, 7)) ** 2
    assert size == pytest.approx(13.7, abs=0.1)
    z, ends = stats.norm.ppf(0.975), clustered_interval(ONE, CLUSTERS)
    assert ends is not None
    for end in ends:  # Wilson's quadratic
        assert abs(share - end) == pytest.approx(z * np.sqrt(end * (1 - end) / size))


def test_without_a_mistake_a_cluster_counts_as_one_image() -> None:
    signers = np.repeat(np.arange(20), 50)
    right = np.ones(1000, dtype=bool)
    assert clustered_interval(right, signers) == wilson_interval(20, 20)
    assert clustered_interval(~right, signers) == wilson_interval(0, 20)


def test_clusters_that_agree_less_than_by_chance_do_not_narrow_the_interval() -> None:
    flags = np.arange(100) % 10 != 0  # exactly one mistake in each cluster
    ours, theirs = clustered_interval(flags, np.arange(100) // 10), wilson_interval(90, 100)
    assert ours is not None
    assert ours[0] < theirs[0] < theirs[1] < ours[1]


def coverage(
    mean: float, rho: float, clusters: int, size: int, draws: int = 1000
) -> npt.NDArray[np.float64]:
    """How often the interval by cluster and that of independent images hold the true share.

    Each cluster has an accuracy of its own, of a beta distribution with this mean and intra-cluster
    correlation.
    """
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(clusters), size)
    a, b = mean * (1 / rho - 1), (1 - mean) * (1 / rho - 1)
    held = np.zeros(2)
    for _ in range(draws):
        flags = rng.random(len(names)) < rng.beta(a, b, clusters)[names]
        by_cluster = clustered_interval(flags, names) or (0, 0)
        alone = wilson_interval(int(flags.sum()), len(flags))
        held += [by_cluster[0] <= mean <= by_cluster[1], alone[0] <= mean <= alone[1]]
    return held / draws


@pytest.mark.parametrize(
    ("mean", "rho", "clusters", "size"),
    [(0.7, 0.2, 5, 100), (0.9, 0.2, 20, 20), (0.95, 0.1, 30, 40), (0.97, 0.2, 290, 20)],
)
def test_the_interval_by_cluster_holds_the_truth_as_often_as_it_says(
    mean: float, rho: float, clusters: int, size: int
) -> None:
    by_cluster, alone = coverage(mean, rho, clusters, size)
    assert by_cluster >= 0.92
    assert alone <= 0.7


def test_holm_gives_the_p_values_of_r() -> None:
    # R's multtest, in statsmodels/stats/tests/test_multi.py (TestMultiTests1, column Holm)
    p_values = [
        0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238,
        0.177096952723, 5.23656777208e-05, 0.0202732688798, 0.00028140506198, 0.0149877310796,
    ]  # fmt: skip
    adjusted = [1, 1, 1, 1, 1, 1, 5.23656777208e-04, 0.1419128821586, 2.53264555782e-03,
                0.1199018486368]  # fmt: skip
    assert holm(p_values).tolist() == pytest.approx(adjusted, rel=1e-9)
    assert holm([]).tolist() == []


def test_holm_is_the_closure_of_bonferroni() -> None:
    # Marcus, Peritz and Gabriel 1976: a hypothesis falls if each intersection with it does
    for seed in range(20):
        p_values = np.random.default_rng(seed).random(5).round(1) ** 2  # with ties
        subsets = list(chain.from_iterable(combinations(range(5), size) for size in range(1, 6)))
        closed = [
            max(min(1.0, len(s) * min(p_values[list(s)])) for s in subsets if one in s)
            for one in range(5)
        ]
        assert holm(p_values).tolist() == pytest.approx(closed)


@pytest.mark.parametrize("wrong", [[0.1, np.nan], [0.1, 1.1], [-0.1], [[0.1, 0.2]], 0.1])
def test_holm_refuses_what_is_no_list_of_p_values(wrong: Any) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(wrong)


ROUNDING_FIRST_BASE = """
5.40 5.50 5.55  5.85 5.70 5.75  5.20 5.60 5.50  5.55 5.50 5.40  5.90 5.85 5.70  5.45 5.55 5.60
5.40 5.40 5.35  5.45 5.50 5.35  5.25 5.15 5.00  5.85 5.80 5.70  5.25 5.20 5.10  5.65 5.55 5.45
5.60 5.35 5.45  5.05 5.00 4.95  5.50 5.50 5.40  5.45 5.55 5.50  5.55 5.55 5.35  5.45 5.50 5.55
5.50 5.45 5.25  5.65 5.60 5.40  5.70 5.65 5.55  6.30 6.30 6.25
"""


def test_friedman_gives_the_figure_of_rs_documentation() -> None:
    # ?friedman.test: Hollander and Wolfe 1973, p. 140: 22 players, three ways round, p = 0.003805
    times = np.array(ROUNDING_FIRST_BASE.split(), dtype=float).reshape(22, 3)
    assert friedman(times) == pytest.approx(0.003805, abs=5e-7)


@pytest.mark.parametrize(("folds", "settings"), [(5, 3), (10, 7), (5, 200)])
def test_friedman_with_ties_is_that_of_scipy(folds: int, settings: int) -> None:
    accuracies = np.random.default_rng(0).random((folds, settings)).round(1)
    expected = stats.friedmanchisquare(*accuracies.T).pvalue
    assert friedman(accuracies) == pytest.approx(expected, rel=1e-9)


def test_friedman_of_equal_settings_is_1() -> None:
    assert friedman(np.full((5, 4), 0.9)) == 1
    equal = np.full((5, 3), 0.3)
    equal[:, 1] = 0.1 + 0.2  # 0.30000000000000004
    assert friedman(equal) == 1


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        (np.ones((5, 2)), "three or more settings"),
        (np.ones((1, 3)), "two or more folds"),
        (np.ones(5), "folds, settings"),
        ([[0.1, 0.2, np.nan], [0.1, 0.2, 0.3]], "not a finite number"),
    ],
)
def test_friedman_refuses(accuracies: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        friedman(accuracies)


BETTER = Comparison(0.0213, 0.0101, 0.0325, 0.001)


@pytest.mark.parametrize(
    ("comparison", "p", "words"),
    [
        (BETTER, 0.0031, "A is better than B (+0.0213, 95 % interval +0.0101 to +0.0325, "
         "p = 0.003)"),
        (BETTER, 0.05, "A is better than B (+0.0213, 95 % interval +0.0101 to +0.0325, p = 0.050)"),
        (BETTER, 0.06, "no significant difference between A and B (+0.0213, 95 % interval "
         "+0.0101 to +0.0325, p = 0.060)"),
        (Comparison(-0.02, -0.05, 0.01, 0.0, 0.9), 0.00099, "B is better than A (+0.0200, "
         "90 % interval -0.0100 to +0.0500, p < 0.001)"),
        (Comparison(-0.00001, -0.00002, 0.0, 1.0), 1.0, "no significant difference between A and B "
         "(+0.0000, 95 % interval +0.0000 to +0.0000, p = 1.00)"),
    ],
)  # fmt: skip
def test_verdict(comparison: Comparison, p: float, words: str) -> None:
    assert verdict("A", "B", comparison, p) == words
