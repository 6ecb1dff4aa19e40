"""Effects of the factors of a grid search, and the Pareto front of cost and accuracy."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from signlang.arrays import Floats
from signlang.metrics.significance import corrected_t_test, friedman

Levels = Mapping[str, Sequence[str]]


def pareto(cost: npt.ArrayLike, value: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark the Pareto-optimal points: no other is as cheap and as good, and better in one of them.

    Equal points do not dominate each other, so all of them are marked.

    Args:
        cost: (n,) lower is better.
        value: (n,) higher is better.

    Raises:
        ValueError: If the lengths differ or a value is missing (nan).

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
    better_in_one = (costs < costs[:, None]) | (values > values[:, None])
    return np.asarray(~np.any(cheaper & better & better_in_one, axis=1), dtype=np.bool_)


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
    """Mean accuracy at each level of each factor, averaged over all other factors.

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
    table = _accuracy_table(levels, values)
    return {
        factor: {
            level: _effect(table[[one == level for one in setting_levels]])
            for level in dict.fromkeys(setting_levels)
        }
        for factor, setting_levels in levels.items()
    }


def _accuracy_table(levels: Levels, values: npt.ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"Accuracies must be (settings, folds), not {table.shape}.")
    for factor, setting_levels in levels.items():
        if len(setting_levels) != len(table):
            raise ValueError(
                f"Factor {factor} has {len(setting_levels)} levels for {len(table)} settings."
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
    otherwise the effects of the factors would be confounded. The p values of several factors are
    not adjusted for each other.

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
    table = _accuracy_table(levels, values)
    folds = table.shape[1]
    if folds < 2 or not np.isfinite(table).all() or not is_grid(levels):
        return dict.fromkeys(levels)
    share = 1 / (folds - 1) if test_share is None else test_share
    return {
        factor: _main_effect_p(setting_levels, table, share)
        for factor, setting_levels in levels.items()
    }


def is_grid(levels: Levels) -> bool:
    """Whether every combination of levels is there, equally often.

    >>> is_grid({"lr": ["low", "high"], "batch": ["32", "64"]})
    False
    """
    combinations = Counter(zip(*levels.values(), strict=True))
    possible = math.prod(len(set(setting_levels)) for setting_levels in levels.values())
    return len(combinations) == possible and len(set(combinations.values())) == 1


def _main_effect_p(setting_levels: Sequence[str], table: Floats, share: float) -> float | None:
    names = dict.fromkeys(setting_levels)
    means = [table[[one == level for one in setting_levels]].mean(axis=0) for level in names]
    if len(means) < 2:
        return None
    if len(means) == 2:
        return corrected_t_test(means[0] - means[1], share).p
    return friedman(np.stack(means, axis=1))
