"""The report page of an evaluation."""

import re
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from signlang import __version__
from signlang.arrays import Flags
from signlang.data import sources
from signlang.evaluation import results, writer
from signlang.evaluation.results import Evaluation, by_class, by_signer
from signlang.metrics import classification
from signlang.metrics.calibration import RiskCoverage, risk_coverage
from signlang.metrics.classification import Predictions, Proportion, reliability_diagram
from signlang.reporting import plots
from signlang.reporting.formatting import counted, percent
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
from signlang.reporting.plots import BLUE, COLOURS, INK, new_axes


def confusion_view(found: Evaluation) -> Predictions:
    """All images, over those classes alone that an image has or was taken for."""
    return _view(found, np.ones(len(found.rows), dtype=np.bool_))


def mistakes(found: Evaluation) -> Predictions:
    """The images of shared classes."""
    return _view(found, found.known)


def unknown_classes_view(found: Evaluation) -> Predictions:
    """The images of classes that the network does not know."""
    return _view(found, ~found.known)


def _view(found: Evaluation, chosen: Flags) -> Predictions:
    """Some images, with calibrated probabilities.

    Classes that the network does not know stand behind its own, with a probability of 0.
    """
    rows = np.flatnonzero(chosen)
    labels, predicted = found.labels[rows], found.predicted[rows]
    own = np.union1d(labels[found.known[rows]], predicted)
    strange = sorted({found.class_names[row] for row in rows if not found.known[row]})
    place = {name: len(own) + number for number, name in enumerate(strange)}
    numbers = [
        int(np.searchsorted(own, found.labels[row])) if found.known[row]
        else place[found.class_names[row]]
        for row in rows
    ]  # fmt: skip
    shares = np.zeros((len(rows), len(own) + len(strange)))
    shares[:, : len(own)] = found.calibrated[rows][:, own]
    names = [found.candidate.classes[position] for position in own]
    return Predictions(
        classes=(*names, *(f"{name} (unknown)" for name in strange)),
        paths=tuple(found.paths[row] for row in rows),
        labels=np.array(numbers, dtype=np.int64),
        probabilities=shares,
        folds=np.zeros(len(rows), dtype=np.int64),
        signers=None,
    )


def rejection_chart(curve: RiskCoverage, threshold: float | None) -> Figure:
    """Draw the share of mistakes among the accepted images against how many are accepted."""
    figure, panel = new_axes(3.6)
    panel.step(100 * curve.coverage, 100 * curve.risk, color=BLUE, where="post")
    if threshold is not None:
        kept = np.flatnonzero(curve.threshold >= threshold)
        if len(kept):
            panel.plot(
                100 * curve.coverage[kept[-1]], 100 * curve.risk[kept[-1]], "o", color=COLOURS[1],
                label=f"the threshold, {percent(threshold)} sure", clip_on=False, zorder=3,
            )  # fmt: skip
            panel.legend(frameon=False, labelcolor=INK)
    panel.set_xlim(0, 100)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("accepted, % of the images")
    panel.set_ylabel("wrong, % of the accepted")
    return figure


FIGURES: Final = re.compile(r"(confusion|mistakes|strangers|reliability(-2)?|rejection)\.png")
CLASSES: Final = 60  # in a table; all are in per_class.csv
SIGNERS: Final = 10


def evaluation_page(found: Evaluation) -> Page:
    """Put the report together."""
    known = found.known
    tiles = {
        "images": f"{len(found.rows):,}",
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
        f"images, names, labels and signers have the fingerprint {found.index.fingerprint}.",
        tiles=tiles,
        notes=[
            Notes("What to beware of", results.warnings(found), is_warning=True),
            Notes("What to know", results.notes(found)),
        ],
        sections=sections,
        ours=FIGURES,
        endings=("html",),
        wide=True,
    )


def _figures(found: Evaluation) -> Section:
    text = (
        "The first accuracy lets the network answer with any of its classes, as it would in use; "
        "the second only with those that the images show, which tells hands that it reads badly "
        "from signs that it confuses with absent ones. Intervals are Wilson's, 95 %, and take "
        "images for independent; those of one person are not. The calibration error is before "
        "and after the temperature that was fitted on the network's own validation images."
    )
    rows: Rows = [[name, value] for name, value in writer.headlines(found).items()]
    return Section("Figures", [Text(text), Table("Figures", ["what", "how much"], rows)])


def _confusion(found: Evaluation) -> Section:
    view = confusion_view(found)
    wrong = int((~found.correct).sum())
    alt = f"Confusion matrix: {wrong:,} of {len(found.rows):,} images are not recognised."
    blocks: Blocks = [ImageBlock("confusion", alt, plots.confusion_figure(view))]
    rows: Rows = [
        [pair.label, pair.predicted, pair.count, f"{pair.share:.1%}"]
        for pair in classification.confusions(view)
    ]
    header = ["is", "taken for", "images", "share of the class"]
    if rows:
        blocks.append(Table("Most confused pairs", header, rows))
    else:
        blocks.append(Text("Every image is recognised."))
    return Section("Confusion", blocks)


def _classes(found: Evaluation) -> Section:
    every = by_class(found)
    rows: Rows = [
        [first, *map(Number, rest)] for first, *rest in map(writer.cells_of, every[:CLASSES])
    ]
    header = [name.replace("\n", " ") for name in writer.HEADER]
    caption = writer.coverage_text("classes", len(rows), len(every))
    return Section("Classes", [Table(caption, header, rows)])


def _signers(found: Evaluation) -> Section | None:
    signers = by_signer(found)
    if not signers:
        return None
    values = np.array([share.value for share in signers.values()])
    text = (
        f"{counted(len(signers), 'signer')}; the accuracies of half of them lie between "
        f"{np.quantile(values, 0.25):.4f} and {np.quantile(values, 0.75):.4f}, the median is "
        f"{np.median(values):.4f}. All are in per_signer.csv."
    )
    worst = list(signers.items())[:SIGNERS]
    rows: Rows = [[name, *map(Number, writer.share_cells(share))] for name, share in worst]
    header = ["signer", "images", "recognised", "95 % interval"]
    caption = writer.coverage_text("signers", len(rows), len(signers))
    return Section("Signers", [Text(text), Table(caption, header, rows)])


def _mistakes(found: Evaluation) -> Section:
    text = (
        "Images of shared classes that were judged wrongly with the highest confidence, after "
        "the temperature. Some may be labelled wrongly: look at them."
    )
    view = mistakes(found)
    rows = classification.most_confident_mistakes(view)
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


def _sheet(found: Evaluation, view: Predictions, rows: list[int], name: str) -> ImageBlock:
    images = sources.read_thumbnails(found.index.root, [view.paths[row] for row in rows])
    sheet = plots.mistakes_figure(view, rows, images)
    return ImageBlock(name, f"{counted(len(rows), 'image')} that were judged wrongly", sheet)


def _confidence(found: Evaluation) -> Section:
    known, made = found.known, found.calibration
    correct = found.correct[known]
    blocks: Blocks = [Text(
        "Accuracy of the images of shared classes that were judged with about the same "
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
        blocks.append(ImageBlock(name, alt, plots.reliability_figure(diagram), title))
    curve = risk_coverage(found.calibrated[known].max(1), correct)
    chart = rejection_chart(curve, made.reject_threshold)
    alt = f"Mistakes among the accepted images against their share: {_last(curve)}."
    blocks.append(ImageBlock("rejection", alt, chart, "What rejecting unsure guesses would do"))
    return Section("How far confidence can be trusted", blocks)


def _last(curve: RiskCoverage) -> str:
    return f"{curve.risk[-1]:.1%} if all are accepted"


def _unknown(found: Evaluation) -> Section | None:
    if found.known.all():
        return None
    rows: Rows = [
        [
            one.match.data, one.images, f"{one.mistaken_for} ({one.times:,})",
            Number(percent(Proportion(one.rejected, one.images).value)),
        ]
        for one in by_class(found)
        if one.match.network is None
    ]  # fmt: skip
    text = (
        "Of these images every answer is wrong; the best that can happen is that they are "
        "rejected. Shown are those of whose answer the network was surest."
    )
    view = unknown_classes_view(found)
    sheet = _sheet(found, view, classification.most_confident_mistakes(view).tolist(), "strangers")
    header = ["class", "images", "mostly taken for", "rejected"]
    table = Table("Classes that the network does not know", header, rows)
    return Section("Unknown classes", [Text(text), table, sheet])


def _matches(found: Evaluation) -> Section:
    rows: Rows = [[m.data, m.network or "-", m.how] for m in found.matches]
    caption = f"What the classes of {found.name} are for the network"
    header = ["class of the images", "class of the network", "matched by"]
    return Section("Names", [Table(caption, header, rows)])
