"""Standings come in; a page that stands by itself, and its figures as files, go out."""

import re
from pathlib import Path
from typing import Final

from signlang import __version__
from signlang.console import log
from signlang.pages.page import Notes, Page
from signlang.studies import chapters, effects, reading, tables
from signlang.studies.standings import Standings

FIGURES: Final = re.compile(
    r"((cost|factors)|(curves|confusion|mistakes|reliability)(-\d+)?)\.png"
)  # fmt: skip


def write(standings: Standings, out: Path) -> None:
    """Write `report.html` and `figures/` into a folder; figures of an earlier report go away.

    Raises:
        SettingError: If the folder cannot be written to.
        RunError: If the predictions of a run are missing or damaged.
    """
    page(standings).write(out)
    log.info("report: %s", out / "report.html")


def page(standings: Standings) -> Page:
    """Put the report together."""
    study = standings.study
    best = standings.rows[0]
    runs = sum(len(setting.runs) for setting in study.settings)
    tiles = {
        "settings": f"{len(study.settings):,}",
        "finished runs": f"{runs:,}",
        "networks": f"{len({setting.model for setting in study.settings}):,}",
        "best accuracy": f"{best.setting.mean('accuracy'):.4f}",
        "its macro F1": f"{best.setting.mean('macro_f1'):.4f}",
        "its calibration error": f"{best.setting.mean('calibration_error'):.4f}",
    }
    made = [
        tables.compared(study),
        tables.leaderboard(standings),
        tables.splits(standings.pairs),
        chapters.cost(standings),
        effects.effects(standings),
        chapters.curves(standings),
        chapters.confusion(standings),
        chapters.mistakes(standings),
        chapters.reliability(standings),
        tables.makers(study),
        reading.section(),
    ]
    return Page(
        name="report",
        title=f"Study {study.name}",
        lead=f"Written by signlang {__version__}. The best setting is {best.label}, "
        f"{tables.dealings([best.setting])[best.setting.dealing]}.",
        tiles=tiles,
        notes=[
            Notes("Verdicts", standings.sentences),
            Notes("What is missing", study.incomplete, is_warning=True),
        ],
        sections=[section for section in made if section is not None],
        ours=FIGURES,
        endings=("html",),
        wide=True,
    )
