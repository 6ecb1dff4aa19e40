"""Standings come in; what was compared, the leaderboard and how to read it go out as sections."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from signlang.console import duration
from signlang.pages.page import Cell, Number, Picture, Section, Table, Text
from signlang.studies.runs import Setting, Study
from signlang.studies.standings import Pair, Row, Standings
from signlang.studies.wording import p_cell

Blocks = list[Text | Picture | Table]
Rows = list[list[Cell]]
PREFIXES: Final = {1e9: " G", 1e6: " M", 1e3: " k"}
PACKAGES: Final = ("torch", "torchvision", "timm", "pytorch-lightning", "numpy")
COLUMNS: Final = (
    "network and settings", "accuracy ± 2 sd", "95 % interval", "p", "p (McNemar)", "macro F1",
    "calibration error", "parameters", "FLOPs", "MB", "ms", "images/s", "epochs", "time per fold",
    "accuracy of each fold",
)  # fmt: skip


def dealings(settings: Iterable[Setting]) -> dict[tuple[Any, ...], str]:
    """Name each way in which pictures were dealt to folds, in the order given."""
    names: dict[tuple[Any, ...], str] = {}
    for setting in settings:
        if setting.dealing not in names:
            folds = "1 fold" if setting.folds == 1 else f"{setting.folds} folds"
            name = f"split {setting.split}, {setting.protocol}, {folds}"
            twice = sum(known == name for known in names.values())
            names[setting.dealing] = f"{name} ({len(names) + 1})" if twice else name
    return names


def compared(study: Study) -> Section:
    """What was compared: data, folds, protocol."""
    rows: Rows = []
    for dealing, name in dealings(study.settings).items():
        members = [setting for setting in study.settings if setting.dealing == dealing]
        data = members[0].runs[0].record["data"]
        rows.append([
            name, str(data.get("name", "")), int(data["pictures"]), int(data["classes"]),
            int(data["test"]), len(members), sum(len(s.runs) for s in members),
            Number(", ".join(sorted({str(s.runs[0].metrics["seed"]) for s in members}))),
        ])  # fmt: skip
    header = [
        "dealing", "data", "pictures", "classes", "in a test fold", "settings", "finished runs",
        "seed",
    ]  # fmt: skip
    blocks: Blocks = [Table("Data, folds and protocols", header, rows)]
    if study.factors:
        words = (
            "The settings differ in "
            + ", ".join(study.factors)
            + ", and in what comes with these choices: each run's .hydra/config.yaml holds all."
        )
        blocks.insert(0, Text(words))
    return Section("What was compared", blocks)


def makers(study: Study) -> Section:
    """Who made the runs: their machine and versions; more than one answer is worth knowing."""
    records = [run.record for setting in study.settings for run in setting.runs]
    asked: dict[str, Callable[[Any], object]] = {
        "device": lambda record: record.get("device"),
        "signlang": lambda record: record.get("signlang"),
        "git commit": lambda record: record.get("git"),
        "Python": lambda record: record.get("python"),
    } | {name: _package(name) for name in PACKAGES}
    rows: Rows = [[name, _answers(of(record) for record in records)] for name, of in asked.items()]
    days = sorted(str(record.get("started", ""))[:10] for record in records)
    started = " to ".join(dict.fromkeys((days[0], days[-1])))
    rows.append(["started", started or "unknown"])
    return Section("Who made it", [Table("Machine and versions", ["what", "which"], rows)])


def _package(name: str) -> Callable[[Any], object]:
    return lambda record: (record.get("packages") or {}).get(name)


def _answers(values: Iterable[object]) -> str:
    return "; ".join(dict.fromkeys(str(value or "unknown") for value in values))


def leaderboard(standings: Standings) -> Section:
    """The leaderboard, in the order of the standings."""
    text = (
        "The most accurate first, complete settings before others. Accuracy is that of pictures "
        "which the network was not trained on, mean and two standard deviations over the folds."
    )
    names = dealings(row.setting for row in standings.rows)
    if len(names) > 1:
        text += (
            " Settings whose pictures were dealt alike stand together: p compares a setting with "
            "the best of its own dealing, for different folds do not compare."
        )
    if any(row.setting.missing for row in standings.rows):
        text += " A setting marked with folds is not complete."
    header = [*COLUMNS[:1], *(["dealing"] if len(names) > 1 else []), *COLUMNS[1:]]
    rows = []
    for row in standings.rows:
        first, *rest = _line(row)
        dealing = [names[row.setting.dealing]] if len(names) > 1 else []
        rows.append([first, *dealing, *rest])
    return Section("Leaderboard", [Text(text), Table("Leaderboard", header, rows)])


def _line(row: Row) -> list[str]:
    setting = row.setting
    finished = len(setting.runs)
    mark = f" ({finished} of {setting.folds} folds)" if setting.missing else ""
    low, high = row.interval
    is_best = setting is row.best
    figures = [
        with_spread(setting.mean("accuracy"), setting.two_deviations("accuracy")),
        f"{low:.4f} to {high:.4f}",
        "best" if is_best else p_cell(row.p),
        "best" if is_best else p_cell(row.p_mcnemar),
        f"{setting.mean('macro_f1'):.4f}",
        f"{setting.mean('calibration_error'):.4f}",
        short(setting.mean("parameters")),
        short(setting.mean("flops")),
        f"{setting.mean('size_mb'):.1f}",
        f"{setting.mean('latency_ms'):.2f}",
        f"{setting.mean('images_per_second'):,.0f}",
        f"{setting.mean('epochs'):.0f}",
        duration(setting.mean("seconds")),
        " ".join(f"{value:.4f}" for value in setting.values("accuracy")),
    ]
    return [row.label + mark, *map(Number, figures)]


def splits(pairs: Sequence[Pair]) -> Section | None:
    """What a random fold hides, if settings differ in their split alone."""
    if not pairs:
        return None
    rows = [
        [
            pair.label, pair.random.split, Number(f"{pair.random.mean('accuracy'):.4f}"),
            pair.apart.split, Number(f"{pair.apart.mean('accuracy'):.4f}"),
            Number(f"{pair.difference:+z.4f}"), Number(f"{pair.low:+z.4f} to {pair.high:+z.4f}"),
        ]
        for pair in pairs
    ]  # fmt: skip
    header = ["setting", "split", "accuracy", "split", "accuracy", "difference", "95 % interval"]
    text = (
        "The same settings with folds dealt at random, and with folds that keep people (or "
        "neighbouring frames) apart. A random fold holds pictures that resemble training pictures; "
        "the difference is what it flatters. In the interval the pictures of one signer count as "
        "one observation (Liang and Zeger 1986)."
    )
    return Section("Splits side by side", [Text(text), Table("Splits side by side", header, rows)])


def short(value: float) -> str:
    """Write a large number as people say it.

    >>> short(11191389), short(332.98e6), short(750), short(float("nan"))
    ('11.2 M', '333 M', '750', '-')
    """
    if not math.isfinite(value):
        return "-"
    for size, letter in PREFIXES.items():
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def with_spread(mean: float, spread: float) -> str:
    """Write a mean with its spread, if it has one.

    >>> with_spread(0.98, 0.012), with_spread(0.98, float("nan"))
    ('0.9800 ± 0.0120', '0.9800')
    """
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"
