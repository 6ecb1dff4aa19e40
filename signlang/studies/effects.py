"""Standings of a grid come in; what each of its factors does goes out, a section of a report."""

from typing import Final

import numpy as np

from signlang.pages.page import Number, Picture, Section, Table, Text
from signlang.studies import figures, measures
from signlang.studies.standings import Standings
from signlang.studies.tables import Rows, with_spread
from signlang.studies.wording import p_cell

NO_GRID: Final = (
    "The settings are not every combination of the levels of their factors, equally often. A mean "
    "over all that share a level would give one factor the merit of another: compare rows of the "
    "table."
)


def effects(standings: Standings) -> Section | None:
    """What each factor does, for studies with two factors or more."""
    study = standings.study
    if len(study.factors) < 2:
        return None
    # the levels in the order of their size, not of their success
    settings = sorted(study.settings, key=lambda s: [_size(s.choice(f)) for f in study.factors])
    levels = {factor: [setting.choice(factor) for setting in settings] for factor in study.factors}
    if not measures.is_grid(levels):
        return Section("Effect of each factor", [Text(NO_GRID)])
    values = np.full((len(settings), max(s.folds for s in settings)), np.nan)
    for row, setting in zip(values, settings, strict=True):
        for run in setting.runs:
            row[run.fold] = run.figure("accuracy")
    found = measures.factor_effects(levels, values)
    found = {f: dict(sorted(of.items(), key=lambda e: _size(e[0]))) for f, of in found.items()}
    p_values = measures.main_effect_p(levels, values, settings[0].test_share)
    text = "Mean accuracy of all settings that share a level, over everything else that varies."
    if None in p_values.values():
        text += (
            " There are no p values: not every setting was trained on every fold, so that a factor "
            "may be given the merit of another."
        )
    rows: Rows = [
        [
            factor, level, Number(with_spread(effect.mean, 2 * effect.deviation)), effect.count,
            Number(p_cell(p_values[factor])),
        ]
        for factor, of_factor in found.items()
        for level, effect in of_factor.items()
    ]  # fmt: skip
    best = {f: max(of, key=lambda level, of=of: of[level].mean) for f, of in found.items()}  # type: ignore[misc]
    alt = "Best levels: " + ", ".join(f"{factor} {level}" for factor, level in best.items())
    chart = Picture("factors", f"Mean accuracy by level of each factor. {alt}.",
                    figures.effects_chart(found, p_values))  # fmt: skip
    header = ["factor", "level", "accuracy ± 2 sd", "runs", "p of the factor"]
    return Section("Effect of each factor", [Text(text), chart, Table("Effects", header, rows)])


def _size(level: str) -> tuple[float, str]:
    """Sort numbers by size, before words.

    >>> sorted(["64", "128", "none", "1e-4"], key=_size)
    ['1e-4', '64', '128', 'none']
    """
    try:
        return (float(level), level)
    except ValueError:
        return (float("inf"), level)
