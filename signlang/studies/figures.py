"""The settings of a study come in; charts of their learning and of their factors go out.

Charts are wide rather than high and colours are told apart by everybody; see `pages.drawing`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from signlang.pages.drawing import BLUE, COLOURS, INK, dress, empty, plain
from signlang.studies.measures import Effect
from signlang.studies.runs import Run
from signlang.studies.wording import p_text

Floats = npt.NDArray[np.float64]
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
    figure = empty(WIDTH, 3.3)
    for number, figure_of in enumerate(("loss", "accuracy"), start=1):
        panel = figure.add_subplot(1, 2, number)
        dress(panel)
        for part, shade in SERIES.items():
            folds = [h[f"{part}/{figure_of}"] for h in histories if f"{part}/{figure_of}" in h]
            for values in folds if len(folds) > 1 else []:
                panel.plot(_epochs(values), values, color=shade, linewidth=0.8, alpha=0.35)
            if folds:
                mean = mean_curve(folds)
                mark = "o" if len(mean) == 1 else None
                panel.plot(_epochs(mean), mean, color=shade, linewidth=2.2, label=part, marker=mark)
        panel.set_xlabel("epoch")
        panel.set_ylabel(figure_of)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.lines:
            panel.legend(frameon=False, labelcolor=INK)
    return figure


def mean_curve(folds: Sequence[Floats]) -> Floats:
    """Mean of curves of different length, at each epoch over those that are still running.

    >>> mean_curve([np.array([1.0, 2.0]), np.array([3.0])]).tolist()
    [2.0, 2.0]
    """
    table = np.full((len(folds), max(map(len, folds))), np.nan)
    for row, values in zip(table, folds, strict=True):
        row[: len(values)] = values
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no fold has a figure
        mean: Floats = np.where(known, table, 0).sum(0) / known.sum(0)
    return mean


def _epochs(values: Floats) -> npt.NDArray[np.int64]:
    return np.arange(1, len(values) + 1)


def effects_chart(
    effects: Mapping[str, Mapping[str, Effect]], p_values: Mapping[str, float | None]
) -> Figure:
    """Draw the mean accuracy at each level of each factor, a panel each, one deviation to a side.

    Args:
        effects: By factor and level.
        p_values: By factor; None where there is none.
    """
    columns = max(2, min(4, len(effects)))
    rows = -(-len(effects) // columns)
    figure = empty(max(WIDTH * columns / 4, 5.4), 3.2 * rows)
    first: Axes | None = None
    for number, (factor, levels) in enumerate(effects.items(), start=1):
        panel = figure.add_subplot(rows, columns, number, sharey=first)
        first = first or panel
        dress(panel)
        mean = [effect.mean for effect in levels.values()]
        spread = [effect.deviation for effect in levels.values()]
        place = range(len(levels))
        line = "-" if all(map(_is_number, levels)) else "none"  # words have no order
        look = {"color": BLUE, "ecolor": "#9db8d6", "capsize": 4, "linestyle": line}
        panel.errorbar(place, mean, np.nan_to_num(spread), marker="o", **look)  # type: ignore[arg-type]
        long = sum(map(len, levels)) > 18 or len(levels) > 5
        names = [plain(level, 18) for level in levels]
        panel.set_xticks(place, names, rotation=35 if long else 0, ha="right" if long else "center")
        panel.set_xlim(-0.5, len(levels) - 0.5)
        p = p_values.get(factor)
        panel.set_title(plain(factor, 28) + ("" if p is None else f"\n{p_text(p)}"))
        panel.grid(axis="x", visible=False)
        if number % columns == 1:
            panel.set_ylabel("accuracy")
        else:
            panel.tick_params(labelleft=False)
    return figure


def _is_number(level: str) -> bool:
    try:
        float(level)
    except ValueError:
        return False
    return True
