"""Verdicts of a ranking in sentences."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

import numpy as np

from signlang.metrics.classification import accuracy_by_set
from signlang.metrics.significance import Comparison, friedman
from signlang.reporting.formatting import interval_text, intervals_sentence, p_text, with_spread
from signlang.studies.ranking import LEVEL, Pair, Ranking, Row
from signlang.studies.sections import fold_assignments
from signlang.studies.study import Setting, Study


def verdict(a: str, b: str, comparison: Comparison, p: float, level: float = 0.05) -> str:
    """A comparison in words.

    Args:
        a: Name of the first setting.
        b: Name of the second.
        comparison: Of a - b. If b is better, the numbers are printed as b - a.
        p: The p value that decides, adjusted if there were several comparisons.
        level: The difference is significant if p is at most this.

    >>> print(verdict("A", "B", Comparison(-0.0012, -0.005, 0.0026, 0.2), p=0.46))
    no significant difference between A and B (-0.0012, 95 % interval -0.0050 to +0.0026, p = 0.46)
    >>> print(verdict("A", "B", Comparison(-0.02, -0.03, -0.01, 2e-5), p=1e-4))
    B is better than A (+0.0200, 95 % interval +0.0100 to +0.0300, p < 0.001)
    """
    difference, low, high = comparison.difference, comparison.low, comparison.high
    words = f"no significant difference between {a} and {b}"
    if p <= level and difference > 0:
        words = f"{a} is better than {b}"
    elif p <= level and difference < 0:
        words = f"{b} is better than {a}"
        difference, low, high = -difference, -high, -low
    interval = f"{comparison.confidence * 100:g} % interval {low:+z.4f} to {high:+z.4f}"
    return f"{words} ({difference:+z.4f}, {interval}, {p_text(p)})"


FEW: Final = 6  # up to so many settings are each compared with the best in a sentence
NAMED: Final = 10  # settings named in a list
TESTED: Final = "corrected resampled t-test, Holm over all pairs, 5 %"


def row_verdict(row: Row) -> str:
    """The comparison of a row with the best in words; empty where there is none."""
    if row.comparison is None or row.p is None:
        return ""
    return verdict(row.best_label, row.label, row.comparison, row.p)


def sentences(ranking: Ranking) -> list[str]:
    """Sentences on the best setting, its significance, and the limits of the comparison."""
    rows = ranking.rows
    names = fold_assignments(row.setting for row in rows)
    lines = []
    for assignment, members in groupby(rows, key=lambda row: row.setting.fold_assignment):
        prefix = f"{names[assignment]}: " if len(names) > 1 else ""
        lines += [prefix + sentence for sentence in _section(list(members))]
    if len(names) > 1:
        lines.append(
            "Settings with different fold assignments or protocols are not ranked against each "
            "other."
        )
    clusters = (row.setting.predictions.clusters for row in rows if row.rank == 1)
    lines += dict.fromkeys(intervals_sentence(one) for one in clusters if one is not None)
    lines += [line for row in rows if row.rank == 1 and (line := _by_set(row))]
    lines += [_random_fold_bias(pair) for pair in ranking.pairs]
    return [*lines, *_cautions(ranking.study)]


def _section(rows: Sequence[Row]) -> Iterator[str]:
    """Sentences on the settings that share their folds, the best first."""
    best, images = rows[0].setting, rows[0].accuracy
    accuracy = with_spread(best.mean("accuracy"), best.two_deviations("accuracy"))
    spread = ", mean ± 2 standard deviations" if len(best.runs) > 1 else ""
    of_how_many = f"Best of {len(rows)} settings: " if len(rows) > 1 else ""
    interval = f"; 95 % interval of all {images.total:,} images: {interval_text(images.interval)}"
    yield (
        f"{of_how_many}{rows[0].label} with accuracy {accuracy} ({_count(len(best.runs), 'fold')}"
        f"{spread}{interval if images.interval else ''})."
    )
    complete = [row.setting for row in rows if row.setting.is_complete]
    if len(complete) > 2 and best.folds > 1:
        p = friedman(np.stack([setting.values("accuracy") for setting in complete], axis=1))
        verdict = "yes" if p <= LEVEL else "not significant"
        yield f"Do the settings differ at all? Friedman over the folds: {p_text(p)}, {verdict}."
    tested = [row for row in rows if row.p is not None]
    if len(rows) <= FEW:
        yield from (f"{row_verdict(row)}." for row in tested)
    elif tested:
        yield _summary(rows[0], tested)
    untested = len(rows) - 1 - len(tested)
    if untested:
        yield (
            f"{_count(untested, 'setting')} shared fewer than two finished folds with the best: "
            "there is no test over folds."
        )


def _summary(best: Row, tested: Sequence[Row]) -> str:
    similar = [row.label for row in tested if row.p is not None and row.p > LEVEL]
    if not similar:
        return f"All {len(tested)} others are worse than {best.label} ({TESTED})."
    remaining = len(similar) - NAMED
    names = "; ".join(similar[:NAMED]) + (f"; and {remaining} more" if remaining > 0 else "")
    does = "does" if len(similar) == 1 else "do"
    return (
        f"Of {len(tested)} other settings, {len(similar)} {does} not differ significantly from the "
        f"best, {best.label} ({TESTED}): {names}."
    )


def _by_set(row: Row) -> str:
    """Accuracy of a setting on each of several joined data sets; empty where there is one."""
    shares = accuracy_by_set(row.setting.predictions)
    if not shares:
        return ""
    each = (f"{name} {share.value:.4f} ({share.total:,} images)" for name, share in shares.items())
    unseen = ", each by a network that saw the others only" * (row.setting.split == "dataset")
    return f"{row.label} by data set{unseen}: {', '.join(each)}."


def _random_fold_bias(pair: Pair) -> str:
    """The bias of random folds, in a sentence.

    An interval that holds 0 shows nothing, neither a difference nor that there is none.
    """
    kept = "signers" if pair.apart.split == "signer" else "neighbouring frames"
    points, interval = 100 * pair.difference.value, pair.difference.interval
    lead = f"Random folds hide {points:.1f} points"
    if interval is None or interval[0] <= 0:
        lead = "No bias of random folds was measured"
    ends = (
        "no interval: too few clusters"
        if interval is None
        else f"95 % interval {100 * interval[0]:+z.1f} to {100 * interval[1]:+z.1f}"
    )
    return (
        f"{lead}: {pair.label} has accuracy {pair.random.mean('accuracy'):.4f} with "
        f"split={pair.random.split}, and {pair.apart.mean('accuracy'):.4f} with "
        f"split={pair.apart.split_text}, which keeps {kept} apart (difference {points:+z.1f} "
        f"points, {ends})."
    )


def _cautions(study: Study) -> Iterator[str]:
    """Limits of the comparison."""
    settings = study.settings
    yield from (search.caution for search in study.searches)
    if all(s.split == "stratified" for s in settings) and any(map(_has_signers, settings)):
        yield (
            "Folds were assigned at random although the signers are known: the same settings with "
            "split=signer would measure the accuracy for unseen signers."
        )
    optimistic = [s for s in settings if s.protocol == "validation=fold"]
    if optimistic:
        which = "The" if len(optimistic) == len(settings) else f"{len(optimistic)} settings'"
        yield (
            f"{which} figures are optimistic: with validation=fold the test fold also picked the "
            "checkpoint."
        )
    incomplete = sum(map(bool, (s.missing for s in settings))) + len(study.unusable)
    if incomplete:
        yield (
            f"{_count(incomplete, 'setting')} of {len(settings) + len(study.unusable)} "
            f"{'is' if incomplete == 1 else 'are'} not complete: the figures are preliminary, and "
            "means over different folds do not compare."
        )
    records = [run.record for setting in settings for run in setting.runs]
    versions = sorted({str(record["signlang"]) for record in records})
    if len(versions) > 1:
        yield f"The runs are of different versions of signlang: {', '.join(versions)}."
    devices = sorted({str(record.get("device")) for record in records})
    if len(devices) > 1:
        yield (
            f"The runs are of different devices, so times and speeds do not compare: "
            f"{'; '.join(devices)}."
        )


def _has_signers(setting: Setting) -> bool:
    signers = setting.predictions.signers
    return signers is not None and len(set(signers)) > 1


def _count(number: int, what: str) -> str:
    """Write a number of things.

    >>> _count(1, "fold"), _count(5, "fold")
    ('1 fold', '5 folds')
    """
    return f"{number:,} {what}" + "s" * (number != 1)
