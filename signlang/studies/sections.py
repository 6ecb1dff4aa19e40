"""Sections of the study report."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from signlang.data import image_io, sources
from signlang.data.boxes import Crop
from signlang.data.image_io import BadImageError
from signlang.errors import DataError
from signlang.metrics import classification
from signlang.metrics.classification import reliability_diagram
from signlang.reporting import formatting, plots
from signlang.reporting.page import Blocks, ImageBlock, Number, Rows, Section, Table, Text
from signlang.studies import plots as study_plots
from signlang.studies.leaderboard_columns import EACH_FOLD, REPORT, chosen, ends
from signlang.studies.ranking import Pair, Ranking, Row
from signlang.studies.study import Setting, Study

EXPLANATIONS: Final = "explanations.png"  # in a run folder, of callbacks=explain
PACKAGES: Final = ("torch", "torchvision", "timm", "pytorch-lightning", "numpy")


def fold_assignments(settings: Iterable[Setting]) -> dict[tuple[Any, ...], str]:
    """Name each fold assignment, in the order given."""
    names: dict[tuple[Any, ...], str] = {}
    for setting in settings:
        if setting.fold_assignment not in names:
            folds = "1 fold" if setting.folds == 1 else f"{setting.folds} folds"
            name = f"split {setting.split_text}, {setting.protocol}, {folds}"
            namesakes = sum(other == name for other in names.values())
            names[setting.fold_assignment] = f"{name} ({len(names) + 1})" if namesakes else name
    return names


def compared(study: Study) -> Section:
    """What was compared: data, folds, protocol."""
    rows: Rows = []
    for assignment, name in fold_assignments(study.settings).items():
        members = [setting for setting in study.settings if setting.fold_assignment == assignment]
        data = members[0].runs[0].record["data"]
        rows.append([
            name, str(data.get("name", "")), int(data["images"]), int(data["classes"]),
            int(data["test"]), len(members), sum(len(s.runs) for s in members),
            Number(", ".join(sorted({str(s.runs[0].metrics["seed"]) for s in members}))),
        ])  # fmt: skip
    header = [
        "fold assignment", "data", "images", "classes", "in a test fold", "settings",
        "finished runs", "seed",
    ]  # fmt: skip
    blocks: Blocks = [Table("Data, folds and protocols", header, rows)]
    if study.factors:
        text = (
            "The settings differ in "
            + ", ".join(study.factors)
            + ", and in what comes with these choices: each run's .hydra/config.yaml holds all."
        )
        blocks.insert(0, Text(text))
    return Section("What was compared", blocks)


def provenance_rows(study: Study) -> Section:
    """Environments of the runs: machines and versions, each different one."""
    runs = [run for setting in study.settings for run in setting.runs]
    records = [run.record for run in runs]
    facts: dict[str, Callable[[Any], object]] = {
        "device": lambda record: record.get("device"),
        "signlang": lambda record: record.get("signlang"),
        "git commit": lambda record: record.get("git"),
        "Python": lambda record: record.get("python"),
    } | {name: _package(name) for name in PACKAGES}
    rows: Rows = [
        [name, _distinct_values(read(record) for record in records)] for name, read in facts.items()
    ]
    rows += [
        [name, _distinct_values(run.environment[name] for run in runs)]
        for name in ("processor", "precision")
    ]
    days = sorted(str(record.get("started", ""))[:10] for record in records)
    started = " to ".join(dict.fromkeys((days[0], days[-1])))
    rows.append(["started", started or "unknown"])
    return Section("Environment", [Table("Machine and versions", ["what", "which"], rows)])


def _package(name: str) -> Callable[[Any], object]:
    return lambda record: (record.get("packages") or {}).get(name)


def _distinct_values(values: Iterable[object]) -> str:
    return "; ".join(dict.fromkeys(str(value or "unknown") for value in values))


def leaderboard(ranking: Ranking) -> Section:
    """The leaderboard, in the order of the ranking."""
    text = (
        "The most accurate first, complete settings before others. Accuracy is that of images "
        "which the network was not trained on, mean and two standard deviations over the folds."
    )
    names = fold_assignments(row.setting for row in ranking.rows)
    if len(names) > 1:
        text += (
            " Settings with the same fold assignment are listed together: p compares a setting "
            "with the best of these, as different folds are not comparable."
        )
    if any(row.setting.missing for row in ranking.rows):
        text += " A setting marked with folds is not complete."
    label, *columns = [*chosen(REPORT), EACH_FOLD]
    grouped = len(names) > 1
    header = [label.title, *(["fold assignment"] if grouped else []), *(c.title for c in columns)]
    rows: Rows = [
        [
            label.text(row) + _fold_count(row),
            *([names[row.setting.fold_assignment]] if grouped else []),
            *(Number(column.text(row)) for column in columns),
        ]
        for row in ranking.rows
    ]
    return Section("Leaderboard", [Text(text), Table("Leaderboard", header, rows)])


def _fold_count(row: Row) -> str:
    setting = row.setting
    return f" ({len(setting.runs)} of {setting.folds} folds)" if setting.missing else ""


def splits(pairs: Sequence[Pair]) -> Section | None:
    """The bias of random folds, if settings differ in their split alone."""
    if not pairs:
        return None
    rows = [
        [
            pair.label, pair.random.split, Number(f"{pair.random.mean('accuracy'):.4f}"),
            pair.apart.split_text, Number(f"{pair.apart.mean('accuracy'):.4f}"),
            Number(f"{pair.difference.value:+z.4f}"), Number(ends(pair.difference.interval)),
        ]
        for pair in pairs
    ]  # fmt: skip
    header = ["setting", "split", "accuracy", "split", "accuracy", "difference", "95 % interval"]
    text = (
        "The same settings with folds assigned at random, and with folds that keep people (or "
        "neighbouring frames) apart. A random fold holds images that resemble training images; "
        "the difference is the bias of random folds. In its interval the images of one signer, or "
        "of one block of film, count as one observation (Liang and Zeger 1986)."
    )
    return Section(
        "Comparison of splits", [Text(text), Table("Comparison of splits", header, rows)]
    )


def data_sets(ranking: Ranking) -> Section | None:
    """Accuracy on each of the joined data sets; None where there is one only."""
    rows: Rows = [
        [
            row.label, name, share.total, Number(f"{share.value:.4f}"),
            Number(formatting.interval_text(share.interval)),
            "no" if row.setting.split == "dataset" else "yes",
        ]
        for row in ranking.rows
        for name, share in classification.accuracy_by_set(row.setting.predictions).items()
    ]  # fmt: skip
    if not rows:
        return None
    text = (
        "Test images of each data set that was joined. With split=dataset a network has seen no "
        "image of the set that it is tested on; otherwise it was trained on other images of all "
        "sets."
    )
    header = ["setting", "data set", "images", "accuracy", "95 % interval", "set was trained on"]
    return Section("Data sets", [Text(text), Table("Accuracy on each data set", header, rows)])


CURVES: Final = 6  # settings with learning curves
SHOWN: Final = 4  # fold assignments with details of their best setting
LISTED: Final = 40  # classes in a table
NETWORKS: Final = 30  # points of a chart of costs


def cost(ranking: Ranking) -> Section | None:
    """Accuracy against parameters, FLOPs and latency."""
    settings = [row.setting for row in ranking.rows]
    all_points = study_plots.points(settings, ranking.study.labels)
    results, names = all_points[:NETWORKS], list(fold_assignments(settings).values())
    if not results:
        return None
    text = "The best setting of each network; accuracies further up and further left are better."
    if len(all_points) > len(results):
        text += f" The {len(results)} most accurate of {len(all_points)} networks are shown."
    if len(names) > 1:
        text += " Each fold assignment has its colour: compare within one colour."
    devices = {str(run.record.get("device")) for setting in settings for run in setting.runs}
    if len(devices) > 1:
        text += f" Times were taken on {len(devices)} different devices and do not compare."
    if any(run.latency_alone is False for setting in settings for run in setting.runs):
        text += " Some times were taken while other jobs ran beside: the leaderboard marks them."
    best = results[0]
    alt = (
        f"Accuracy of {len(results)} networks against parameters, FLOPs and milliseconds per "
        f"image. The most accurate is {best.label} with {best.accuracy:.4f}."
    )
    groups = names if len({point.group for point in results}) > 1 else names[:1]
    classes = len(settings[0].predictions.classes)
    chart = ImageBlock("cost", alt, study_plots.cost_chart(results, groups, classes))
    return Section("Cost against accuracy", [Text(text), chart])


def curves(ranking: Ranking) -> Section:
    """How the best settings learned."""
    settings = selected(ranking)
    blocks: Blocks = []
    if len(settings) < len(ranking.rows):
        blocks.append(Text(
            f"Shown are {len(settings)} of {len(ranking.rows)} settings: the best of each "
            "network and fold assignment first."
        ))  # fmt: skip
    without_history = []
    for number, setting in enumerate(settings, start=1):
        label = ranking.study.label(setting)
        chart = study_plots.learning_curves(setting.runs)
        if chart is None:
            without_history.append(label)
            continue
        folds = formatting.counted(len(setting.runs), "fold")
        alt = (
            f"Loss and accuracy of {label} over the epochs, for training and validation; "
            f"{folds}{' and their mean' if len(setting.runs) > 1 else ''}."
        )
        blocks.append(ImageBlock(named("curves", number), alt, chart, label))
    if without_history:
        blocks.append(Text(f"No history was written by {', '.join(without_history)}."))
    return Section("Learning curves", blocks)


def selected(ranking: Ranking) -> list[Setting]:
    """The settings with learning curves, in the order of the leaderboard."""
    settings = [row.setting for row in ranking.rows]
    firsts: dict[object, Setting] = {}
    for setting in settings:
        firsts.setdefault((setting.model, setting.fold_assignment), setting)
    leading = list(firsts.values())
    others = [setting for setting in settings if setting not in leading]
    chosen = (leading + others)[:CURVES]
    return [setting for setting in settings if setting in chosen]


def bests(ranking: Ranking) -> list[Row]:
    """The best setting of each fold assignment, at most `SHOWN`."""
    results: dict[object, Row] = {}
    for row in ranking.rows:
        results.setdefault(row.setting.fold_assignment, row)
    return list(results.values())[:SHOWN]


def confusion(ranking: Ranking) -> Section:
    """What was taken for what, and how well each class is recognised."""
    blocks: Blocks = []
    for number, row in enumerate(bests(ranking), start=1):
        setting, label = row.setting, row.label
        predictions = setting.predictions
        alt = (
            f"Confusion matrix of {label}: {len(predictions.classes)} classes, "
            f"{int((~predictions.correct).sum()):,} of {len(predictions.labels):,} images "
            "predicted wrongly."
        )
        chart = plots.confusion_figure(predictions)
        blocks.append(ImageBlock(named("confusion", number), alt, chart, label))
        pairs = classification.confusions(predictions)
        rows: Rows = [
            [pair.label, pair.predicted, pair.count, Number(f"{pair.share:.1%}")] for pair in pairs
        ]
        header = ["is", "taken for", "images", "share of the class"]
        if rows:
            blocks.append(Table(f"Most confused pairs of {label}", header, rows))
        else:
            blocks.append(Text(f"{label} recognises every image."))
        blocks.append(_recalls(setting, label))
    return Section("Confusion", blocks)


def _recalls(setting: Setting, label: str) -> Table:
    recalls = classification.recalls(setting.predictions)
    rows: Rows = [
        [
            name, Number(f"{share.count / max(share.total, 1):.4f}"),
            Number(formatting.interval_text(share.interval)), share.count, share.total,
        ]
        for name, share in list(recalls.items())[:LISTED]
    ]  # fmt: skip
    suffix = (
        f", the {LISTED} worst of {len(recalls)}" if len(recalls) > LISTED else ", the worst first"
    )
    header = ["class", "recognised", "95 % interval", "images recognised", "of"]
    return Table(f"Accuracy of each class of {label}{suffix}", header, rows)


def mistakes(ranking: Ranking) -> Section:
    """The wrong predictions with the highest confidence."""
    blocks: Blocks = [Text(
        "Wrong predictions with the highest confidence, each by the network that was not trained "
        "on the image. Some labels may be wrong: look at them."
    )]  # fmt: skip
    for number, row in enumerate(bests(ranking), start=1):
        setting, label = row.setting, row.label
        predictions = setting.predictions
        rows = classification.most_confident_mistakes(predictions).tolist()
        if not rows:
            blocks.append(Text(f"{label} made no mistake."))
            continue
        blocks.append(_sheet(setting, label, rows, named("mistakes", number)))
        signers = predictions.signers
        header = ["file", "is", "taken for", "confidence", "fold", *(["signer"] if signers else [])]
        cells: Rows = [
            [
                predictions.paths[row], predictions.classes[predictions.labels[row]],
                predictions.classes[predictions.predicted[row]],
                Number(formatting.percent(float(predictions.confidence[row]))),
                Number(predictions.folds[row]), *([signers[row]] if signers else []),
            ]
            for row in rows
        ]  # fmt: skip
        blocks.append(Table(f"Worst mistakes of {label}", header, cells))
    return Section("Worst mistakes", blocks)


def _sheet(setting: Setting, label: str, rows: Sequence[int], name: str) -> ImageBlock | Text:
    """The images, or a sentence why they cannot be shown."""
    predictions = setting.predictions
    try:
        root = sources.images_root(setting.runs[0].path)
    except DataError as error:
        return Text(f"The images of {label} cannot be shown. {error}")
    crops: dict[str, Crop] = {}
    for run in setting.runs:
        crops |= run.folder.crops
    images = sources.read_thumbnails(root, [predictions.paths[row] for row in rows], crops)
    missing = sum(image is None for image in images)
    if missing == len(images):
        return Text(f"The images of {label} cannot be shown: they are not in {root} any more.")
    alt = f"The {len(rows)} worst mistakes of {label}; the table below names them"
    return ImageBlock(name, alt, plots.mistakes_figure(predictions, rows, images), label)


def explanations(ranking: Ranking) -> Section | None:
    """Where the networks look, of the first run that says so; None where none does."""
    blocks: Blocks = []
    for number, row in enumerate(bests(ranking), start=1):
        files = [run.path / EXPLANATIONS for run in row.setting.runs]
        file = next((one for one in files if one.is_file()), None)
        if file is None:
            continue
        name, alt = named("explanations", number), f"Where {row.label} looks"
        try:
            sheet = image_io.decode(image_io.read_bytes(file))
        except BadImageError as error:
            blocks.append(Text(f"{file} cannot be shown: {error}."))
            continue
        blocks.append(ImageBlock(name, alt, sheet, f"{row.label}, {file.parent.name}"))
    text = (
        "Of images: what speaks for the predicted sign in the last layer that has places "
        "(Grad-CAM). A map tells where, not why. Of points: how much the right sign loses when a "
        "point is that of another image."
    )
    return Section("Where the networks look", [Text(text), *blocks]) if blocks else None


def reliability(ranking: Ranking) -> Section:
    """How far confidence can be trusted."""
    blocks: Blocks = [Text(
        "Accuracy of the images that were predicted with about the same confidence, all test folds "
        "together. The error of all folds together is not quite the mean of those of the folds."
    )]  # fmt: skip
    for number, row in enumerate(bests(ranking), start=1):
        predictions = row.setting.predictions
        diagram = reliability_diagram(predictions.confidence, predictions.correct)
        alt = f"Reliability diagram of {row.label}: calibration error {diagram.error:.4f}."
        chart = plots.reliability_figure(diagram)
        blocks.append(ImageBlock(named("reliability", number), alt, chart, row.label))
    return Section("Reliability", [*blocks, *_calibrations(ranking)])


def _calibrations(ranking: Ranking) -> Blocks:
    """What temperature and threshold do that the folds of a setting give each other."""
    rows: Rows = []
    for row in ranking.rows:
        fitted = row.setting.cross_fit
        if fitted is None:
            rows.append([row.label, f"none: {row.setting.not_calibrated}", *("-",) * 5])
            continue
        calibration, effects = fitted.calibration, fitted.effects
        error, loss, precision = (effects[k] for k in ("calibration_error", "loss", "precision"))
        rows.append([
            row.label,
            f"{calibration.temperature:.3g}" if calibration.kept else "1, none was kept",
            Number(f"{error['before']:.4f}, {error['after']:.4f}"),
            Number(f"{loss['before']:.4f}, {loss['after']:.4f}"),
            f"{calibration.threshold:.4f}" if not calibration.no_threshold
            else f"{calibration.threshold:.1f} stands in ({calibration.no_threshold})",
            Number(formatting.percent(effects["coverage"])),
            Number("-" if precision is None else formatting.percent(precision)),
        ])  # fmt: skip
    header = [
        "setting", "temperature", "calibration error: before, after", "loss: before, after",
        "threshold", "accepted", "right of these",
    ]  # fmt: skip
    text = (
        "Temperature and threshold that signlang.export gives a network of a complete setting: "
        "fitted on the test folds of all its runs, each predicted by its own network. The figures "
        "before and after are cross-fitted: those of each fold by what the other folds alone gave. "
        "The networks of the folds differ, so that what fits all need not fit each."
    )
    return [Text(text), Table("Calibration over the folds", header, rows)]


def named(kind: str, number: int) -> str:
    """Name of a figure's file: that of the best setting has no number.

    >>> named("curves", 1), named("curves", 2)
    ('curves', 'curves-2')
    """
    return kind if number == 1 else f"{kind}-{number}"
