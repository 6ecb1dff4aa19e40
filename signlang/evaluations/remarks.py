"""An evaluation comes in; what nobody should miss when reading its figures goes out in words."""

from collections.abc import Iterator, Sequence
from typing import Final

from signlang.evaluations.answers import Evaluation
from signlang.evaluations.scores import Share
from signlang.studies.judgements import percent

NAMED: Final = 12  # classes in a sentence


def warnings(found: Evaluation) -> list[str]:
    """What flatters the figures, or leaves something out of them."""
    return [*_seen(found), *_unknown(found), *_calibration(found)]


def remarks(found: Evaluation) -> list[str]:
    """What else to know."""
    told = []
    if found.seen.unknown:
        told.append(
            "It is not known whether the network was trained on some of these pictures: "
            f"{found.seen.unknown.rstrip('.')}."
        )
    missing = [
        name for place, name in enumerate(found.candidate.classes) if place not in found.shared
    ]
    if missing:
        told.append(
            f"No picture shows {many(len(missing), 'class')} of the "
            f"{len(found.candidate.classes)} that the network knows: {named(missing)}."
        )
    if found.index.excluded:
        told.append(f"{many(len(found.index.excluded), 'file')} could not be used: see files.csv.")
    return told


def _seen(found: Evaluation) -> Iterator[str]:
    trained, chosen = (
        int(flags[found.rows].sum()) for flags in (found.seen.trained, found.seen.chosen)
    )
    total = len(found.rows)
    if trained:
        were = "was" if trained == 1 else "were"
        yield (
            f"{trained:,} of these {many(total, 'picture')} {were} trained on: the figures "
            "flatter. unseen=true leaves them out."
        )
    if chosen:
        yield (
            f"{chosen:,} of these {many(total, 'picture')} belong to the validation part, which "
            "chose the checkpoint and the temperature."
        )


def _unknown(found: Evaluation) -> Iterator[str]:
    strange = ~found.known
    count = int(strange.sum())
    if not count:
        return
    names = sorted({name for name, odd in zip(found.class_names, strange, strict=True) if odd})
    rejected = Share.of(~found.accepted[strange])
    if found.calibration.reject_threshold is None:
        fate = "Without a threshold all of them are taken for something"
    else:
        fate = f"{percent(rejected.value)} of them would be rejected"
    yield (
        f"{many(count, 'picture')} of {many(len(names), 'class')} that the network does not know "
        f"({named(names)}) are in none of the accuracies. {fate}."
    )


def _calibration(found: Evaluation) -> Iterator[str]:
    made = found.calibration
    if found.candidate.calibration is None and not made.pictures:
        yield "The network is not calibrated: its confidence is its own, and nothing is rejected."
    elif made.reject_threshold is None:
        yield (
            f"No threshold of rejection: on {_fitted_on(made.pictures)} none was seen to make "
            f"{percent(made.wanted_precision)} of the accepted guesses right."
        )
    elif found.precision.total and found.precision.interval[1] < made.wanted_precision:
        yield (
            f"The threshold was set to make {percent(made.wanted_precision)} of the accepted "
            f"guesses right; here it is {percent(found.precision.value)}: these pictures are "
            "unlike those that the network knows, and its confidence cannot be believed."
        )
    if found.candidate.facts.get("protocol") == "validation=fold":
        yield "The run's test fold also chose its checkpoint and temperature (validation=fold)."


def _fitted_on(pictures: int) -> str:
    return many(pictures, "validation picture") if pictures else "its validation pictures"


def many(count: int, noun: str) -> str:
    """Write a number with its noun.

    >>> many(1, "class"), many(1200, "picture")
    ('1 class', '1,200 pictures')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def named(names: Sequence[str]) -> str:
    """List names, many shortened.

    >>> named(["a", "b"])
    'a, b'
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def plain(text: str) -> str:
    """Replace bytes of file names that are no text, which terminals and JSON do not take."""
    return text.encode("utf-8", errors="replace").decode()
