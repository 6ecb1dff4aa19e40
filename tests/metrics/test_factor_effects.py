"""Calibration, trade-offs and effects of factors, against published figures or others' code."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from signlang.metrics.classification import reliability_diagram
from signlang.metrics.factor_effects import factor_effects, main_effect_p, pareto
from signlang.metrics.significance import corrected_t_test


@pytest.mark.parametrize(("bins", "sharpness"), [(15, 1.0), (15, 6.0), (10, 3.0), (1, 1.0)])
def test_calibration_error_is_that_of_torchmetrics(bins: int, sharpness: float) -> None:
    rng = np.random.default_rng(bins)
    scores = np.exp(sharpness * rng.normal(size=(500, 6)))
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    labels = np.where(rng.random(500) < 0.6, probabilities.argmax(1), rng.integers(0, 6, 500))
    ours = reliability_diagram(probabilities.max(1), probabilities.argmax(1) == labels, bins)
    theirs = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), num_classes=6, n_bins=bins, norm="l1"
    )
    assert ours.error == pytest.approx(float(theirs), abs=1e-6)
    assert ours.count.sum() == 500


def test_bins_are_those_of_scikit_learn_and_closed_on_the_right() -> None:
    confidence = np.array([0.0, 0.25, 0.25, 0.26, 0.5, 0.9, 1.0, 0.1])
    correct = np.array([0, 1, 0, 1, 1, 1, 0, 0])
    ours = reliability_diagram(confidence, correct, bins=4)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=4, strategy="uniform")
    assert ours.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert ours.count.tolist() == [4, 2, 0, 2]
    filled = ours.count > 0
    assert ours.accuracy[filled].tolist() == pytest.approx(accuracy.tolist())
    assert ours.confidence[filled].tolist() == pytest.approx(mean.tolist())
    assert np.isnan(ours.accuracy[2])
    assert np.isnan(ours.confidence[2])


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "words"),
    [
        ([], [], 15, "needs images"),
        ([0.5], [True, False], 15, "needs images"),
        ([1.5], [True], 15, "outside 0 to 1"),
        ([np.nan], [True], 15, "outside 0 to 1"),
        ([0.5], [True], 0, "1 or more"),
    ],
)
def test_calibration_refuses(confidence: Any, correct: Any, bins: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reliability_diagram(confidence, correct, bins)


def test_pareto_is_what_a_sweep_from_cheap_to_dear_keeps() -> None:
    for seed in range(20):
        cost, value = np.random.default_rng(seed).integers(0, 6, (2, 12))
        kept, best = set(), -1
        for c in sorted(set(cost.tolist())):
            top = int(value[cost == c].max())
            if top > best:
                kept.add((c, top))
                best = top
        pairs = zip(cost.tolist(), value.tolist(), strict=True)
        assert pareto(cost, value).tolist() == [pair in kept for pair in pairs]


def test_pareto_keeps_ties_and_refuses_what_is_missing() -> None:
    assert pareto([1, 1, 2], [0.9, 0.9, 0.9]).tolist() == [True, True, False]
    assert pareto([], []).tolist() == []
    with pytest.raises(ValueError, match="missing"):
        pareto([1, np.nan], [0.9, 0.9])
    with pytest.raises(ValueError, match="length"):
        pareto([1, 2], [0.9])


# Montgomery, Design and Analysis of Experiments: life of a battery in hours, three materials at
# three temperatures, four of each, with the means that the book gives
BATTERIES = [
    [130, 155, 74, 180], [34, 40, 80, 75], [20, 70, 82, 58],
    [150, 188, 159, 126], [136, 122, 106, 115], [25, 70, 58, 45],
    [138, 110, 168, 160], [174, 120, 150, 139], [96, 104, 82, 60],
]  # fmt: skip
FACTORS = {"material": list("111222333"), "temperature": ["15", "70", "125"] * 3}


def test_factor_effects_gives_the_means_of_montgomery() -> None:
    effects = factor_effects(FACTORS, BATTERIES)
    means = {f: {level: e.mean for level, e in of.items()} for f, of in effects.items()}
    assert means["material"] == pytest.approx({"1": 83.17, "2": 108.33, "3": 125.08}, abs=0.005)
    assert means["temperature"] == pytest.approx(
        {"15": 144.83, "70": 107.58, "125": 64.17}, abs=0.005
    )
    assert list(effects) == ["material", "temperature"]
    assert list(effects["temperature"]) == ["15", "70", "125"]
    third = effects["material"]["3"]
    assert third.count == 12
    assert third.deviation == pytest.approx(np.sqrt(stats.tvar(np.ravel(BATTERIES[6:]))))


def test_factor_effects_leaves_out_what_is_missing() -> None:
    values = [[0.5, 0.7], [0.9, np.nan], [np.nan, np.nan]]
    effects = factor_effects({"lr": ["low", "high", "none"]}, values)
    low, high, none = effects["lr"].values()
    assert [low.mean, high.mean] == pytest.approx([0.6, 0.9])
    assert [low.count, high.count, none.count] == [2, 1, 0]
    assert np.isnan([high.deviation, none.mean, none.deviation]).all()
    with pytest.raises(ValueError, match="Factor lr has 1 levels for 2 settings"):
        factor_effects({"lr": ["low"]}, [[0.5], [0.6]])
    with pytest.raises(ValueError, match="settings, folds"):
        factor_effects({"lr": ["low"]}, [0.5])


GRID = {"lr": ["a", "a", "a", "b", "b", "b"], "batch": ["16", "32", "64"] * 2, "net": ["n"] * 6}


def test_main_effects_are_scipys_tests_of_the_means_over_the_other_factors() -> None:
    values = np.random.default_rng(0).random((6, 5))
    means = values.reshape(2, 3, 5)
    lr, batch = means.mean(axis=1), means.mean(axis=0)
    ours = main_effect_p(GRID, values, test_share=0.0)
    assert ours == {
        "lr": pytest.approx(stats.ttest_rel(*lr).pvalue),
        "batch": pytest.approx(stats.friedmanchisquare(*batch).pvalue),
        "net": None,
    }
    # five folds: each tests a fifth of the images and trains with the rest
    assert main_effect_p(GRID, values)["lr"] == corrected_t_test(lr[0] - lr[1], 0.2 / 0.8).p


def test_a_factor_without_any_effect_gets_1_in_spite_of_rounding() -> None:
    # the same accuracies at each level, summed up in another order
    accuracies = [0.1, 0.2, 0.3]
    assert sum(accuracies) != sum(reversed(accuracies))
    values = [[f] * 4 for turn in range(3) for f in accuracies[turn:] + accuracies[:turn]]
    levels = {"seen": list("aaabbbccc"), "other": list("xyzyzxzxy")}
    assert main_effect_p(levels, values)["seen"] == 1


def test_main_effects_need_a_complete_balanced_grid() -> None:
    values = np.random.default_rng(0).random((6, 5))
    nothing = dict.fromkeys(GRID)
    missing = values.copy()
    missing[2, 3] = np.nan
    assert main_effect_p(GRID, missing) == nothing
    assert main_effect_p(GRID, values[:, :1]) == nothing
    incomplete = {name: of[:5] for name, of in GRID.items()}
    assert main_effect_p(incomplete, values[:5]) == nothing
    unbalanced = {name: [*of, of[0]] for name, of in GRID.items()}
    assert main_effect_p(unbalanced, values[[*range(6), 0]]) == nothing
    twice = {name: [*of, *of] for name, of in GRID.items()}
    assert main_effect_p(twice, np.tile(values, (2, 1))) == {
        name: p if p is None else pytest.approx(p)
        for name, p in main_effect_p(GRID, values).items()
    }
