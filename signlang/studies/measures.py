"""Figures of many settings come in; calibration, trade-offs and effects of factors go out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from signlang.studies.statistics import Floats, corrected_t_test, friedman

Levels = Mapping[str, Sequence[str]]


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


def calibration(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15) -> Reliability:
    """How far confidence is from accuracy (Guo et al. 2017, arXiv 1706.04599, section 2).

    Bins are of equal width and closed on the right; a confidence of 0 belongs to the first. The
    error is the sum over bins of count / n * |accuracy - confidence|.

    Args:
        confidence: (n,) highest probability of each picture, from 0 to 1.
        correct: (n,) truth values, whether that class was the right one.
        bins: Number of bins.

    Raises:
        ValueError: With no pictures, different lengths, or a confidence outside 0 to 1.

    >>> result = calibration([0.9, 0.8, 0.3], [True, False, True], bins=2)
    >>> result.count.tolist(), result.accuracy.tolist(), round(result.error, 4)
    ([1, 2], [1.0, 0.5], 0.4667)
    """
    given, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if given.ndim != 1 or given.shape != right.shape or not len(given):
        raise ValueError(f"Calibration needs pictures, not {given.shape} and {right.shape}.")
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


def pareto(cost: npt.ArrayLike, value: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points no other beats: cheaper or as cheap, and as good or better, once strictly.

    Equal points do not beat each other, so all of them stay.

    Args:
        cost: (n,) lower is better.
        value: (n,) higher is better.

    Raises:
        ValueError: If the lengths differ or a figure is missing (nan).

    >>> pareto([1, 2, 3, 3], [0.8, 0.9, 0.9, 0.95]).tolist()
    [True, True, False, True]
    """
    costs, values = np.asarray(cost, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if costs.ndim != 1 or costs.shape != values.shape:
        raise ValueError(f"cost and value differ in length: {costs.shape} and {values.shape}.")
    if np.isnan(costs).any() or np.isnan(values).any():
        raise ValueError("A cost or value is missing (nan); leave that point out.")
    # [i, j]: j against i
    cheaper, better = costs <= costs[:, None], values >= values[:, None]
    strictly = (costs < costs[:, None]) | (values > values[:, None])
    return np.asarray(~np.any(cheaper & better & strictly, axis=1), dtype=np.bool_)


@dataclass(frozen=True)
class Effect:
    """Accuracies of all settings that share one level of a factor.

    Attributes:
        mean: Their mean, nan if there is none.
        deviation: Their standard deviation (n - 1), nan if there are fewer than two.
        count: Number of accuracies: settings times folds, less those that are missing.
    """

    mean: float
    deviation: float
    count: int


def factor_effects(levels: Levels, values: npt.ArrayLike) -> dict[str, dict[str, Effect]]:
    """Mean accuracy at each level of each factor, over everything else that varies.

    Factors and levels keep the order in which they first appear.

    Args:
        levels: For each factor the level of each setting.
        values: (settings, folds) accuracies; nan marks a run that is missing.

    Raises:
        ValueError: If a factor does not have one level for each setting.

    >>> grid = {"lr": ["low", "low", "high"]}
    >>> factor_effects(grid, [[0.8], [0.9], [0.7]])["lr"]["low"].count
    2
    """
    table = _table(levels, values)
    return {
        factor: {
            level: _effect(table[[one == level for one in of_settings]])
            for level in dict.fromkeys(of_settings)
        }
        for factor, of_settings in levels.items()
    }


def _table(levels: Levels, values: npt.ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"Accuracies must be (settings, folds), not {table.shape}.")
    for factor, of_settings in levels.items():
        if len(of_settings) != len(table):
            raise ValueError(
                f"Factor {factor} has {len(of_settings)} levels for {len(table)} settings."
            )
    return table


def _effect(accuracies: Floats) -> Effect:
    present = accuracies[~np.isnan(accuracies)]
    mean = float(present.mean()) if len(present) else math.nan
    deviation = float(present.std(ddof=1)) if len(present) > 1 else math.nan
    return Effect(mean, deviation, len(present))


def main_effect_p(
    levels: Levels, values: npt.ArrayLike, test_share: float | None = None
) -> dict[str, float | None]:
    """For each factor the p value of "its level makes no difference, on average over the others".

    On each fold the accuracies are averaged over all settings with the same level. Two levels are
    compared by the corrected t-test over the folds, more by the Friedman test over the folds.

    A factor gets None if it has one level only, and all factors do unless the grid is complete and
    balanced (every combination of levels equally often, no run missing) with two or more folds:
    otherwise the effect of another factor would be taken for that of this one. The p values of
    several factors are not adjusted for each other.

    Args:
        levels: For each factor the level of each setting.
        values: (settings, folds) accuracies; nan marks a run that is missing.
        test_share: See `corrected_t_test`; by default 1 / (folds - 1), that of a cross-validation.

    Raises:
        ValueError: If a factor does not have one level for each setting.

    >>> grid = {"lr": ["low", "low", "high", "high"], "pretrained": ["no", "yes", "no", "yes"]}
    >>> main_effect_p(grid, [[0.5, 0.6], [0.8, 0.9], [0.5, 0.6], [0.8, 0.9]])
    {'lr': 1.0, 'pretrained': 0.0}
    """
    table = _table(levels, values)
    folds = table.shape[1]
    if folds < 2 or not np.isfinite(table).all() or not _is_balanced(levels):
        return dict.fromkeys(levels)
    share = 1 / (folds - 1) if test_share is None else test_share
    return {
        factor: _main_effect_p(of_settings, table, share) for factor, of_settings in levels.items()
    }


def _is_balanced(levels: Levels) -> bool:
    combinations = Counter(zip(*levels.values(), strict=True))
    possible = math.prod(len(set(of_settings)) for of_settings in levels.values())
    return len(combinations) == possible and len(set(combinations.values())) == 1


def _main_effect_p(of_settings: Sequence[str], table: Floats, share: float) -> float | None:
    names = dict.fromkeys(of_settings)
    means = [table[[one == level for one in of_settings]].mean(axis=0) for level in names]
    if len(means) < 2:
        return None
    if len(means) == 2:
        return corrected_t_test(means[0] - means[1], share).p
    return friedman(np.stack(means, axis=1))
