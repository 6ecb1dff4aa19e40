"""Tests and intervals, each against published figures or somebody else's code."""

from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from signlang.metrics.significance import (
    Comparison,
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


def test_paired_difference_of_single_images_is_scipys_paired_t_test() -> None:
    a, b = np.random.default_rng(1).random((2, 200)) < np.array([[0.9], [0.8]])
    theirs = stats.ttest_rel(a.astype(float), b.astype(float))
    for groups in (None, [f"image {number}" for number in range(200)]):
        ours = paired_difference(a, b, groups)
        assert ours.difference == pytest.approx(a.mean() - b.mean())
        assert ours.p == pytest.approx(theirs.pvalue)
        assert ends(ours) == pytest.approx(theirs.confidence_interval(0.95))


def test_paired_difference_of_equal_groups_is_the_t_test_of_their_means() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 12, 20)) < rng.random((2, 12, 1))
    order = rng.permutation(240)
    groups = np.repeat(np.arange(12), 20)[order]
    ours = paired_difference(a.ravel()[order], b.ravel()[order], groups, confidence=0.9)
    theirs = stats.ttest_1samp(a.mean(axis=1) - b.mean(axis=1), 0)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ends(ours) == pytest.approx(theirs.confidence_interval(0.9))


def test_paired_difference_of_unequal_groups_is_the_sandwich_of_liang_and_zeger() -> None:
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 7, 100)
    a, b = rng.random((2, 100)) < np.array([[0.8], [0.6]])
    differences = a.astype(float) - b
    # (X'X)^-1 X' Omega X (X'X)^-1, where X is a column of ones and Omega has a block for each group
    ones, error = np.ones((100, 1)), differences - differences.mean()
    omega = np.outer(error, error) * (groups[:, None] == groups)
    bread = np.linalg.inv(ones.T @ ones)
    variance = (7 / 6 * bread @ ones.T @ omega @ ones @ bread).item()
    half = stats.t.ppf(0.975, 6) * np.sqrt(variance)
    ours = paired_difference(a, b, groups)
    assert ours.high - ours.difference == pytest.approx(half)
    assert ours.difference - ours.low == pytest.approx(half)


def test_paired_difference_where_nothing_or_everything_differs() -> None:
    right, wrong = np.ones(6, dtype=bool), np.zeros(6, dtype=bool)
    assert paired_difference(right, right) == Comparison(0.0, 0.0, 0.0, 1.0)
    assert paired_difference(right, wrong, list("aabbcc")) == Comparison(1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("a", "b", "groups", "words"),
    [
        ([1, 0], [1], None, "differ"),
        (1, 1, None, "differ"),
        ([[1, 0]], [[1, 0]], None, "differ"),
        ([1, 0], [1, 0], ["x"], "1,. labels for"),
        ([1, 0], [1, 0], ["x", "x"], "two or more groups"),
        ([], [], None, "two or more groups"),
    ],
)
def test_paired_difference_refuses(a: Any, b: Any, groups: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paired_difference(a, b, groups)


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


def test_holm_gives_the_figures_of_r() -> None:
    # R's multtest, in statsmodels/stats/tests/test_multi.py (TestMultiTests1, column Holm)
    given = [
        0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238,
        0.177096952723, 5.23656777208e-05, 0.0202732688798, 0.00028140506198, 0.0149877310796,
    ]  # fmt: skip
    adjusted = [1, 1, 1, 1, 1, 1, 5.23656777208e-04, 0.1419128821586, 2.53264555782e-03,
                0.1199018486368]  # fmt: skip
    assert holm(given).tolist() == pytest.approx(adjusted, rel=1e-9)
    assert holm([]).tolist() == []


def test_holm_is_the_closure_of_bonferroni() -> None:
    # Marcus, Peritz and Gabriel 1976: a hypothesis falls if each intersection with it does
    for seed in range(20):
        given = np.random.default_rng(seed).random(5).round(1) ** 2  # with ties
        subsets = list(chain.from_iterable(combinations(range(5), size) for size in range(1, 6)))
        closed = [
            max(min(1.0, len(s) * min(given[list(s)])) for s in subsets if one in s)
            for one in range(5)
        ]
        assert holm(given).tolist() == pytest.approx(closed)


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
