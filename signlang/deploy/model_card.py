"""The model card of a bundle: intended use, accuracy, limits, data, cost and origin.

The sections are those of Mitchell et al. 2019, Model Cards for Model Reporting.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from signlang.arrays import Floats32
from signlang.console import log
from signlang.deploy.ensemble import OF_MEMBERS, Ensemble
from signlang.deploy.pipeline import ExportMeasurements, tested_on
from signlang.errors import RunError
from signlang.metrics import classification
from signlang.metrics.calibration import FALLBACK_THRESHOLD, IN_SAMPLE, OF_STUDY, Calibration
from signlang.metrics.classification import Predictions, Proportion
from signlang.reporting import plots
from signlang.reporting.formatting import interval_text, intervals_sentence, percent
from signlang.reporting.page import (
    Cell,
    ImageBlock,
    Notes,
    Number,
    Page,
    Rows,
    Section,
    Table,
    Text,
)
from signlang.runs import trained_run
from signlang.runs.identity import first_weights
from signlang.runs.trained_run import TrainedRun
from signlang.studies import ranking
from signlang.studies.ranking import CrossValidation

LICENCES: Final = {
    "digits": "Apache-2.0",
    "asl_alphabet": "GPL-2, as its author states",
    "synthetic": "drawn by signlang, free to use",
}


def data(run: TrainedRun) -> Section:
    """What it was trained and tested on."""
    data, settings = run.record["data"], run.record["settings"]
    counts = f"{data['train']:,} training, {data['validation']:,} validation, {data['test']:,} test"
    folds: Rows = [
        ["fold", f"{one.metrics['fold']} of {one.metrics['folds']}, split {one.metrics['split']}"]
        for one in run.members
    ]
    if len(run.members) > 1:
        counts += " for the first member"
    rows: Rows = [
        ["data set", str(data["name"])],
        ["licence of the data", LICENCES.get(str(data["name"]), "not stated")],
        ["images", f"{data['images']:,} of {data['classes']} classes: {counts}"],
        ["people in them", f"{run.signers:,}" if run.signers else "not known"],
        ["left out", f"{data['excluded']:,}"],
        ["cropped to a box", _cropped(data)],
        *folds,
        ["protocol", str(run.metrics["protocol"])],
        ["augmentation", str(settings.get("augment.name", "none"))],
        ["first weights", first_weights(settings).split()[0]],
        ["fingerprint of the images", str(data["fingerprint"])],
    ]
    return Section("Data", [Table("What it was trained and tested on", ["", ""], rows)])


def _cropped(data: Mapping[str, Any]) -> str:
    if not data.get("boxes"):
        return "none"
    return f"{data['boxes']:,} images, margin {data['box_margin']:g} of the box on each side"


def cost(run: TrainedRun, measured: ExportMeasurements) -> Section:
    """What it takes to run it."""
    cost = run.metrics["cost"]
    rows: Rows = [
        [name, Number(f"{measured.size_mb[name]:.2f}"), Number(f"{measured.latency_ms[name]:.2f}")]
        for name in measured.size_mb
    ]
    of_all = f" of {len(run.members)} members together" if len(run.members) > 1 else ""
    text = (
        f"{cost['parameters']:,} parameters{of_all}; {cost['flops'] / 1e6:,.1f} million FLOPs for "
        "an image, as fvcore counts them (a multiply-add is 1)."
        if cost["flops"] is not None
        else f"{cost['parameters']:,} parameters{of_all}."
    )
    caption = "Files, and the median time for one image of its size on one thread of the exporter"
    return Section("Cost", [Text(text), Table(caption, ["model", "MB", "ms"], rows)])


def interface(run: TrainedRun, info: Mapping[str, Any]) -> Section:
    """What goes in and what comes out."""
    preprocessing = info["preprocessing"]
    sizes = ", then ".join(f"{size} x {size}" for size in preprocessing["image_sizes"])
    return Section(
        "Input and output",
        [
            Text(
                "Input images: uint8 (N, H, W, 3), RGB, upright, of any size; transparent parts "
                f"on white. The graph resizes them to {sizes}, subtracts "
                f"{preprocessing['mean']} and divides by {preprocessing['std']} (of values 0 to "
                "1). Output probabilities: float32 "
                f"(N, {len(run.classes)}), in the order of classes.json."
            ),
            *_hands(info),
        ],
    )


def _hands(info: Mapping[str, Any]) -> list[Text]:
    """What the graph gets in place of an image; nothing where it is the image itself."""
    if "hands" not in info:
        return []
    options = dict(info["hands"]["options"])
    description = {
        "HandCrop": "a square around the hand is cut out of the image",
        "HandPoints": "the 21 points of the hand are written as an image of 8 x 8",
        "HandBoth": "a square around the hand is cut out of the image, and the 21 points of the "
        "hand are written into its last row",
    }[options.pop("input")]
    settings = ", ".join(f"{key} {value}" for key, value in options.items())
    return [
        Text(
            f"Before that, {description} ({settings}): signlang predict and signlang serve do it "
            "with the networks of MediaPipe in the folder hands (Apache-2.0, see hands/LICENSE). "
            "The graph alone does not. Where no hand is found they say so."
        )
    ]


def origin(run: TrainedRun) -> Section:
    """How to reproduce it."""
    record = run.record
    settings: Rows = [
        [key, str(record["settings"][key])]
        for key in ("model.name", "optimizer.name", "optimizer.lr", "batch_size", "seed",
                    "trainer.max_epochs", "label_smoothing", "mixup", "cutmix")
        if key in record["settings"]
    ]  # fmt: skip
    rows: Rows = [
        ["signlang", str(record["signlang"])],
        ["commit", str(record.get("git") or "not known")],
        ["started", str(record.get("started"))],
        ["device", str(record.get("device"))],
        ["processor", str(run.environment["processor"] or "not known")],
        ["precision of training", str(run.environment["precision"] or "not known")],
        ["torch", str(run.environment["torch"] or "not known")],
        *[["fingerprint of the run", str(one.record["fingerprint"])] for one in run.members],
        *settings,
    ]
    return Section("Origin", [Table("All settings are in record.json", ["", ""], rows)])


SPLITS: Final = {
    "stratified": "random folds",
    "signer": "people not seen in training",
    "blocks": "other stretches of the film",
    "dataset": "a data set not seen in training",
}
# what the accuracy is that of, by whether it is of images that no network of the bundle knows
ACCURACY: Final = {True: "accuracy on its test fold", False: "accuracy of members on test folds"}
FIGURES: Final = re.compile(r"confusion\.png")
USE: Final = (
    "It names the static hand sign that an image of one hand shows, among the classes below, in "
    "teaching aids, demonstrations and research. It always names one of them, whatever it is "
    "shown: use the threshold, and let people correct it."
)
NOT_FOR: Final = (
    "It does not interpret sign language: that has movement, both hands, faces and a grammar, and "
    "this network sees one image of one hand. It must not be used for decisions about people, nor "
    "for telling who is in an image."
)


def card(run: TrainedRun, measured: ExportMeasurements, info: Mapping[str, Any]) -> Page:
    """Put the card together."""
    test = run.metrics["test"]
    others = _cross_validation(run)
    tiles = {
        ACCURACY[bool(run.unseen)]: f"{test['accuracy']:.4f}",
        "classes": f"{len(run.classes)}",
        "images": f"{run.record['data']['images']:,}",
        "size": f"{measured.size_mb['fp32']:.1f} MB",
        "time per image": f"{measured.latency_ms['fp32']:.1f} ms",
    }
    sections = [
        Section("Intended use", [Text(USE), Text(NOT_FOR)]),
        _accuracy(run, measured, others),
        _confidence(run),
        data(run),
        cost(run, measured),
        interface(run, info),
        origin(run),
    ]
    if len(run.members) > 1:
        tiles |= {"members": f"{len(run.members)}"}
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


def _cross_validation(run: TrainedRun) -> list[CrossValidation]:
    try:
        return ranking.cross_validation(run.members[0])
    except RunError as error:
        log.warning("the card does without the other folds of the study: %s", error)
        return []


def limits(run: TrainedRun, others: Sequence[CrossValidation]) -> list[str]:
    """Limits of the accuracy, in sentences."""
    split, chance = run.metrics["split"], run.predictions.chance_warning
    texts = [chance] if chance else []
    if split == "stratified":
        texts.append(
            "Its test fold was assigned at random: the same signers, and often nearly the same "
            "images, were in training. The accuracy on unseen signers is usually lower."
        )
    if isinstance(run, Ensemble) and not run.unseen:
        texts.insert(0, _not_measured(run))
    by_signer = [one for one in others if one.split == "signer"]
    if by_signer:
        texts.append(
            f"On unseen signers, networks trained the same way reach "
            f"{by_signer[0].mean:.4f} (mean of {by_signer[0].finished} folds)."
        )
    elif split not in {"signer", "dataset"}:
        texts.append("The accuracy on unseen signers has not been measured.")
    if run.metrics["protocol"] == "validation=fold":
        texts.append(
            "The test fold also picked the checkpoint: its accuracy is too high, by an unknown "
            "amount."
        )
    texts += [
        f"All its images are of the data set {run.metrics['data']}, of {_people(run)}. Other "
        "cameras, light, backgrounds, skin colours, jewellery and ages are untested.",
        _framing(run),
        "Signs that need movement are beyond it.",
    ]
    return texts


def _not_measured(run: Ensemble) -> str:
    accuracies = run.accuracies
    return (
        f"Its {len(accuracies)} members together were trained on all images of the data set: the "
        "accuracy of their mean on new images has not been measured. Alone, on their test folds, "
        f"they reach {np.mean(accuracies):.4f} on average ({min(accuracies):.4f} to "
        f"{max(accuracies):.4f}); the mean is usually a little better."
    )


def _framing(run: TrainedRun) -> str:
    """How an image must be framed to be like those of training."""
    data = run.record["data"]
    if data.get("boxes"):
        return (
            f"{data['boxes']:,} of its {data['images']:,} images were cropped to a box around the "
            f"hand, with a margin of {data['box_margin']:.0%} of the box on each side, before they "
            "were resized without keeping the aspect ratio. Crop images to the hand likewise; "
            "whole ones are untested."
        )
    return (
        "Images are resized without keeping the aspect ratio. Crop them to the hand, with about "
        "the same margin as in the training images."
    )


def _people(run: TrainedRun) -> str:
    if not run.signers:
        return "it is not known how many people"
    return f"{run.signers:,} people" if run.signers > 1 else "one person"


def _accuracy(
    run: TrainedRun, measured: ExportMeasurements, others: Sequence[CrossValidation]
) -> Section:
    predictions = run.predictions
    name, k, n = run.metrics["split"], run.metrics["fold"], run.metrics["folds"]
    tested = f"this network, test fold {k} of {n} ({SPLITS.get(name, name)})"
    if isinstance(run, Ensemble):
        tested = f"{run.evidence} ({SPLITS.get(name, name)})"
    accuracy = f"{run.metrics['test']['accuracy']:.4f}"
    rows: Rows = [[*_row(tested, accuracy, predictions.accuracy), str(predictions.clusters or "-")]]
    for one in others:
        folds = f"mean of {one.finished} folds" + f" of {one.folds}" * (one.finished < one.folds)
        text = f"trained the same way, {SPLITS.get(one.split_text, one.split_text)}, {folds}"
        mean = f"{one.mean:.4f} ± {one.spread:.4f}"
        rows.append([*_row(text, mean, one.accuracy), str(one.clusters or "-")])
    header = ["tested on", "images", "accuracy", "95 % interval", "by"]
    blocks: list[Text | ImageBlock | Table] = [
        Table("Accuracy; of several folds, ± two standard deviations", header, rows)
    ]
    every = (predictions.clusters, *(other.clusters for other in others))
    widest = max((one for one in every if one is not None), key=lambda one: one.count, default=None)
    if widest is not None:
        blocks.append(Text(intervals_sentence(widest)))
    if measured.int8_loss is not None:
        blocks.append(
            Text(
                f"With 8-bit numbers ({measured.quantized}) it recognises "
                f"{measured.accuracy('int8'):.4f} of {tested_on(measured)}, instead of "
                f"{measured.accuracy('fp32'):.4f}."
            )
        )
    if isinstance(run, Ensemble):
        blocks += _confusion(run.predictions, run.evidence)
    elif measured.probabilities is not None:
        blocks += _confusion(_measured_predictions(run, measured.probabilities), "the test fold")
    return Section("Accuracy", blocks)


def _row(text: str, accuracy: str, images: Proportion) -> Sequence[Cell]:
    return [text, images.total, Number(accuracy), Number(interval_text(images.interval))]


def _measured_predictions(run: TrainedRun, probabilities: Floats32) -> Predictions:
    rows = run.subset("test")
    paths = tuple(path for path, _ in rows)
    return Predictions(
        run.classes,
        paths,
        trained_run.label_array(rows),
        probabilities.astype(np.float64),
        np.full(len(rows), run.metrics["fold"]),
        None,
        run.folder.image_table.clusters_of(paths),
    )


def _confusion(predictions: Predictions, tested: str) -> list[Text | ImageBlock | Table]:
    wrong, count = int((~predictions.correct).sum()), len(predictions.paths)
    alt = f"Confusion matrix: {wrong} of {count} images predicted wrongly."
    caption = f"What was taken for what, on {tested}"
    blocks: list[Text | ImageBlock | Table] = [
        ImageBlock("confusion", alt, plots.confusion_figure(predictions), caption)
    ]
    recalls = classification.recalls(predictions).items()
    weak = [(name, share) for name, share in recalls if share.count < share.total][:10]
    if weak:
        table: Rows = [_row(name, f"{share.value:.4f}", share) for name, share in weak]
        header = ["class", "images", "recognised", "95 % interval"]
        blocks.append(Table("Classes with mistakes, the worst first", header, table))
    return blocks


def _confidence(run: TrainedRun) -> Section:
    calibration, error = run.calibration, run.calibration.test_error
    if not calibration.images:
        return Section(
            "Confidence",
            [
                Text(
                    "Its probabilities are not calibrated: do not read them as chances to be "
                    f"right. {FALLBACK_THRESHOLD} stands in for a reject threshold."
                )
            ],
        )
    if calibration.source == OF_MEMBERS:
        return _confidence_of_members(calibration)
    divided = f"divided by {calibration.temperature:.4g}" if calibration.kept else "as trained"
    text = (
        f"Logits are {divided}: a temperature was fitted on {_images_of(calibration)} and is "
        f"{calibration.reason or 'kept'}."
    )
    if run.is_optimistic:
        text += f" {IN_SAMPLE}"
    elif error:
        text += (
            f" The calibration error on the test fold is {error['before']:.4f} before and "
            f"{error['after']:.4f} after it."
        )
    if calibration.source == OF_STUDY:
        text += (
            " Figures of temperature and threshold are cross-fitted: those of a fold are by what "
            "the other folds alone gave. Each fold has a network of its own; what fits all of them "
            "together need not fit this one as well."
        )
    if isinstance(run, Ensemble):
        text += f" {_mean_of(run)}"
    return Section("Confidence", [Text(text), _threshold(calibration)])


def _mean_of(run: Ensemble) -> str:
    """By how many networks the images were predicted that calibrate the mean."""
    networks, count = len({one.path.resolve().parent for one in run.members}), len(run.members)
    by = "one network" if networks == 1 else f"{networks} networks"
    text = f"Each image was predicted by {by}"
    if networks == count:
        return f"{text}, as many as the bundle holds."
    return (
        f"{text}, of which the bundle holds {count}: their mean is less sure on average, so that "
        "it accepts fewer images at this threshold."
    )


def _confidence_of_members(calibration: Calibration) -> Section:
    text = (
        "The logits of each member are divided by a temperature of its own, fitted on its "
        f"validation images (at least {calibration.images}): {calibration.reason}. The threshold "
        "is the highest of the members'. The mean of the members has not been calibrated as such."
    )
    return Section("Confidence", [Text(text), _threshold(calibration)])


def _threshold(calibration: Calibration) -> Text:
    return Text(
        f"A guess of a probability below {calibration.reject_threshold:.4g} is better called "
        f"unknown: of the others, {calibration.wanted_precision:.0%} should be right, on images "
        f"like these.{_reached(calibration)}"
        if calibration.reject_threshold is not None
        else f"No reject threshold was fitted: {calibration.no_threshold}. "
        f"{FALLBACK_THRESHOLD} stands in: a guess of a probability below it is more likely wrong "
        "than right, and is called unknown."
    )


def _images_of(calibration: Calibration) -> str:
    kind = "images of " + OF_STUDY if calibration.source == OF_STUDY else "validation images"
    return f"{calibration.images} {kind}"


def _reached(calibration: Calibration) -> str:
    effects = calibration.cross_fitted
    if not effects or effects["precision"] is None:
        return ""
    return (
        f" Cross-fitted over all folds, {percent(effects['coverage'])} of the images are accepted "
        f"and {percent(effects['precision'])} of these are right."
    )
