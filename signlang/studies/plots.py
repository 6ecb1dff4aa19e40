"""Plots of a study: learning curves, factor effects, accuracy against cost.

Charts are wide rather than high and colours suit all kinds of colour vision; see `reporting.plots`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from signlang.arrays import Floats
from signlang.metrics.factor_effects import Effect, pareto
from signlang.reporting.formatting import p_text
from signlang.reporting.plots import BLUE, COLOURS, INK, literal_text, new_figure, style_axes
from signlang.runs.results import Run
from signlang.studies.study import Setting

WIDTH: Final = 9.4  # inches: the width of a report's text
SERIES: Final = {"train": COLOURS[1], "validation": BLUE}


def learning_curves(runs: Sequence[Run]) -> Figure | None:
    """Draw loss and accuracy over the epochs: a thin line per fold, their mean bold.

    Returns:
        None if no run wrote a history.
    """
    histories = [run.history for run in runs if run.history]
    if not histories:
        return None
    figure = new_figure(WIDTH, 3.3)
    for number, metric in enumerate(("loss", "accuracy"), start=1):
        panel = figure.add_subplot(1, 2, number)
        style_axes(panel)
        for subset, line_colour in SERIES.items():
            folds = [h[f"{subset}/{metric}"] for h in histories if f"{subset}/{metric}" in h]
            for values in folds if len(folds) > 1 else []:
                panel.plot(_epochs(values), values, color=line_colour, linewidth=0.8, alpha=0.35)
            if folds:
                mean = mean_curve(folds)
                marker = "o" if len(mean) == 1 else None
                panel.plot(
                    _epochs(mean),
                    mean,
                    color=line_colour,
                    linewidth=2.2,
                    label=subset,
                    marker=marker,
                )
        panel.set_xlabel("epoch")
        panel.set_ylabel(metric)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        classes = runs[0].record.get("data", {}).get("classes")
        if metric == "accuracy" and panel.lines and classes:
            draw_chance(panel, int(classes))
        if panel.lines:
            panel.legend(frameon=False, labelcolor=INK)
    return figure


def draw_chance(panel: Axes, classes: int) -> None:
    """Draw the accuracy of guessing one of so many classes as a dotted line."""
    chance = 1 / classes
    panel.axhline(chance, color=INK, linewidth=1.0, linestyle=":", zorder=1)
    panel.text(
        0.99, chance, f"guessing {chance:.3g}", transform=panel.get_yaxis_transform(), ha="right",
        va="bottom", fontsize=8.5, color=INK,
    )  # fmt: skip


def mean_curve(folds: Sequence[Floats]) -> Floats:
    """Mean of curves of different length, at each epoch over those that are still running.

    >>> mean_curve([np.array([1.0, 2.0]), np.array([3.0])]).tolist()
    [2.0, 2.0]
    """
    table = np.full((len(folds), max(map(len, folds))), np.nan)
    for row, values in zip(table, folds, strict=True):
        row[: len(values)] = values
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no fold has a value
        mean: Floats = np.where(known, table, 0).sum(0) / known.sum(0)
    return mean


def _epochs(values: Floats) -> npt.NDArray[np.int64]:
    return np.arange(1, len(values) + 1)


def effects_chart(
    effects: Mapping[str, Mapping[str, Effect]],
    p_values: Mapping[str, float | None],
    classes: int = 0,
) -> Figure:
    """Draw the mean accuracy at each level of each factor, a panel each, with error bars.

    Args:
        effects: By factor and level.
        p_values: By factor; None where there is none.
        classes: Of which one is guessed; the accuracy of that is drawn where it is near. 0: not.
    """
    columns = max(2, min(4, len(effects)))
    rows = -(-len(effects) // columns)
    figure = new_figure(max(WIDTH * columns / 4, 5.4), 3.2 * rows)
    first: Axes | None = None
    for number, (factor, levels) in enumerate(effects.items(), start=1):
        panel = figure.add_subplot(rows, columns, number, sharey=first)
        first = first or panel
        style_axes(panel)
        mean = [effect.mean for effect in levels.values()]
        spread = [effect.deviation for effect in levels.values()]
        x = range(len(levels))
        line = "-" if all(map(_is_number, levels)) else "none"  # words have no order
        style = {"color": BLUE, "ecolor": "#9db8d6", "capsize": 4, "linestyle": line}
        panel.errorbar(x, mean, np.nan_to_num(spread), marker="o", **style)  # type: ignore[arg-type]
        long = sum(map(len, levels)) > 18 or len(levels) > 5
        names = [literal_text(level, 18) for level in levels]
        panel.set_xticks(x, names, rotation=35 if long else 0, ha="right" if long else "center")
        panel.set_xlim(-0.5, len(levels) - 0.5)
        p = p_values.get(factor)
        panel.set_title(literal_text(factor, 28) + ("" if p is None else f"\n{p_text(p)}"))
        panel.grid(axis="x", visible=False)
        if number % columns == 1:
            panel.set_ylabel("accuracy")
        else:
            panel.tick_params(labelleft=False)
    for panel in figure.axes if classes and first and 1 / classes > first.get_ylim()[0] else []:
        draw_chance(panel, classes)
    return figure


def _is_number(level: str) -> bool:
    try:
        float(level)
    except ValueError:
        return False
    return True


COSTS: Final = {
    "parameters": "parameters",
    "flops": "FLOPs (a multiply-add is 1)",
    "latency_ms": "ms per image",
}
KEY_LINES: Final = 15  # of one column of the key
MARKER: Final = 12.5  # points: room for a number of two digits


@dataclass(frozen=True)
class Point:
    """One network among others.

    Attributes:
        name: Its network.
        label: Its setting, in full.
        group: Whom it may be compared with: settings that share folds.
        accuracy: Mean over folds.
        spread: Two standard deviations over folds; nan for a single fold.
        costs: By the names of `COSTS`.
    """

    name: str
    label: str
    group: int
    accuracy: float
    spread: float
    costs: Mapping[str, float]


def points(settings: Sequence[Setting], labels: Mapping[str, str]) -> list[Point]:
    """The best setting of each network, for each fold assignment; the best first.

    Settings of one network that cost differently, e.g. by the size of their images, stay apart.

    Args:
        settings: The best first.
        labels: Short name of each by its name.
    """
    assignments = list(dict.fromkeys(setting.fold_assignment for setting in settings))
    points: dict[tuple[object, ...], Point] = {}
    for setting in settings:
        costs = {cost: setting.mean(cost) for cost in COSTS}
        key = (setting.fold_assignment, setting.model, costs["parameters"], costs["flops"])
        if key not in points and all(map(math.isfinite, costs.values())):
            points[key] = Point(
                setting.model,
                labels[setting.name],
                assignments.index(setting.fold_assignment),
                setting.mean("accuracy"),
                setting.two_deviations("accuracy"),
                costs,
            )
    return sorted(points.values(), key=lambda point: -point.accuracy)


def cost_chart(points: Sequence[Point], groups: Sequence[str], classes: int = 0) -> Figure:
    """Draw accuracy against parameters, FLOPs and latency, a panel each, with the Pareto fronts.

    Points have numbers, which a key beside the panels explains.

    Args:
        points: The most accurate first; at least one.
        groups: What each group of points has in common, for the legend.
        classes: As of `effects_chart`.
    """
    is_ambiguous = len({(p.name, p.group) for p in points}) < len(points)
    columns = -(-len(points) // KEY_LINES)
    keys = [literal_text(p.label if is_ambiguous else p.name, 60) for p in points]
    key_width = 0.5 + 0.075 * max(map(len, keys))  # inches, of 9 points
    figure = new_figure(WIDTH + key_width * columns, 4.0 if len(groups) > 1 else 3.7)
    ratios = [WIDTH / 3] * 3 + [key_width] * columns
    grid = figure.add_gridspec(1, 3 + columns, width_ratios=ratios)
    panels = [figure.add_subplot(grid[0, number]) for number in range(3)]
    for panel, cost in zip(panels, COSTS, strict=True):
        _cost_panel(panel, points, cost)
        if classes and 1 / classes > panel.get_ylim()[0]:
            draw_chance(panel, classes)
        panel.set_xlabel(COSTS[cost])
    panels[0].set_ylabel("accuracy")
    for panel in panels[1:]:
        panel.sharey(panels[0])
        panel.tick_params(labelleft=False)
    for column in range(columns):
        _key(figure.add_subplot(grid[0, 3 + column]), points, keys, column * KEY_LINES)
    if len(groups) > 1:
        handles = [panels[0].plot([], [], "o-", color=colour(g))[0] for g in range(len(groups))]
        titles = [literal_text(group, 60) for group in groups]
        figure.legend(handles, titles, loc="outside upper left", frameon=False, labelcolor=INK)
    return figure


def colour(group: int) -> str:
    """The colour of a group of points; after the fourth they repeat."""
    return COLOURS[group % len(COLOURS)]


def _cost_panel(panel: Axes, points: Sequence[Point], cost: str) -> None:
    style_axes(panel)
    for group in sorted({p.group for p in points}):
        members = [p for p in points if p.group == group]
        x = np.array([p.costs[cost] for p in members])
        y = np.array([p.accuracy for p in members])
        bars = np.array([_bar(p) for p in members]).T
        style = {"color": colour(group), "ecolor": colour(group), "elinewidth": 1.0, "alpha": 0.45}
        panel.errorbar(
            x, y, [y - bars[0], bars[1] - y], linestyle="none", capsize=2.5, **style  # type: ignore[arg-type]
        )  # fmt: skip
        line = _front(members, cost)
        panel.plot(line[:, 0], line[:, 1], color=colour(group), linewidth=1.2, linestyle="--")
    _numbered_points(panel, points, cost)
    low, high = _limits(points)
    panel.set_ylim(low, high)
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    panel.set_yticks([tick for tick in ticks if low < tick <= 1 + 1e-9])
    panel.set_ylim(low, high)
    _cost_axis(panel, np.array([p.costs[cost] for p in points]))


def _numbered_points(panel: Axes, points: Sequence[Point], cost: str) -> None:
    """Draw the points with their numbers in them, the most accurate on top."""
    for number, point in reversed(list(enumerate(points, start=1))):
        position = (point.costs[cost], point.accuracy)
        order = 3 + 1 / number
        panel.plot(
            *position, "o", color=colour(point.group), markersize=MARKER, markeredgecolor="white",
            zorder=order,
        )  # fmt: skip
        panel.annotate(
            str(number), position, ha="center", va="center_baseline", fontsize=7, color="white",
            fontweight="bold", zorder=order,
        )  # fmt: skip


def _bar(point: Point) -> tuple[float, float]:
    """Ends of the bar of a point: an accuracy above 1 cannot be."""
    spread = 0.0 if math.isnan(point.spread) else point.spread
    return point.accuracy - spread, min(point.accuracy + spread, 1.0)


def _front(members: Sequence[Point], cost: str) -> Floats:
    """(M, 2) the points that no other beats, the cheapest first."""
    points = np.array([(p.costs[cost], p.accuracy) for p in members])
    front = points[pareto(points[:, 0], points[:, 1])]
    ordered: Floats = front[np.lexsort((front[:, 1], front[:, 0]))]
    return ordered


def _limits(points: Sequence[Point]) -> tuple[float, float]:
    """Room for the bars and the points."""
    ends = np.array([_bar(point) for point in points])
    low, high = float(ends.min()), float(ends.max())
    margin = max(0.18 * (high - low), 0.002)
    return low - margin, high + margin


def _cost_axis(panel: Axes, costs: Floats) -> None:
    low, high = float(costs.min()), float(costs.max())
    if low > 0:
        margin = max((high / low) ** 0.2, 2.0)
        panel.set_xscale("log")
        panel.set_xlim(low / margin, high * margin)
        panel.set_xticks(ticks(low / margin, high * margin))
    panel.xaxis.set_major_formatter(EngFormatter(sep=" "))
    panel.minorticks_off()


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers for a logarithmic axis.

    >>> ticks(2.5e5, 1.5e6), ticks(2, 200), ticks(1, 1e5)
    ([500000.0, 1000000.0], [3.0, 10.0, 30.0, 100.0], [1.0, 100.0, 10000.0])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        points = [
            step * 10.0**d for d in decades for step in steps if low <= step * 10.0**d <= high
        ]
        if len(points) <= most:
            return points
    return points[:: -(-len(points) // most)]


def _key(panel: Axes, points: Sequence[Point], keys: Sequence[str], start: int) -> None:
    panel.axis("off")
    for line, point in enumerate(points[start : start + KEY_LINES]):
        text = f"{start + line + 1:2}  {keys[start + line]}"
        position = (0.0, 1.0 - (line + 0.5) / KEY_LINES)
        panel.annotate(
            text, position, xycoords="axes fraction", va="center", fontsize=9,
            color=colour(point.group), annotation_clip=False,
        )  # fmt: skip
