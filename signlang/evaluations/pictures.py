"""An evaluation comes in; the views of it that charts are drawn of, and a chart, go out."""

import numpy as np
from matplotlib.figure import Figure

from signlang.confidence.rejection import RiskCoverage
from signlang.evaluations.answers import Evaluation
from signlang.evaluations.scores import Flags
from signlang.pages.drawing import BLUE, COLOURS, INK, axes
from signlang.studies.judgements import percent
from signlang.studies.predictions import Predictions


def confusion_view(found: Evaluation) -> Predictions:
    """All pictures, over those classes alone that a picture has or was taken for."""
    return _view(found, np.ones(len(found.rows), dtype=np.bool_))


def mistakes(found: Evaluation) -> Predictions:
    """The pictures of shared classes."""
    return _view(found, found.known)


def strangers_view(found: Evaluation) -> Predictions:
    """The pictures of classes that the network does not know."""
    return _view(found, ~found.known)


def _view(found: Evaluation, chosen: Flags) -> Predictions:
    """Some pictures, with calibrated probabilities.

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
    """Draw the share of mistakes among the accepted pictures against how many are accepted."""
    figure, panel = axes(3.6)
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
    panel.set_xlabel("accepted, % of the pictures")
    panel.set_ylabel("wrong, % of the accepted")
    return figure
