"""The leaderboard of a study as CSV, Markdown and terminal table."""

import csv
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from signlang import __version__, console
from signlang.console import duration
from signlang.errors import SettingError, suggestion
from signlang.files import atomic_write, write_csv
from signlang.reporting import formatting
from signlang.reporting.formatting import p_cell
from signlang.reporting.page import markdown
from signlang.runs.results import COLUMNS as PREDICTED
from signlang.runs.results import Run
from signlang.studies import sections, verdicts
from signlang.studies.ranking import Ranking, Row
from signlang.studies.study import Study

Line = dict[str, Any]
RANK: Final = "rank"
SPLIT_COLUMNS: Final = ("split", "protocol", "folds_done", "folds", "complete")
METRIC_COLUMNS: Final = (
    "accuracy", "accuracy_2sd", "accuracy_low", "accuracy_high", "macro_f1", "calibration_error",
    "loss", "validation_accuracy", "parameters", "flops", "size_mb", "latency_ms",
    "images_per_second", "epochs", "seconds", "p", "p_mcnemar", "device", "signlang",
    "data_fingerprint",
)  # fmt: skip
# sorting begins with the highest of these, with the lowest of all others
HIGHER_IS_BETTER: Final = (
    "accuracy", "macro_f1", "validation_accuracy", "images_per_second", "p", "p_mcnemar",
    "folds_done",
)  # fmt: skip


def columns(study: Study) -> list[str]:
    """Names of all columns of `leaderboard.csv`; any of them can sort it."""
    first = [RANK, "label", "setting", "model"]
    rest = [*SPLIT_COLUMNS, *_fold_columns(study), *METRIC_COLUMNS]
    return [*first, *(key for key in study.factors if key not in {*first, *rest}), *rest]


def check_column(sort: str, study: Study) -> None:
    """Refuse to sort by a column that is not there.

    Raises:
        SettingError: With the columns there are.
    """
    known = columns(study)
    if sort not in known:
        raise SettingError(f"--sort {sort}: there is no such column. {suggestion(sort, known)}")


def ranked(standings: Ranking, sort: str = RANK) -> list[tuple[Row, Line]]:
    """Each row with its line of `leaderboard.csv`; settings that share their folds stay together.

    Args:
        standings: The rows.
        sort: A column; what is missing comes last.
    """
    order: list[tuple[Any, ...]] = list(dict.fromkeys(r.setting.dealing for r in standings.rows))
    lines = []
    ranks = dict.fromkeys(order, 0)
    for row in standings.rows:
        ranks[row.setting.dealing] += 1
        lines.append((row, _line(standings.study, row, ranks[row.setting.dealing])))
    if sort != RANK:  # which may tie, but is in order already
        falling = sort in HIGHER_IS_BETTER or sort.startswith("accuracy_fold_")
        lines.sort(key=lambda pair: _place(pair[1][sort], falling=falling))
    return sorted(lines, key=lambda pair: order.index(pair[0].setting.dealing))


def write_leaderboard(standings: Ranking, out: Path, sort: str = RANK) -> None:
    """Write `leaderboard.csv`, a row for each setting, nothing where a figure is not known."""
    header = columns(standings.study)
    lines = (line for _, line in ranked(standings, sort))
    write_csv(out / "leaderboard.csv", header, ([cell(line[key]) for key in header] for line in
                                                lines))  # fmt: skip


def write_predictions(study: Study, out: Path) -> None:
    """Write `predictions.csv`: what each setting said of each image while it was in the test.

    Rows are copied from the runs one at a time: setting, fold, path, label, predicted, confidence,
    p_<class>..., empty for classes that a setting does not know.
    """
    runs = [(setting.name, run) for setting in study.settings for run in setting.runs]
    names = dict.fromkeys(f"p_{name}" for _, run in runs for name in run.predictions.classes)
    header = ["setting", "fold", *PREDICTED, *names]
    rows = (row for setting, run in runs for row in _copied(setting, run, header))
    write_csv(out / "predictions.csv", header, rows)


def _copied(setting: str, run: Run, header: Sequence[str]) -> Iterator[list[str]]:
    file = run.path / "predictions.csv"
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = csv.reader(stream)
        own = next(rows)
        same = own == list(header[2:])
        for row in rows:
            said = dict(zip(own, row, strict=True)) if not same else {}
            values = row if same else [said.get(name, "") for name in header[2:]]
            yield [setting, str(run.fold), *values]


def _fold_columns(study: Study) -> list[str]:
    return [f"accuracy_fold_{k}" for k in range(max(s.folds for s in study.settings))]


def _line(study: Study, row: Row, rank: int) -> Line:
    setting = row.setting
    records = [run.record for run in setting.runs]
    of_folds = {f"accuracy_fold_{run.fold}": run.figure("accuracy") for run in setting.runs}
    means = {name: setting.mean(name) for name in METRIC_COLUMNS[4:14]}
    return {
        RANK: rank,
        "label": row.label,
        "setting": setting.name,
        **{key: setting.choice(key) for key in study.factors},
        "model": setting.model,
        "split": setting.split,
        "protocol": setting.protocol,
        "folds_done": len(setting.runs),
        "folds": setting.folds,
        "complete": str(setting.is_complete).lower(),
        **{name: of_folds.get(name) for name in _fold_columns(study)},
        "accuracy": setting.mean("accuracy"),
        "accuracy_2sd": setting.two_deviations("accuracy"),
        "accuracy_low": row.interval[0],
        "accuracy_high": row.interval[1],
        **means,
        "seconds": float(setting.values("seconds").sum()),
        "p": row.p,
        "p_mcnemar": row.p_mcnemar,
        "device": _all_of(record.get("device") for record in records),
        "signlang": _all_of(record["signlang"] for record in records),
        "data_fingerprint": str(records[0]["data"]["fingerprint"])[:8],
    }


def _all_of(values: Iterator[object]) -> str:
    return "; ".join(dict.fromkeys(map(str, values)))


def _place(value: object, *, falling: bool) -> tuple[bool, bool, float, str]:
    """Where a value belongs: numbers by size, then texts, then what is missing.

    >>> sorted(["adam", None, "0.1", 2], key=lambda value: _place(value, falling=False))
    ['0.1', 2, 'adam', None]
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return (value is None, True, 0.0, str(value))
    if math.isnan(number):
        return (True, True, 0.0, "")
    return (False, False, -number if falling else number, "")


def cell(value: object) -> str:
    """Write a figure so that it can be read back: six digits after the point, or six that count.

    >>> cell(0.95), cell(38215264.0), cell(3.2e-9), cell(float("nan")), cell("adam")
    ('0.950000', '38215264', '3.2e-09', '', 'adam')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float):
        return str(value)
    if value >= 1e3 and value.is_integer():
        return f"{value:.0f}"
    return f"{value:.6f}" if not 0 < abs(value) < 1e-3 else f"{value:.6g}"


Rows = Sequence[tuple[Row, Line]]
HEADER: Final = (
    "", "network and settings", "accuracy of each fold: mean ± 2 sd", "p", "p (McNemar)",
    "macro F1", "calibration error", "size MB", "parameters", "FLOPs (M)", "ms per image",
    "images/s", "time",
)  # fmt: skip
NOTES: Final = (
    "accuracy: share of the images of a test fold that is recognised; sd with n - 1. Images of "
    "a test fold had no part in training, unless the protocol is validation=fold.",
    "p: against the best of the section, corrected resampled t-test over folds (Nadeau and Bengio "
    "2003). McNemar: from the images that only one of the two recognises. Both are adjusted for "
    "the number of settings (Holm 1979); the intervals of the verdicts are not.",
    "calibration error: how far confidence is from accuracy, 15 bins (Guo et al. 2017); 0 is best.",
    "FLOPs: of one image in training mode, as fvcore counts them, a multiply-add as 1. "
    "parameters: the trainable ones.",
    "ms per image: median on one thread of the machine that trained. images/s: in training. "
    "time: training of all finished folds together.",
    "leaderboard.csv has more columns and more digits; predictions.csv has what each setting said "
    "of each image.",
)
TERMINAL: Final = (
    "", "network and settings", "accuracy\n± 2 sd", "p", "macro\nF1", "calibr.\nerror", "ms per\n"
    "image", "para-\nmeters", "FLOPs", "size\nMB", "images\nper s", "time",
)  # fmt: skip


def write_markdown(standings: Ranking, out: Path, sort: str = RANK) -> None:
    """Write `leaderboard.md`."""
    text = "\n".join(_markdown(standings, sort)) + "\n"
    with atomic_write(out / "leaderboard.md") as temporary:
        temporary.write_text(text, "utf-8", errors="replace")


def show_leaderboard(standings: Ranking, sort: str = RANK) -> None:
    """Show a table for each way to deal images, and what the tests say; nothing if quiet."""
    for name, lines in _sections(standings, sort):
        cells = [_terminal(row, line) for row, line in lines]
        console.show_columns(f"{standings.study.name}: {name}", TERMINAL, cells, flexible=1)
    if any(row.setting.missing for row in standings.rows):
        console.show_lines(["* not all folds are finished"])
    console.show_lines([f"- {sentence}" for sentence in verdicts.sentences(standings)])


def _sections(standings: Ranking, sort: str) -> Iterator[tuple[str, Rows]]:
    """Settings that share their folds, with what they share in words."""
    names = sections.fold_assignments(row.setting for row in standings.rows)
    lines = ranked(standings, sort)
    for dealing, members in groupby(lines, key=lambda pair: pair[0].setting.dealing):
        yield names[dealing], list(members)


def _markdown(standings: Ranking, sort: str) -> Iterator[str]:
    study = standings.study
    yield f"# Leaderboard of {markdown(study.name)}\n"
    count = f"{len(study.settings)} setting{'s' * (len(study.settings) != 1)}"
    factors = f", which differ in {', '.join(study.factors)}" if study.factors else ""
    yield f"{count}{markdown(factors)}. Written by `signlang.compare` {__version__}."
    for name, lines in _sections(standings, sort):
        yield f"\n## {markdown(name[:1].upper() + name[1:])}\n"
        yield f"{markdown(_compared(lines[0][0]))}\n"
        yield f"| {' | '.join(HEADER)} |"
        yield f"|{'---:|'}---|{'---:|' * (len(HEADER) - 2)}"
        yield from (f"| {' | '.join(_published(row, line))} |" for row, line in lines)
    if any(row.setting.missing for row in standings.rows):
        yield "\n\\* not all folds are finished."
    yield "\n## What the tests say\n"
    yield from (f"- {markdown(sentence)}" for sentence in verdicts.sentences(standings))
    yield from _missing(study)
    yield "\n## How to read it\n"
    yield from (f"- {markdown(note)}" for note in NOTES)


def _compared(row: Row) -> str:
    """The data and the folds that a section shares."""
    run = row.setting.runs[0]
    data, shared = run.record["data"], run.settings
    blocks = f", {shared['split.blocks']} blocks" if "split.blocks" in shared else ""
    return (
        f"{data['name']}: {data['images']:,} images of {data['classes']} classes (fingerprint "
        f"{data['fingerprint'][:8]}), {row.setting.folds} folds, split={row.setting.split}{blocks} "
        f"with seed {shared.get('split.seed')}, split.validation={shared.get('split.validation')}: "
        f"{row.setting.protocol}."
    )


def _missing(study: Study) -> Iterator[str]:
    """Lines on the folds that are missing, with the commands that make them."""
    if not study.incomplete:
        return
    yield "\n## What is missing"
    for setting in study.incomplete:
        if not setting.commands:
            yield f"\n{markdown(setting.text)}"
            continue
        yield f"\n{markdown(setting.text)} Complete it with\n"
        yield from (f"    {command}" for command in setting.commands)


def _published(row: Row, line: Line) -> list[str]:
    """A row in the layout of published tables."""
    setting = row.setting
    of_folds = [line[f"accuracy_fold_{k}"] for k in range(setting.folds)]
    each = " ".join("-" if value is None else f"{value:.4f}" for value in of_folds)
    mean = formatting.with_spread(line["accuracy"], line["accuracy_2sd"])
    best = "best" if setting is row.best else None
    return [
        f"{line['rank']}{_mark(row)}".replace("*", "\\*"),
        markdown(row.label),
        f"{each}: **{mean}**" if len(of_folds) > 1 else f"**{mean}**",
        best or markdown(p_cell(row.p)),
        best or markdown(p_cell(row.p_mcnemar)),
        f"{line['macro_f1']:.4f}",
        f"{line['calibration_error']:.4f}",
        f"{line['size_mb']:.1f}",
        f"{line['parameters']:,.0f}",
        f"{line['flops'] / 1e6:,.2f}",
        f"{line['latency_ms']:.2f}",
        f"{line['images_per_second']:,.0f}",
        duration(line["seconds"]),
    ]


def _terminal(row: Row, line: Line) -> list[str]:
    """The same for a screen, the most important first."""
    figures: list[Any] = [
        f"{line['rank']}{_mark(row)}",
        row.label,
        formatting.with_spread(line["accuracy"], line["accuracy_2sd"]),
        "best" if row.setting is row.best else p_cell(row.p),
        f"{line['macro_f1']:.4f}",
        f"{line['calibration_error']:.4f}",
        f"{line['latency_ms']:.2f}",
        sections.short(line["parameters"]),
        sections.short(line["flops"]),
        f"{line['size_mb']:.1f}",
        f"{line['images_per_second']:,.0f}",
        duration(line["seconds"]),
    ]
    return figures


def _mark(row: Row) -> str:
    return "" if row.setting.is_complete else "*"
