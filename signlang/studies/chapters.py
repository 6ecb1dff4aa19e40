"""Standings come in; the sections of a report that show figures go out."""

from collections.abc import Sequence
from typing import Final

from signlang.confidence.reliability import reliability_diagram
from signlang.errors import DataError
from signlang.pages.page import Number, Picture, Section, Table, Text
from signlang.studies import costs, figures, judgements, originals
from signlang.studies.runs import Setting
from signlang.studies.standings import Standings
from signlang.studies.tables import Blocks, Rows, dealings

CURVES: Final = 6  # settings whose learning is shown
SHOWN: Final = 4  # dealings whose best setting is shown in detail
LISTED: Final = 40  # classes in a table
NETWORKS: Final = 30  # points of a chart of costs


def cost(standings: Standings) -> Section | None:
    """Accuracy against parameters, FLOPs and latency."""
    settings = [row.setting for row in standings.rows]
    every = costs.points(settings, standings.study.labels)
    found, names = every[:NETWORKS], list(dealings(settings).values())
    if not found:
        return None
    text = "The best setting of each network; accuracies further up and further left are better."
    if len(every) > len(found):
        text += f" Shown are the {len(found)} most accurate of {len(every)} networks."
    if len(names) > 1:
        text += " Colours tell apart how pictures were dealt to folds: compare within one colour."
    devices = {str(run.record.get("device")) for setting in settings for run in setting.runs}
    if len(devices) > 1:
        text += f" Times were taken on {len(devices)} different devices and do not compare."
    best = found[0]
    alt = (
        f"Accuracy of {len(found)} networks against parameters, FLOPs and milliseconds per "
        f"picture. The most accurate is {best.label} with {best.accuracy:.4f}."
    )
    groups = names if len({point.group for point in found}) > 1 else names[:1]
    chart = Picture("cost", alt, costs.cost_chart(found, groups))
    return Section("Cost against accuracy", [Text(text), chart])


def curves(standings: Standings) -> Section:
    """How the best settings learned."""
    settings = selected(standings)
    blocks: Blocks = []
    if len(settings) < len(standings.rows):
        blocks.append(Text(
            f"Shown are {len(settings)} of {len(standings.rows)} settings: the best of each "
            "network and dealing first."
        ))  # fmt: skip
    silent = []
    for number, setting in enumerate(settings, start=1):
        label = standings.study.label(setting)
        chart = figures.learning_curves(setting.runs)
        if chart is None:
            silent.append(label)
            continue
        alt = (
            f"Loss and accuracy of {label} over the epochs, for training and validation; "
            f"{len(setting.runs)} folds and their mean."
        )
        blocks.append(Picture(named("curves", number), alt, chart, label))
    if silent:
        blocks.append(Text(f"No history was written by {', '.join(silent)}."))
    return Section("Learning curves", blocks)


def selected(standings: Standings) -> list[Setting]:
    """The settings whose learning is shown, in the order of the leaderboard."""
    settings = [row.setting for row in standings.rows]
    firsts: dict[object, Setting] = {}
    for setting in settings:
        firsts.setdefault((setting.model, setting.dealing), setting)
    leading = list(firsts.values())
    others = [setting for setting in settings if setting not in leading]
    chosen = (leading + others)[:CURVES]
    return [setting for setting in settings if setting in chosen]


def bests(standings: Standings) -> list[Setting]:
    """The best setting of each dealing, at most `SHOWN`."""
    found: dict[object, Setting] = {}
    for row in standings.rows:
        found.setdefault(row.setting.dealing, row.setting)
    return list(found.values())[:SHOWN]


def confusion(standings: Standings) -> Section:
    """What was taken for what, and how well each class is recognised."""
    blocks: Blocks = []
    for number, (setting, label) in enumerate(_labelled(standings), start=1):
        judged = setting.predictions
        alt = (
            f"Confusion matrix of {label}: {len(judged.classes)} classes, "
            f"{int((~judged.correct).sum()):,} of {len(judged.labels):,} pictures judged wrongly."
        )
        chart = judgements.confusion_chart(judged)
        blocks.append(Picture(named("confusion", number), alt, chart, label))
        pairs = judgements.confusions(judged)
        rows: Rows = [
            [pair.label, pair.predicted, pair.count, f"{pair.share:.1%}"] for pair in pairs
        ]
        header = ["is", "taken for", "pictures", "share of the class"]
        if rows:
            blocks.append(Table(f"Most confused pairs of {label}", header, rows))
        else:
            blocks.append(Text(f"{label} recognises every picture."))
        blocks.append(_recalls(setting, label))
    return Section("Confusion", blocks)


def _recalls(setting: Setting, label: str) -> Table:
    every = judgements.recalls(setting.predictions)
    rows: Rows = [
        [
            recall.name, Number(f"{recall.correct / max(recall.count, 1):.4f}"),
            Number(f"{recall.low:.4f} to {recall.high:.4f}"), recall.correct, recall.count,
        ]
        for recall in every[:LISTED]
    ]  # fmt: skip
    part = f", the {LISTED} worst of {len(every)}" if len(every) > LISTED else ", the worst first"
    header = ["class", "recognised", "95 % interval (Wilson)", "pictures recognised", "of"]
    return Table(f"Accuracy of each class of {label}{part}", header, rows)


def mistakes(standings: Standings) -> Section:
    """The wrongly judged pictures of which the network was surest."""
    blocks: Blocks = [Text(
        "Pictures that were judged wrongly with the highest confidence, each by the network that "
        "was not trained on it. Some may be labelled wrongly: look at them."
    )]  # fmt: skip
    for number, (setting, label) in enumerate(_labelled(standings), start=1):
        judged = setting.predictions
        rows = judgements.worst(judged).tolist()
        if not rows:
            blocks.append(Text(f"{label} made no mistake."))
            continue
        blocks.append(_sheet(setting, label, rows, named("mistakes", number)))
        signers = judged.signers
        header = ["file", "is", "taken for", "confidence", "fold", *(["signer"] if signers else [])]
        listed: Rows = [
            [
                judged.paths[row], judged.classes[judged.labels[row]],
                judged.classes[judged.predicted[row]],
                Number(judgements.percent(float(judged.confidence[row]))),
                Number(judged.folds[row]), *([signers[row]] if signers else []),
            ]
            for row in rows
        ]  # fmt: skip
        blocks.append(Table(f"Worst mistakes of {label}", header, listed))
    return Section("Worst mistakes", blocks)


def _sheet(setting: Setting, label: str, rows: Sequence[int], name: str) -> Picture | Text:
    """The pictures, or a sentence why they cannot be shown."""
    judged = setting.predictions
    try:
        root = originals.root_of(setting.runs[0].path)
    except DataError as error:
        return Text(f"The pictures of {label} cannot be shown. {error}")
    images = originals.read_pictures(root, [judged.paths[row] for row in rows])
    gone = sum(image is None for image in images)
    if gone == len(images):
        return Text(f"The pictures of {label} cannot be shown: they are not in {root} any more.")
    alt = f"The {len(rows)} worst mistakes of {label}; the table below names them"
    return Picture(name, alt, judgements.mistakes_sheet(judged, rows, images), label)


def reliability(standings: Standings) -> Section:
    """How far confidence can be trusted."""
    blocks: Blocks = [Text(
        "Accuracy of the pictures that were judged with about the same confidence, all test folds "
        "together. The error of all folds together is not quite the mean of those of the folds."
    )]  # fmt: skip
    for number, (setting, label) in enumerate(_labelled(standings), start=1):
        found = reliability_diagram(setting.predictions.confidence, setting.predictions.correct)
        alt = f"Reliability diagram of {label}: calibration error {found.error:.4f}."
        chart = judgements.reliability_chart(found)
        blocks.append(Picture(named("reliability", number), alt, chart, label))
    return Section("Reliability", blocks)


def _labelled(standings: Standings) -> list[tuple[Setting, str]]:
    """The settings to show in detail, with their labels."""
    return [(setting, standings.study.label(setting)) for setting in bests(standings)]


def named(kind: str, number: int) -> str:
    """Name of a figure's file: that of the best setting has no number.

    >>> named("curves", 1), named("curves", 2)
    ('curves', 'curves-2')
    """
    return kind if number == 1 else f"{kind}-{number}"
