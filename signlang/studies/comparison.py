"""Comparison of the runs of a study: report page, glossary and all files of `compare`."""

import re
import shlex
from pathlib import Path
from typing import Any, Final

from signlang import __version__, console
from signlang.console import log
from signlang.errors import RunError, SettingError
from signlang.files import escaping_link, write_json
from signlang.metrics import calibration, factor_effects
from signlang.reporting import page
from signlang.reporting.formatting import p_cell, with_spread
from signlang.reporting.page import (
    Blocks,
    ImageBlock,
    Notes,
    Number,
    Page,
    Rows,
    Section,
    Table,
    Text,
)
from signlang.studies import leaderboard, sections, verdicts
from signlang.studies import plots as study_plots
from signlang.studies.leaderboard_columns import EACH_FOLD, RANK, REPORT, chosen
from signlang.studies.prefetch import prefetched
from signlang.studies.ranking import Ranking, rank_settings, warn_of_unusable
from signlang.studies.study import Study, accuracy_by_fold, read_study

NO_GRID: Final = (
    "The settings are not every combination of the levels of their factors, equally often. A mean "
    "over all that share a level would give one factor the merit of another: compare rows of the "
    "table."
)


def effects(ranking: Ranking) -> Section | None:
    """What each factor does, for studies with two factors or more."""
    study = ranking.study
    if len(study.factors) < 2:
        return None
    # the levels in the order of their size, not of their success
    settings = sorted(study.settings, key=lambda s: [_size(s.choice(f)) for f in study.factors])
    levels = {factor: [setting.choice(factor) for setting in settings] for factor in study.factors}
    if not factor_effects.is_grid(levels):
        return Section("Effect of each factor", [Text(NO_GRID)])
    values = accuracy_by_fold(settings)
    level_effects = {
        factor: dict(sorted(of_factor.items(), key=lambda effect: _size(effect[0])))
        for factor, of_factor in factor_effects.factor_effects(levels, values).items()
    }
    p_values = factor_effects.main_effect_p(levels, values, settings[0].test_share)
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
        for factor, of_factor in level_effects.items()
        for level, effect in of_factor.items()
    ]  # fmt: skip
    best = {f: max(of, key=lambda level, of=of: of[level].mean) for f, of in level_effects.items()}  # type: ignore[misc]
    alt = "Best levels: " + ", ".join(f"{factor} {level}" for factor, level in best.items())
    classes = len(settings[0].predictions.classes)
    chart = ImageBlock("factors", f"Mean accuracy by level of each factor. {alt}.",
                    study_plots.effects_chart(level_effects, p_values, classes))  # fmt: skip
    header = ["factor", "level", "accuracy ± 2 sd", "runs", "p of the factor"]
    return Section("Effect of each factor", [Text(text), chart, Table("Effects", header, rows)])


def searches(study: Study) -> Section | None:
    """Hyper-parameter searches: how far their metrics are biased, and what each fold chose."""
    if not study.searches:
        return None
    blocks: Blocks = [Text(search.caution) for search in study.searches]
    header = ["fold", "chosen", "validation accuracy", "test accuracy"]
    for setting in study.settings:
        if setting.search is None:
            continue
        rows: Rows = [
            [
                run.fold, trial.text, Number(f"{run.metric('validation_accuracy'):.4f}"),
                Number(f"{run.metric('accuracy'):.4f}"),
            ]
            for run, trial in setting.chosen
        ]  # fmt: skip
        blocks.append(Table(f"What each fold of {study.label(setting)} chose", header, rows))
    return Section("Hyper-parameter search", blocks)


def _size(level: str) -> tuple[float, str]:
    """Sort numbers by size, before words.

    >>> sorted(["64", "128", "none", "1e-4"], key=_size)
    ['1e-4', '64', '128', 'none']
    """
    try:
        return (float(level), level)
    except ValueError:
        return (float("inf"), level)


PROTOCOL: Final = (
    "A fold is a set of test images. “test fold untouched” means that training, early stopping "
    "and the choice of the checkpoint looked only at a validation subset cut out of the other "
    "folds. “validation=fold” is the optimistic protocol of many published tables, in which "
    "the test fold also picks the checkpoint: "
    "its accuracies are too high by an unknown amount, and are here to be compared with those "
    "tables only. Its calibration errors are in-sample likewise."
)
CHANCE: Final = (
    "Folds share training images, so the spread over folds understates how much results vary; "
    "the corrected test allows for that. A p value says how often chance alone would give such a "
    "difference, not how large or how useful it is; 0.05 is the limit used here. No significant "
    "difference does not mean equally good: the interval beside it gives the plausible range. "
    "p and “best less this” are adjusted for all pairs of settings. The interval of a verdict is "
    "not, so it may leave out 0 where the adjusted p is above the limit."
)
METRIC_MEANINGS: Final = {
    "cost against accuracy": "a dashed line joins the networks that no other beats in both (the "
    "Pareto front); bars are two standard deviations over folds, cut off at 1",
    "learning curves": "thin lines are folds, bold ones their mean over the folds that still run: "
    "it may jump where a fold stops early",
    "confusion": "rows are what images show, columns what they were taken for; numbers are "
    "images of all test folds",
    "reliability": "of a well calibrated network the dots lie on the dashed line; dots above it "
    "mean too little confidence, dots below it too much",
    "effect of each factor": "mean accuracy of all settings with that level, one standard "
    "deviation of settings and folds as error bars. The p value compares the levels fold by fold "
    "(corrected t-test for two, Friedman 1937 for more), only where the grid is complete and no "
    "run is missing; not adjusted for the number of factors",
}


def glossary_section() -> Section:
    """The last section of every report."""
    columns = [[c.title, c.meaning] for c in (*chosen(REPORT), EACH_FOLD) if c.meaning]
    meanings = [[name, text] for name, text in METRIC_MEANINGS.items()]
    return Section(
        "How to read it",
        [
            Text(PROTOCOL),
            Text(CHANCE),
            Table("Columns of the leaderboard", ["column", "meaning"], columns),
            Table("Figures", ["figure", "meaning"], meanings),
        ],
    )


FIGURES: Final = re.compile(
    r"((cost|factors)|(curves|confusion|mistakes|explanations|reliability)(-\d+)?)\.png"
)  # fmt: skip


def report_page(ranking: Ranking) -> Page:
    """The report of a study; `Page.write` replaces that of an earlier comparison."""
    study = ranking.study
    best = ranking.rows[0]
    runs = sum(len(setting.runs) for setting in study.settings)
    tiles = {
        "settings": f"{len(study.settings):,}",
        "finished runs": f"{runs:,}",
        "networks": f"{len({setting.model for setting in study.settings}):,}",
        "best accuracy": f"{best.setting.mean('accuracy'):.4f}",
        "its macro F1": f"{best.setting.mean('macro_f1'):.4f}",
        "its calibration error": f"{best.setting.mean('calibration_error'):.4f}",
    }
    optional_sections = [
        sections.compared(study),
        sections.leaderboard(ranking),
        sections.data_sets(ranking),
        sections.splits(ranking.pairs),
        sections.cost(ranking),
        searches(study),
        effects(ranking),
        sections.curves(ranking),
        sections.confusion(ranking),
        sections.mistakes(ranking),
        sections.explanations(ranking),
        sections.reliability(ranking),
        sections.provenance_rows(study),
        glossary_section(),
    ]
    return Page(
        name="report",
        title=f"Study {study.name}",
        lead=f"Written by signlang {__version__}. The best setting is {best.label}, "
        f"{sections.fold_assignments([best.setting])[best.setting.fold_assignment]}.",
        tiles=tiles,
        notes=[
            Notes("Verdicts", verdicts.sentences(ranking)),
            Notes("Warnings", study.remarks, is_warning=True),
            Notes("What is missing", list(map(str, study.incomplete)), is_warning=True),
        ],
        sections=[section for section in optional_sections if section is not None],
        ours=FIGURES,
        endings=("html",),
        wide=True,
    )


def compare_study(
    path: Path,
    out: Path | None = None,
    *,
    allow_incomplete: bool = False,
    sort: str = RANK,
) -> Ranking:
    """Compare all settings of a study, write what comes of it, and show the leaderboard.

    Run folders are only read.

    Args:
        path: Folder of the study.
        out: Where to write; the folder of the study if not given.
        allow_incomplete: Compare what there is, though folds are missing.
        sort: Column of `leaderboard.csv` to sort the tables by.

    Raises:
        RunError: If runs are missing, or cannot be compared.
        SettingError: If `out` cannot be written to, or `sort` is no column.
    """
    study = read_study(path)
    out = path if out is None else out
    leaderboard.check_column(sort, study)
    if study.incomplete and not allow_incomplete:
        raise RunError(_incomplete(study))
    warn_of_unusable(study)
    with prefetched(study):
        ranking = rank_settings(study)
        write_comparison(ranking, out, sort)
    leaderboard.show_leaderboard(ranking, sort)
    for sentence in study.remarks:
        log.warning("%s", sentence)
    dashboards = out if out.resolve() == path.resolve() else out / leaderboard.CROSS_VALIDATED
    console.show_table(
        f"written: leaderboard.md, leaderboard.csv, predictions.csv, {calibration.FILE}",
        {},
        {
            "report": str(out / "report.html"),
            "dashboards": f"tensorboard --logdir {shlex.quote(str(dashboards))}",
        },
    )
    return ranking


def write_comparison(ranking: Ranking, out: Path, sort: str = RANK) -> None:
    """Write everything into a folder.

    Raises:
        SettingError: If that cannot be done, or the folder belongs to a run.
    """
    if any((folder / "record.json").exists() for folder in (out, *out.resolve().parents)):
        raise SettingError(
            f"{out} belongs to a run, whose files are not touched: choose another place with "
            "out=DIR."
        )
    link = escaping_link(out, page.FIGURES, leaderboard.CROSS_VALIDATED)
    if link is not None:
        raise SettingError(
            f"{link} is a link to {link.resolve()}, outside of {out}: delete it, or choose another "
            "place with --out DIR."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        leaderboard.write_leaderboard(ranking, out, sort)
        leaderboard.write_markdown(ranking, out, sort)
        leaderboard.write_predictions(ranking.study, out)
        write_json(out / calibration.FILE, calibrations(ranking.study))
        leaderboard.write_nested_searches(ranking.study, out)
        leaderboard.write_tensorboard(ranking, out)
        report_page(ranking).write(out)
    except OSError as error:
        file = error.filename2 or error.filename or out
        raise SettingError(
            f"{file} cannot be written ({error.strerror}): choose another place with out=DIR."
        ) from None


def calibrations(study: Study) -> dict[str, Any]:
    """Content of `calibration.json` of a study: by setting, what its folds calibrate together."""
    return {
        "signlang": __version__,
        "fitted_on": calibration.OF_STUDY,
        "settings": {
            setting.name: (
                {"not_calibrated": setting.not_calibrated}
                if setting.cross_fit is None
                else setting.cross_fit.as_json()
            )
            for setting in study.settings
        },
    }


def _incomplete(study: Study) -> str:
    incomplete = "\n".join(map(str, study.incomplete))
    return (
        f"{study.path} is not complete, and means over different folds do not compare.\n"
        f"{incomplete}\nComplete it, or look at what there is with allow_incomplete=true."
    )
