"""What was found in a data set comes in; what its user must know goes out, a sentence each."""

from collections.abc import Iterator
from typing import Final

from signlang.cards import facts
from signlang.cards.making import Material

UNEVEN: Final = 1.5  # times as many pictures in the largest class as in the smallest


def many(count: int, noun: str) -> str:
    """Count things in words.

    >>> many(1, "picture"), many(2062, "picture")
    ('1 picture', '2,062 pictures')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def findings(found: Material) -> list[str]:
    """Say what is wrong or has to be kept in mind, the most serious first."""
    return [*_wrong_labels(found), *_leaks(found), *_people(found), *_rest(found)]


def _wrong_labels(found: Material) -> Iterator[str]:
    pairs = found.duplicates
    for name, kind in (("equal", pairs.exact), ("nearly equal", pairs.near)):
        if kind.across_classes:
            yield (
                f"{many(kind.across_classes, 'pair')} of {name} pictures "
                f"{'has' if kind.across_classes == 1 else 'have'} different labels: "
                "at least one of the two is wrong, or the signs cannot be told apart."
            )
    if found.suspects:
        yield (
            f"{many(len(found.suspects), 'label')} {'is' if len(found.suspects) == 1 else 'are'} "
            "probably wrong, as networks judge that were not trained on these pictures and agree "
            f"with {found.agreement:.1%} of all labels: look at them."
        )


def _leaks(found: Material) -> Iterator[str]:
    if found.folds is None:
        yield f"The folds of {found.split} cannot be made. {found.unsplit}"
    elif found.leak:
        yield (
            f"{found.leak:.1%} of the test pictures of a fold have a duplicate or near duplicate "
            f"in its training part ({found.split}): the network has seen them before it is tested, "
            "and looks better than it is."
        )


def _people(found: Material) -> Iterator[str]:
    index = found.index
    names = set(index.signers or ()) - {""}
    if index.signers is None:
        yield "Who is in the pictures is not known: results say nothing about other people's hands."
    elif len(names) == 1:
        yield "One signer made all pictures: results say nothing about other people's hands."
    elif found.folds is not None and (shared := _shared(found)):
        yield (
            f"{shared:,} of {many(len(names), 'signer')} are in more than one fold "
            f"({found.split}): results are better than they would be for strangers. "
            "split=signer keeps them apart."
        )


def _shared(found: Material) -> int:
    """Signers with pictures in more than one fold."""
    assert found.folds is not None
    folds_of: dict[str, set[int]] = {}
    for signer, fold in zip(found.index.signers or (), found.folds.tolist(), strict=True):
        folds_of.setdefault(signer, set()).add(fold)
    return sum(len(folds) > 1 for signer, folds in folds_of.items() if signer)


def _rest(found: Material) -> Iterator[str]:
    index = found.index
    if index.excluded:
        yield f"{many(len(index.excluded), 'file')} cannot be used as pictures and were left out."
    ratio = facts.imbalance(index.counts)
    if ratio >= UNEVEN:
        few, most = index.counts.argmin(), index.counts.argmax()
        yield (
            f"Classes are uneven: {many(int(index.counts[most]), 'picture')} of "
            f"{index.classes[most]}, {index.counts[few]:,} of {index.classes[few]}."
        )
    judged = found.judgement
    if judged is not None and len(judged.rows) < len(index):
        yield (
            f"The predictions judge {len(judged.rows):,} of {len(index):,} pictures only: the "
            "labels of the others were not looked at."
        )
