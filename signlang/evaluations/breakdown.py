"""An evaluation comes in; how each class and each signer fares goes out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from signlang.evaluations import scores
from signlang.evaluations.answers import Evaluation
from signlang.evaluations.matching import Match
from signlang.evaluations.scores import Flags, Share

NOTHING: Final = Share(0, 0)


@dataclass(frozen=True)
class ClassScore:
    """How the pictures of one class were judged.

    Attributes:
        match: The class.
        pictures: Of it.
        right: Those recognised; of none at all, where the network does not know the class.
        among: Those that would be, if the network had the shared classes only; likewise.
        mistaken_for: What those not recognised were mostly taken for.
        times: How many of them.
        rejected: Pictures below the threshold.
    """

    match: Match
    pictures: int
    right: Share
    among: Share
    mistaken_for: str
    times: int
    rejected: int


def by_class(found: Evaluation) -> list[ClassScore]:
    """Every class of the judged pictures, the worst first, unknown ones last."""
    return sorted(
        _classes(found),
        key=lambda one: (one.match.network is None, one.right.value, one.match.data),
    )


def _classes(found: Evaluation) -> Iterator[ClassScore]:
    names = np.array(found.class_names, dtype=object)
    for match in found.matches:
        mine = np.asarray(names == match.data, dtype=np.bool_)
        if not mine.any():
            continue
        known = match.network is not None
        wrong = found.predicted[mine & ~found.correct]
        other, times = scores.most_frequent(wrong, found.candidate.classes)
        yield ClassScore(
            match,
            int(mine.sum()),
            Share.of(found.correct[mine]) if known else NOTHING,
            Share.of(found.correct_among[mine]) if known else NOTHING,
            other,
            times,
            int((~found.accepted[mine]).sum()),
        )


def by_signer(found: Evaluation) -> dict[str, Share]:
    """How many pictures of shared classes of each signer are recognised, the worst first."""
    if found.signers is None:
        return {}
    named = found.known & np.array([bool(name) for name in found.signers])
    return scores.groups(chosen(found.signers, named), found.correct[named])


def chosen(names: Sequence[str], flags: Flags) -> list[str]:
    """The names that are marked."""
    return [name for name, flag in zip(names, flags, strict=True) if flag]
