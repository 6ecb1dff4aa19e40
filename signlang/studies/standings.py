"""A study comes in; who is how good, and whether that is more than chance, goes out."""

from collections.abc import Sequence
from dataclasses import dataclass

from signlang.studies.runs import Setting, Study


@dataclass(frozen=True, eq=False)
class Row:
    """One setting of a leaderboard.

    Attributes:
        setting: With its runs.
        label: Its short name.
        best: The best setting whose folds hold the same pictures; may be this one.
        interval: Wilson interval (95 %) of the accuracy on all pictures of the finished folds.
        p: Of the corrected resampled t-test against `best`, Holm-corrected; None for the best
            itself, and where the folds of the two are not the same.
        p_mcnemar: Of McNemar's test on the pooled predictions, Holm-corrected; None likewise.
        verdict: In words; empty where `p` is None.
    """

    setting: Setting
    label: str
    best: Setting
    interval: tuple[float, float]
    p: float | None
    p_mcnemar: float | None
    verdict: str


@dataclass(frozen=True, eq=False)
class Pair:
    """Two settings that differ in the split alone: what a random fold hides.

    Attributes:
        random: Its folds are dealt at random.
        apart: Its folds keep signers, or neighbouring frames, apart.
        label: What both share.
        difference: Accuracy of `random` less that of `apart`.
        low: Of its 95 % interval, pictures of one signer taken as one observation.
        high: Likewise.
    """

    random: Setting
    apart: Setting
    label: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Standings:
    """A leaderboard with its verdicts.

    Attributes:
        study: What was compared.
        rows: The most accurate first.
        pairs: Splits side by side; may be empty.
        sentences: What the tests say, for people.
    """

    study: Study
    rows: Sequence[Row]
    pairs: Sequence[Pair]
    sentences: Sequence[str]
