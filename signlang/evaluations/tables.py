"""An evaluation comes in; its figures for people, and the tables on the terminal, go out."""

from pathlib import Path
from typing import Final

from rich.markup import escape

from signlang.confidence.calibration import measure
from signlang.console import log, show_columns, show_table
from signlang.evaluations import remarks
from signlang.evaluations.answers import Evaluation
from signlang.evaluations.breakdown import ClassScore, by_class, by_signer
from signlang.evaluations.remarks import many, plain
from signlang.evaluations.scores import Share
from signlang.studies.judgements import percent

CLASSES: Final = 12  # on the terminal
SIGNERS: Final = 5  # there
HEADER: Final = (
    "class", "pictures", "recognised", "95 % interval", "over the\nshared", "mostly mistaken for",
    "rejected",
)  # fmt: skip


def show(found: Evaluation, out: Path) -> None:
    """Show the figures, the worst classes and signers, and what to beware of."""
    for sentence in remarks.warnings(found):
        log.warning("%s", plain(sentence))
    for sentence in remarks.remarks(found):
        log.info("%s", plain(sentence))
    title = f"{found.candidate.name} on {found.name}"
    rows = {**headlines(found), "report": str(out / "report.html")}
    show_table(escape(plain(title)), {key: escape(plain(value)) for key, value in rows.items()})
    classes = by_class(found)
    cells = [[plain(cell) for cell in cells_of(one)] for one in classes[:CLASSES]]
    show_columns(part_of("classes", len(cells), len(classes)), HEADER, cells, flexible=0)
    signers = by_signer(found)
    if signers:
        lines = [[plain(name), *share_cells(share)] for name, share in signers.items()][:SIGNERS]
        header = ("signer", "pictures", "recognised", "95 % interval")
        show_columns(part_of("signers", len(lines), len(signers)), header, lines, flexible=0)


def headlines(found: Evaluation) -> dict[str, str]:
    """The most important figures by name."""
    known, made = found.known, found.calibration
    errors = measure(made, found.probabilities[known], found.labels[known])["calibration_error"]
    shared = many(len(found.shared), "shared class")
    among = Share.of(found.correct_among[known])
    rows = {
        "pictures": f"{len(found.rows):,}, of which {int(known.sum()):,} are of {shared}",
        f"accuracy, over all {len(found.candidate.classes)} classes of the network": with_interval(
            Share.of(found.correct[known])
        ),
        **(
            {f"accuracy, over the {shared} alone": with_interval(among)}
            if len(found.shared) < len(found.candidate.classes)
            else {}
        ),
        "macro F1": f"{found.figures['macro_f1']:.4f}",
        "calibration error": f"{errors['before']:.4f}; {errors['after']:.4f} after the temperature "
        f"{made.temperature:.3g}",
    }
    if made.reject_threshold is not None:
        rows[f"accepted, at least {percent(made.reject_threshold)} sure"] = (
            f"{percent(found.coverage.value)} of the pictures of shared classes; "
            f"of these {with_interval(found.precision)} are right"
        )
    if not known.all():
        taken = Share.of(~found.accepted[~known])
        rows["of classes that it does not know"] = (
            f"{many(taken.total, 'picture')}, {taken.count:,} rejected"
        )
    return rows


def cells_of(one: ClassScore) -> list[str]:
    """A class for a table."""
    known = one.match.network is not None
    other = f"{one.mistaken_for} ({one.times:,})" if one.times else "-"
    return [
        one.match.data,
        f"{one.pictures:,}",
        *(share_cells(one.right)[1:] if known else ("not known", "-")),
        f"{one.among.value:.4f}" if known else "-",
        other,
        f"{one.rejected:,}",
    ]


def share_cells(share: Share) -> list[str]:
    """Pictures, share and interval.

    >>> share_cells(Share(1, 2))
    ['2', '0.5000', '0.0945 to 0.9055']
    """
    low, high = share.interval
    return [f"{share.total:,}", f"{share.value:.4f}", f"{low:.4f} to {high:.4f}"]


def with_interval(share: Share) -> str:
    """Write a share with its 95 % interval.

    >>> with_interval(Share(81, 263)), with_interval(Share(0, 0))
    ('0.3080 (0.2553 to 0.3662)', '-')
    """
    _, value, interval = share_cells(share)
    return f"{value} ({interval})" if share.total else "-"


def part_of(what: str, shown: int, total: int) -> str:
    """Name a table that may show the beginning only.

    >>> part_of("signers", 5, 50), part_of("classes", 3, 3)
    ('the worst 5 of 50 signers', '3 classes, the worst first')
    """
    return (
        f"the worst {shown} of {total} {what}"
        if shown < total
        else f"{total} {what}, the worst first"
    )
