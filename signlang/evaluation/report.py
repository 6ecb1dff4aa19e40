"""The report page of an evaluation."""

import re
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from signlang import __version__
from signlang.arrays import Flags
from signlang.data import sources
from signlang.evaluation import results, writer
from signlang.evaluation.results import Evaluation, Robustness, by_class, by_set, by_signer
from signlang.metrics import classification
from signlang.metrics.classification import (
    Predictions,
    Proportion,
    RiskCoverage,
    reliability_diagram,
    risk_coverage,
)
from signlang.reporting import plots
from signlang.reporting.formatting import counted, intervals_sentence, percent
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
from signlang.reporting.plots import BLUE, COLOURS, INK, new_axes, new_figure, style_axes


def confusion_view(evaluation: Evaluation) -> Predictions:
    """All images, over the classes that occur as labels or predictions."""
    return _view(evaluation, np.ones(len(evaluation.rows), dtype=np.bool_))


def shared_classes_view(evaluation: Evaluation) -> Predictions:
    """Images of shared classes."""
    return _view(evaluation, evaluation.known)


def unknown_classes_view(evaluation: Evaluation) -> Predictions:
    """Images of classes that the network does not know."""
    return _view(evaluation, ~evaluation.known)


def _view(evaluation: Evaluation, selected: Flags) -> Predictions:
    """Some images, with calibrated probabilities.

    Classes that the network does not know follow its own, with a probability of 0.
    """
    rows = np.flatnonzero(selected)
    labels, predicted = evaluation.labels[rows], evaluation.predicted[rows]
    network_classes = np.union1d(labels[evaluation.known[rows]], predicted)
    unknown = sorted({evaluation.class_names[row] for row in rows if not evaluation.known[row]})
    column_of = {name: len(network_classes) + number for number, name in enumerate(unknown)}
    view_labels = [
        int(np.searchsorted(network_classes, evaluation.labels[row])) if evaluation.known[row]
        else column_of[evaluation.class_names[row]]
        for row in rows
    ]  # fmt: skip
    probabilities = np.zeros((len(rows), len(network_classes) + len(unknown)))
    probabilities[:, : len(network_classes)] = evaluation.calibrated[rows][:, network_classes]
    names = [evaluation.predictor.classes[position] for position in network_classes]
    return Predictions(
        classes=(*names, *(f"{name} (unknown)" for name in unknown)),
        paths=tuple(evaluation.paths[row] for row in rows),
        labels=np.array(view_labels, dtype=np.int64),
        probabilities=probabilities,
        folds=np.zeros(len(rows), dtype=np.int64),
        signers=None,
    )


def rejection_chart(curve: RiskCoverage, threshold: float) -> Figure:
    """Draw the risk-coverage curve: errors among the accepted images against their share."""
    figure, panel = new_axes(3.6)
    panel.step(100 * curve.coverage, 100 * curve.risk, color=BLUE, where="post")
    kept = np.flatnonzero(curve.threshold >= threshold)
    if len(kept):
        panel.plot(
            100 * curve.coverage[kept[-1]], 100 * curve.risk[kept[-1]], "o", color=COLOURS[1],
            label=f"threshold, confidence {percent(threshold)}", clip_on=False, zorder=3,
        )  # fmt: skip
        panel.legend(frameon=False, labelcolor=INK)
    panel.set_xlim(0, 100)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("accepted, % of the images")
    panel.set_ylabel("wrong, % of the accepted")
    return figure


def robustness_chart(robustness: Robustness, clean: float, has_hands: bool) -> Figure:
    """Draw accuracy by grade of each corruption, with its interval, from the images as they are."""
    kinds = robustness.kinds
    columns = min(len(kinds), 4)
    lines = -(-len(kinds) // columns)
    figure = new_figure(max(2.1 * columns, 4.2), 1.9 * lines + 0.6)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, (kind, scores) in zip(panels, kinds.items(), strict=False):
        style_axes(panel)
        grades = [0, *(one.grade for one in scores)]
        intervals = [one.accuracy.interval or (one.accuracy.value,) * 2 for one in scores]
        panel.plot(grades, [clean, *(one.accuracy.value for one in scores)], color=BLUE,
                   marker="o", markersize=3, label="accuracy", clip_on=False)  # fmt: skip
        low, high = zip((clean, clean), *intervals, strict=True)
        panel.fill_between(grades, low, high, color=BLUE, alpha=0.2, linewidth=0,
                           label="95 % interval")  # fmt: skip
        if has_hands:
            missing = [one.without_hand.value for one in scores if one.without_hand]
            panel.plot(grades[1:], missing, color=COLOURS[1], linestyle="--", label="no hand found")
        panel.set_title(kind.replace("_", " "))
        panel.set(ylim=(0, 1.02), xticks=range(6))
    for panel in panels[len(kinds) :]:
        panel.set_axis_off()
    figure.supxlabel("grade; 0 is the image as it is", color=INK, fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False,
                  labelcolor=INK)  # fmt: skip
    return figure


FIGURES: Final = re.compile(
    r"(confusion|mistakes|unknown|reliability(-2)?|rejection|robustness|corrupted)\.png"
)
CLASSES: Final = 60  # in a table; all are in per_class.csv
SIGNERS: Final = 10


def evaluation_page(evaluation: Evaluation) -> Page:
    """Build the report page."""
    known = evaluation.known
    tiles = {
        "images": f"{len(evaluation.rows):,}",
        "accuracy": f"{evaluation.metrics['accuracy']:.4f}",
        "over the shared classes": f"{evaluation.shared_only_metrics['accuracy']:.4f}",
        "macro F1": f"{evaluation.metrics['macro_f1']:.4f}",
    }
    tiles["accepted"] = percent(evaluation.coverage.value)
    tiles["right of these"] = (
        percent(evaluation.precision.value) if evaluation.precision.total else "-"
    )
    if not known.all():
        tiles["of unknown classes"] = f"{int((~known).sum()):,}"
    builders = [
        _metrics,
        _confusion,
        _classes,
        _sets,
        _signers,
        _mistakes,
        _confidence,
        _robustness,
        _unknown,
        _matches,
    ]
    sections = [section for build in builders if (section := build(evaluation)) is not None]
    return Page(
        name="report",
        title=f"{evaluation.predictor.name} on {evaluation.name}",
        lead=f"Written by signlang {__version__}. The network is {evaluation.predictor.path}; the "
        f"images, names, labels and signers have the fingerprint {evaluation.index.fingerprint}.",
        tiles=tiles,
        notes=[
            Notes("Warnings", results.warnings(evaluation), is_warning=True),
            Notes("Notes", results.notes(evaluation)),
        ],
        sections=sections,
        ours=FIGURES,
        endings=("html",),
        wide=True,
    )


def _metrics(evaluation: Evaluation) -> Section:
    clusters = evaluation.clusters[evaluation.known]
    text = (
        "The first accuracy is over all classes of the network, as in use; the second only over "
        "those that occur in the images, which separates poor recognition from confusion with "
        "absent classes. Intervals are Wilson's, 95 %, of as many independent images as these are "
        f"worth (Korn and Graubard 1998). {intervals_sentence(clusters)}"
    )
    calibration = evaluation.calibration
    if calibration.images:
        text += (
            " The calibration error is before and after the temperature, which was fitted on "
            f"{calibration.source}: {calibration.reason or 'kept'}."
        )
    rows: Rows = [[name, value] for name, value in writer.headlines(evaluation).items()]
    return Section("Metrics", [Text(text), Table("Metrics", ["metric", "value"], rows)])


def _confusion(evaluation: Evaluation) -> Section:
    view = confusion_view(evaluation)
    wrong = int((~evaluation.correct).sum())
    alt = f"Confusion matrix: {wrong:,} of {len(evaluation.rows):,} images are not recognised."
    blocks: Blocks = [ImageBlock("confusion", alt, plots.confusion_figure(view))]
    rows: Rows = [
        [pair.label, pair.predicted, pair.count, Number(f"{pair.share:.1%}")]
        for pair in classification.confusions(view)
    ]
    header = ["is", "taken for", "images", "share of the class"]
    if rows:
        blocks.append(Table("Most confused pairs", header, rows))
    else:
        blocks.append(Text("Every image is recognised."))
    return Section("Confusion", blocks)


def _classes(evaluation: Evaluation) -> Section:
    class_scores = by_class(evaluation)
    rows: Rows = [
        [first, *map(Number, rest)] for first, *rest in map(writer.cells_of, class_scores[:CLASSES])
    ]
    header = [name.replace("\n", " ") for name in writer.HEADER]
    caption = writer.coverage_text("classes", len(rows), len(class_scores))
    return Section("Classes", [Table(caption, header, rows)])


def _signers(evaluation: Evaluation) -> Section | None:
    signers = by_signer(evaluation)
    if not signers:
        return None
    values = np.array([share.value for share in signers.values()])
    text = (
        f"{counted(len(signers), 'signer')}; the accuracies of half of them lie between "
        f"{np.quantile(values, 0.25):.4f} and {np.quantile(values, 0.75):.4f}, the median is "
        f"{np.median(values):.4f}. All are in per_signer.csv. The interval of a signer is that of "
        "more images of this person."
    )
    worst = list(signers.items())[:SIGNERS]
    rows: Rows = [[name, *map(Number, writer.share_cells(share))] for name, share in worst]
    header = ["signer", "images", "recognised", "95 % interval"]
    caption = writer.coverage_text("signers", len(rows), len(signers))
    return Section("Signers", [Text(text), Table(caption, header, rows)])


def _sets(evaluation: Evaluation) -> Section | None:
    """Accuracy on each of several joined data sets."""
    rows: Rows = [
        [name, *map(Number, writer.share_cells(share))]
        for name, share in by_set(evaluation).items()
    ]
    if not rows:
        return None
    header = ["data set", "images", "recognised", "95 % interval"]
    return Section("Data sets", [Table("Images of shared classes of each set", header, rows)])


def _mistakes(evaluation: Evaluation) -> Section:
    text = (
        "Images of shared classes that were predicted wrongly with the highest confidence, after "
        "the temperature. Some may be labelled wrongly: check them."
    )
    view = shared_classes_view(evaluation)
    rows = classification.most_confident_mistakes(view)
    if not len(rows):
        return Section("Worst mistakes", [Text("There are no mistakes.")])
    sheet = _sheet(evaluation, view, rows.tolist(), "mistakes")
    header = ["file", "is", "taken for", "confidence"]
    cells: Rows = [
        [
            view.paths[row], view.classes[view.labels[row]], view.classes[view.predicted[row]],
            Number(percent(float(view.confidence[row]))),
        ]
        for row in rows.tolist()
    ]  # fmt: skip
    return Section("Worst mistakes", [Text(text), sheet, Table("Worst mistakes", header, cells)])


def _sheet(evaluation: Evaluation, view: Predictions, rows: list[int], name: str) -> ImageBlock:
    index = evaluation.index
    crops = {p: c for p, c in zip(index.paths, index.crops or (), strict=False) if c is not None}
    images = sources.read_thumbnails(index.root, [view.paths[row] for row in rows], crops)
    sheet = plots.mistakes_figure(view, rows, images)
    return ImageBlock(name, f"{counted(len(rows), 'image')} predicted wrongly", sheet)


def _confidence(evaluation: Evaluation) -> Section:
    known, calibration = evaluation.known, evaluation.calibration
    correct = evaluation.correct[known]
    blocks: Blocks = [Text(
        "Accuracy by confidence, for the images of shared classes, before and after the "
        "temperature."
    )]  # fmt: skip
    for number, (title, probabilities) in enumerate(
        [
            ("Before the temperature", evaluation.probabilities),
            ("After the temperature", evaluation.calibrated),
        ]
    ):
        if number and calibration.temperature == 1:
            break
        diagram = reliability_diagram(probabilities[known].max(1), correct)
        alt = f"Reliability diagram: calibration error {diagram.error:.4f}."
        name = "reliability" + "-2" * number
        blocks.append(ImageBlock(name, alt, plots.reliability_figure(diagram), title))
    curve = risk_coverage(evaluation.calibrated[known].max(1), correct)
    chart = rejection_chart(curve, calibration.threshold)
    alt = f"Errors among the accepted images against their share: {_full_coverage_text(curve)}."
    blocks.append(ImageBlock("rejection", alt, chart, "Risk and coverage by reject threshold"))
    return Section("Calibration", blocks)


def _robustness(evaluation: Evaluation) -> Section | None:
    robustness = evaluation.robustness
    if robustness is None:
        return None
    clean = evaluation.share(evaluation.correct, evaluation.known)
    text = (
        "Each image of a shared class is damaged before its hand is looked for and before it is "
        "resized, always in the same way, so that two networks see the same images. The grades "
        f"are our own, not those of a camera. As they are, {writer.with_interval(clean)} of the "
        "images are recognised. All figures are in corruptions.csv."
    )
    worst = min(robustness.scores, key=lambda one: one.accuracy.value)
    alt = f"Accuracy by grade of each corruption, from {worst.accuracy.value:.4f} ({worst.kind})."
    chart = robustness_chart(robustness, clean.value, evaluation.hands is not None)
    grades = writer.grade_header(robustness)
    rows = writer.robustness_cells(robustness, lambda one: one.accuracy)
    blocks: Blocks = [
        Text(text),
        ImageBlock("robustness", alt, chart),
        _grades("Accuracy and 95 % interval by grade", grades, rows),
    ]
    if evaluation.hands is not None:
        rows = writer.robustness_cells(robustness, lambda one: one.without_hand)
        blocks.append(_grades("Share of images in which no hand is found", grades, rows))
    alt = "One image in all grades of each corruption."
    blocks.append(ImageBlock("corrupted", alt, robustness.sheet, "The grades, of one image"))
    return Section("Robustness", blocks)


def _grades(caption: str, grades: list[str], cells: list[list[str]]) -> Table:
    rows: Rows = [
        [kind, *(Number(cell.replace("\n", " (") + ")" * ("\n" in cell)) for cell in rest)]
        for kind, *rest in cells
    ]
    return Table(caption, ["corruption", *grades], rows)


def _full_coverage_text(curve: RiskCoverage) -> str:
    return f"{curve.risk[-1]:.1%} if all are accepted"


def _unknown(evaluation: Evaluation) -> Section | None:
    if evaluation.known.all():
        return None
    rows: Rows = [
        [
            one.match.data, one.images, f"{one.mistaken_for} ({one.times:,})",
            Number(percent(Proportion(one.rejected, one.images).value)),
        ]
        for one in by_class(evaluation)
        if one.match.network is None
    ]  # fmt: skip
    text = (
        "Every prediction of these images is wrong; at best they are rejected. The ones with the "
        "highest confidence are shown."
    )
    view = unknown_classes_view(evaluation)
    sheet = _sheet(
        evaluation, view, classification.most_confident_mistakes(view).tolist(), "unknown"
    )
    header = ["class", "images", "mostly taken for", "rejected"]
    table = Table("Classes that the network does not know", header, rows)
    return Section("Unknown classes", [Text(text), table, sheet])


def _matches(evaluation: Evaluation) -> Section:
    rows: Rows = [[m.data, m.network or "-", m.how] for m in evaluation.matches]
    caption = f"Classes of {evaluation.name} and their counterparts in the network"
    header = ["class of the images", "class of the network", "matched by"]
    return Section("Class mapping", [Table(caption, header, rows)])
