"""A run comes in; how its network fares on all folds, and on strangers, is read from its study."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from signlang.console import log
from signlang.errors import RunError
from signlang.studies.collecting import read_study
from signlang.studies.ranking import undealt
from signlang.studies.runs import Setting
from signlang.studies.statistics import wilson

SPLITS: Final = {
    "stratified": "random folds",
    "signer": "people not seen in training",
    "blocks": "other stretches of the film",
}


@dataclass(frozen=True)
class CrossValidated:
    """A setting on all of its folds.

    Attributes:
        split: How pictures were dealt to folds.
        mean: Of the accuracy over the finished folds.
        spread: Two standard deviations over them.
        finished: Folds.
        folds: That there are.
        pictures: Tested, on all finished folds.
        low: Of the 95 % interval (Wilson) of the accuracy on all of them.
        high: Likewise.
    """

    split: str
    mean: float
    spread: float
    finished: int
    folds: int
    pictures: int
    low: float
    high: float


def cross_validated(run: Path) -> list[CrossValidated]:
    """The setting of a run, and those that differ from it in the split alone.

    Args:
        run: `runs/<study>/<what was chosen>/fold=<k>`; elsewhere there are none.
    """
    here = run.resolve()
    if not here.name.startswith("fold="):
        return []
    try:
        study = read_study(here.parent.parent)
        own = [setting for setting in study.settings if setting.path.name == here.parent.name]
        wanted = {undealt(setting.runs[0]) for setting in own}
        alike = [setting for setting in study.settings if undealt(setting.runs[0]) in wanted]
        found = [_figures(setting) for setting in alike if len(setting.runs) > 1]
    except RunError as error:
        log.warning("the card does without the other folds of the study: %s", error)
        return []
    order = list(SPLITS)
    return sorted(found, key=lambda one: order.index(one.split) if one.split in order else 9)


def _figures(setting: Setting) -> CrossValidated:
    correct: Sequence[bool] = setting.predictions.correct.tolist()
    return CrossValidated(
        setting.split,
        setting.mean("accuracy"),
        setting.two_deviations("accuracy"),
        len(setting.runs),
        setting.folds,
        len(correct),
        *wilson(sum(correct), len(correct)),
    )
