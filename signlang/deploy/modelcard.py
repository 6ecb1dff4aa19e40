"""A run, its bundle and what was measured come in; a model card goes out, for who will use it.

The sections are those of Mitchell et al. 2019, Model Cards for Model Reporting.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from signlang.deploy import kin, material, provenance
from signlang.deploy.finished import Finished
from signlang.deploy.kin import SPLITS, CrossValidated
from signlang.deploy.making import Measured
from signlang.pages.page import Cell, Notes, Number, Page, Picture, Section, Table, Text
from signlang.studies import judgements
from signlang.studies.predictions import Predictions
from signlang.studies.statistics import wilson

FIGURES: Final = re.compile(r"confusion\.png")
USE: Final = (
    "It names the static hand sign that a picture of one hand shows, among the classes below, in "
    "teaching aids, demonstrations and research. It always names one of them, whatever it is "
    "shown: use the threshold, and let people correct it."
)
NOT_FOR: Final = (
    "It does not interpret sign language: that has movement, both hands, faces and a grammar, and "
    "this network sees one picture of one hand. It is not made for decisions about people, nor for "
    "telling who is in a picture."
)
Rows = list[Sequence[Cell]]


def card(run: Finished, found: Measured, info: Mapping[str, Any]) -> Page:
    """Put the card together."""
    test = run.metrics["test"]
    others = kin.cross_validated(run.path)
    tiles = {
        "accuracy on its test fold": f"{test['accuracy']:.4f}",
        "classes": f"{len(run.classes)}",
        "pictures": f"{run.record['data']['pictures']:,}",
        "size": f"{found.size_mb['fp32']:.1f} MB",
        "time per picture": f"{found.latency_ms['fp32']:.1f} ms",
    }
    sections = [
        Section("Intended use", [Text(USE), Text(NOT_FOR)]),
        _accuracy(run, found, others),
        _confidence(run),
        provenance.data(run),
        provenance.cost(run, found),
        provenance.interface(run, info),
        provenance.origin(run),
    ]
    return Page(
        name="card",
        title=f"Model card: {info['name']}",
        lead=f"{run.metrics['model']} for the hand signs {', '.join(run.classes)}, written by "
        f"signlang {info['signlang']}.",
        tiles=tiles,
        notes=[Notes("Limits", list(limits(run, others)), is_warning=True)],
        sections=sections,
        ours=FIGURES,
    )


def limits(run: Finished, others: Sequence[CrossValidated]) -> list[str]:
    """What somebody must know before relying on the accuracy."""
    split, said = run.metrics["split"], []
    if split == "stratified":
        said.append(
            "Its test fold was dealt at random: the same people, and often nearly the same "
            "pictures, were in training. Strangers' hands are read worse, as a rule."
        )
    apart = [one for one in others if one.split == "signer"]
    if apart:
        said.append(
            f"On people who were not in training, networks made in the same way reach "
            f"{apart[0].mean:.4f} (mean of {apart[0].finished} folds)."
        )
    elif split != "signer":
        said.append("How well it reads people who were not in training has not been measured.")
    if run.metrics["protocol"] == "validation=fold":
        said.append(
            "The test fold also picked the checkpoint: its accuracy is too high, by an unknown "
            "amount."
        )
    said += [
        f"All its pictures are of the data set {run.metrics['data']}, of {_people(run)}. Other "
        "cameras, light, backgrounds, skin colours, jewellery and ages are untested.",
        "Pictures are squeezed to a square. Cut them to the hand, with about as much around it as "
        "in the training pictures.",
        "Signs that need movement are beyond it.",
    ]
    return said


def _people(run: Finished) -> str:
    if not run.signers:
        return "it is not known how many people"
    return f"{run.signers:,} people" if run.signers > 1 else "one person"


def _accuracy(run: Finished, found: Measured, others: Sequence[CrossValidated]) -> Section:
    test, tested = run.metrics["test"], int(run.record["data"]["test"])
    low, high = wilson(round(test["accuracy"] * tested), tested)
    name, k, n = run.metrics["split"], run.metrics["fold"], run.metrics["folds"]
    first = f"this network, test fold {k} of {n} ({SPLITS.get(name, name)})"
    rows: Rows = [_row(first, tested, f"{test['accuracy']:.4f}", low, high)]
    for one in others:
        folds = f"mean of {one.finished} folds" + f" of {one.folds}" * (one.finished < one.folds)
        text = f"made in the same way, {SPLITS.get(one.split, one.split)}, {folds}"
        rows.append(
            _row(text, one.pictures, f"{one.mean:.4f} ± {one.spread:.4f}", one.low, one.high)
        )
    header = ["tested on", "pictures", "accuracy", "95 % interval (Wilson)"]
    blocks: list[Text | Picture | Table] = [
        Table("Accuracy; of several folds, ± two standard deviations", header, rows)
    ]
    if found.int8_loss is not None:
        blocks.append(
            Text(
                f"With 8-bit numbers ({found.quantized}) it recognises "
                f"{found.accuracy('int8'):.4f} of the test fold instead of "
                f"{found.accuracy('fp32'):.4f}."
            )
        )
    if found.probabilities is not None:
        blocks += _confusion(run, found)
    return Section("Accuracy", blocks)


def _row(text: str, pictures: int, accuracy: str, low: float, high: float) -> Sequence[Cell]:
    return [text, pictures, Number(accuracy), Number(f"{low:.4f} to {high:.4f}")]


def _confusion(run: Finished, found: Measured) -> list[Text | Picture | Table]:
    import numpy as np

    rows = run.part("test")
    assert found.probabilities is not None
    judged = Predictions(
        run.classes,
        tuple(path for path, _ in rows),
        material.labels(rows),
        found.probabilities.astype(np.float64),
        np.full(len(rows), run.metrics["fold"]),
        None,
    )
    wrong = int((~judged.correct).sum())
    alt = f"Confusion matrix: {wrong} of {len(rows)} pictures of the test fold judged wrongly."
    caption = "What was taken for what, on the test fold"
    blocks: list[Text | Picture | Table] = [
        Picture("confusion", alt, judgements.confusion_chart(judged), caption)
    ]
    weak = [one for one in judgements.recalls(judged) if one.correct < one.count][:10]
    if weak:
        table: Rows = [
            _row(one.name, one.count, f"{one.correct / one.count:.4f}", one.low, one.high)
            for one in weak
        ]
        header = ["class", "pictures", "recognised", "95 % interval (Wilson)"]
        blocks.append(Table("Classes with mistakes, the worst first", header, table))
    return blocks


def _confidence(run: Finished) -> Section:
    made, error = run.calibration, run.calibration_error
    if not made.pictures:
        return Section(
            "Confidence",
            [
                Text(
                    "Its probabilities are not calibrated: do not read them as chances to be right."
                )
            ],
        )
    text = (
        f"Logits are divided by {made.temperature:.4g}, fitted on {made.pictures} validation "
        "pictures."
    )
    if error:
        text += (
            f" The calibration error on the test fold is {error['before']:.4f} before and "
            f"{error['after']:.4f} after it."
        )
    below = (
        f"A guess of a probability below {made.reject_threshold:.4g} is better called unknown: "
        f"of the others, {made.wanted_precision:.0%} should be right, on pictures like these."
        if made.reject_threshold is not None
        else f"No threshold makes {made.wanted_precision:.0%} of the guesses right."
    )
    return Section("Confidence", [Text(text), Text(below)])
