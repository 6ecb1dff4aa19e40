"""An evaluation comes in; the page that reports it, which stands by itself, goes out."""

import re
from typing import Final

import numpy as np

from signlang import __version__
from signlang.confidence.rejection import RiskCoverage, risk_coverage
from signlang.confidence.reliability import reliability_diagram
from signlang.evaluations import remarks, tables
from signlang.evaluations.answers import Evaluation
from signlang.evaluations.breakdown import by_class, by_signer
from signlang.evaluations.pictures import confusion_view, mistakes, rejection_chart, strangers_view
from signlang.evaluations.remarks import many
from signlang.evaluations.scores import Share
from signlang.pages.page import Notes, Number, Page, Picture, Section, Table, Text
from signlang.studies import judgements, originals
from signlang.studies.judgements import percent
from signlang.studies.predictions import Predictions
from signlang.studies.tables import Blocks, Rows

FIGURES: Final = re.compile(r"(confusion|mistakes|strangers|reliability(-2)?|rejection)\.png")
CLASSES: Final = 60  # in a table; all are in per_class.csv
SIGNERS: Final = 10


def report(found: Evaluation) -> Page:
    """Put the report together."""
    known = found.known
    tiles = {
        "pictures": f"{len(found.rows):,}",
        "accuracy": f"{found.figures['accuracy']:.4f}",
        "over the shared classes": f"{found.figures_among['accuracy']:.4f}",
        "macro F1": f"{found.figures['macro_f1']:.4f}",
    }
    if found.calibration.reject_threshold is not None:
        tiles["accepted"] = percent(found.coverage.value)
        tiles["right of these"] = percent(found.precision.value) if found.precision.total else "-"
    if not known.all():
        tiles["of unknown classes"] = f"{int((~known).sum()):,}"
    made = [_figures, _confusion, _classes, _signers, _mistakes, _confidence, _unknown, _matches]
    sections = [section for make in made if (section := make(found)) is not None]
    return Page(
        name="report",
        title=f"{found.candidate.name} on {found.name}",
        lead=f"Written by signlang {__version__}. The network is {found.candidate.path}; the "
        f"pictures, names, labels and signers have the fingerprint {found.index.fingerprint}.",
        tiles=tiles,
        notes=[
            Notes("What to beware of", remarks.warnings(found), is_warning=True),
            Notes("What to know", remarks.remarks(found)),
        ],
        sections=sections,
        ours=FIGURES,
        endings=("html",),
        wide=True,
    )


def _figures(found: Evaluation) -> Section:
    text = (
        "The first accuracy lets the network answer with any of its classes, as it would in use; "
        "the second only with those that the pictures show, which tells hands that it reads badly "
        "from signs that it confuses with absent ones. Intervals are Wilson's, 95 %, and take "
        "pictures for independent; those of one person are not. The calibration error is before "
        "and after the temperature that was fitted on the network's own validation pictures."
    )
    rows: Rows = [[name, value] for name, value in tables.headlines(found).items()]
    return Section("Figures", [Text(text), Table("Figures", ["what", "how much"], rows)])


def _confusion(found: Evaluation) -> Section:
    view = confusion_view(found)
    wrong = int((~found.correct).sum())
    alt = f"Confusion matrix: {wrong:,} of {len(found.rows):,} pictures are not recognised."
    blocks: Blocks = [Picture("confusion", alt, judgements.confusion_chart(view))]
    rows: Rows = [
        [pair.label, pair.predicted, pair.count, f"{pair.share:.1%}"]
        for pair in judgements.confusions(view)
    ]
    header = ["is", "taken for", "pictures", "share of the class"]
    if rows:
        blocks.append(Table("Most confused pairs", header, rows))
    else:
        blocks.append(Text("Every picture is recognised."))
    return Section("Confusion", blocks)


def _classes(found: Evaluation) -> Section:
    every = by_class(found)
    rows: Rows = [
        [first, *map(Number, rest)] for first, *rest in map(tables.cells_of, every[:CLASSES])
    ]
    header = [name.replace("\n", " ") for name in tables.HEADER]
    caption = tables.part_of("classes", len(rows), len(every))
    return Section("Classes", [Table(caption, header, rows)])


def _signers(found: Evaluation) -> Section | None:
    signers = by_signer(found)
    if not signers:
        return None
    values = np.array([share.value for share in signers.values()])
    text = (
        f"{many(len(signers), 'signer')}; the accuracies of half of them lie between "
        f"{np.quantile(values, 0.25):.4f} and {np.quantile(values, 0.75):.4f}, the median is "
        f"{np.median(values):.4f}. All are in per_signer.csv."
    )
    worst = list(signers.items())[:SIGNERS]
    rows: Rows = [[name, *map(Number, tables.share_cells(share))] for name, share in worst]
    header = ["signer", "pictures", "recognised", "95 % interval"]
    caption = tables.part_of("signers", len(rows), len(signers))
    return Section("Signers", [Text(text), Table(caption, header, rows)])


def _mistakes(found: Evaluation) -> Section:
    text = (
        "Pictures of shared classes that were judged wrongly with the highest confidence, after "
        "the temperature. Some may be labelled wrongly: look at them."
    )
    view = mistakes(found)
    rows = judgements.worst(view)
    if not len(rows):
        return Section("Worst mistakes", [Text("There are no mistakes.")])
    sheet = _sheet(found, view, rows.tolist(), "mistakes")
    header = ["file", "is", "taken for", "confidence"]
    listed: Rows = [
        [
            view.paths[row], view.classes[view.labels[row]], view.classes[view.predicted[row]],
            Number(percent(float(view.confidence[row]))),
        ]
        for row in rows.tolist()
    ]  # fmt: skip
    return Section("Worst mistakes", [Text(text), sheet, Table("Worst mistakes", header, listed)])


def _sheet(found: Evaluation, view: Predictions, rows: list[int], name: str) -> Picture:
    images = originals.read_pictures(found.index.root, [view.paths[row] for row in rows])
    sheet = judgements.mistakes_sheet(view, rows, images)
    return Picture(name, f"{many(len(rows), 'picture')} that were judged wrongly", sheet)


def _confidence(found: Evaluation) -> Section:
    known, made = found.known, found.calibration
    correct = found.correct[known]
    blocks: Blocks = [Text(
        "Accuracy of the pictures of shared classes that were judged with about the same "
        "confidence, by the network itself and after the temperature."
    )]  # fmt: skip
    for number, (title, shares) in enumerate(
        [
            ("By the network itself", found.probabilities),
            ("After the temperature", found.calibrated),
        ]
    ):
        if number and made.temperature == 1:
            break
        diagram = reliability_diagram(shares[known].max(1), correct)
        alt = f"Reliability diagram: calibration error {diagram.error:.4f}."
        name = "reliability" + "-2" * number
        blocks.append(Picture(name, alt, judgements.reliability_chart(diagram), title))
    curve = risk_coverage(found.calibrated[known].max(1), correct)
    chart = rejection_chart(curve, made.reject_threshold)
    alt = f"Mistakes among the accepted pictures against their share: {_last(curve)}."
    blocks.append(Picture("rejection", alt, chart, "What rejecting unsure guesses would do"))
    return Section("How far confidence can be trusted", blocks)


def _last(curve: RiskCoverage) -> str:
    return f"{curve.risk[-1]:.1%} if all are accepted"


def _unknown(found: Evaluation) -> Section | None:
    if found.known.all():
        return None
    rows: Rows = [
        [
            one.match.data, one.pictures, f"{one.mistaken_for} ({one.times:,})",
            Number(percent(Share(one.rejected, one.pictures).value)),
        ]
        for one in by_class(found)
        if one.match.network is None
    ]  # fmt: skip
    text = (
        "Of these pictures every answer is wrong; the best that can happen is that they are "
        "rejected. Shown are those of whose answer the network was surest."
    )
    view = strangers_view(found)
    sheet = _sheet(found, view, judgements.worst(view).tolist(), "strangers")
    header = ["class", "pictures", "mostly taken for", "rejected"]
    table = Table("Classes that the network does not know", header, rows)
    return Section("Unknown classes", [Text(text), table, sheet])


def _matches(found: Evaluation) -> Section:
    rows: Rows = [[m.data, m.network or "-", m.how] for m in found.matches]
    caption = f"What the classes of {found.name} are for the network"
    header = ["class of the pictures", "class of the network", "matched by"]
    return Section("Names", [Table(caption, header, rows)])
