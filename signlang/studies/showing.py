"""Standings come in; the leaderboard for people goes out: as Markdown, and on the terminal."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from signlang import __version__, console
from signlang.console import duration
from signlang.data.files import replaced
from signlang.pages.page import markdown
from signlang.studies import leaderboard, tables
from signlang.studies.leaderboard import Line
from signlang.studies.runs import Study
from signlang.studies.standings import Row, Standings
from signlang.studies.wording import p_cell

Rows = Sequence[tuple[Row, Line]]
HEADER: Final = (
    "", "network and settings", "accuracy of each fold: mean ± 2 sd", "p", "p (McNemar)",
    "macro F1", "calibration error", "size MB", "parameters", "FLOPs (M)", "ms per picture",
    "images/s", "time",
)  # fmt: skip
NOTES: Final = (
    "accuracy: share of the pictures of a test fold that is recognised; sd with n - 1. Pictures of "
    "a test fold had no part in training, unless the protocol is validation=fold.",
    "p: against the best of the section, corrected resampled t-test over folds (Nadeau and Bengio "
    "2003). McNemar: from the pictures that only one of the two recognises. Both are adjusted for "
    "the number of settings (Holm 1979); the intervals of the verdicts are not.",
    "calibration error: how far confidence is from accuracy, 15 bins (Guo et al. 2017); 0 is best.",
    "FLOPs: of one picture in training mode, as fvcore counts them, a multiply-add as 1. "
    "parameters: the trainable ones.",
    "ms per picture: median on one thread of the machine that trained. images/s: in training. "
    "time: training of all finished folds together.",
    "leaderboard.csv has more columns and more digits; predictions.csv has what each setting said "
    "of each picture.",
)
TERMINAL: Final = (
    "", "network and settings", "accuracy\n± 2 sd", "p", "macro\nF1", "calibr.\nerror", "ms per\n"
    "picture", "para-\nmeters", "FLOPs", "size\nMB", "images\nper s", "time",
)  # fmt: skip


def write(standings: Standings, out: Path, sort: str = leaderboard.RANK) -> None:
    """Write `leaderboard.md`."""
    text = "\n".join(_markdown(standings, sort)) + "\n"
    with replaced(out / "leaderboard.md") as temporary:
        temporary.write_text(text, "utf-8", errors="replace")


def show(standings: Standings, sort: str = leaderboard.RANK) -> None:
    """Show a table for each way to deal pictures, and what the tests say; nothing if quiet."""
    for name, lines in _sections(standings, sort):
        cells = [_terminal(row, line) for row, line in lines]
        console.show_columns(f"{standings.study.name}: {name}", TERMINAL, cells, flexible=1)
    if any(row.setting.missing for row in standings.rows):
        console.show_lines(["* not all folds are finished"])
    console.show_lines([f"- {sentence}" for sentence in standings.sentences])


def _sections(standings: Standings, sort: str) -> Iterator[tuple[str, Rows]]:
    """Settings that share their folds, with what they share in words."""
    names = tables.dealings(row.setting for row in standings.rows)
    lines = leaderboard.ranked(standings, sort)
    for dealing, members in groupby(lines, key=lambda pair: pair[0].setting.dealing):
        yield names[dealing], list(members)


def _markdown(standings: Standings, sort: str) -> Iterator[str]:
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
    yield from (f"- {markdown(sentence)}" for sentence in standings.sentences)
    yield from _missing(study)
    yield "\n## How to read it\n"
    yield from (f"- {markdown(note)}" for note in NOTES)


def _compared(row: Row) -> str:
    """The data and the folds that a section shares."""
    run = row.setting.runs[0]
    data, shared = run.record["data"], run.settings
    blocks = f", {shared['split.blocks']} blocks" if "split.blocks" in shared else ""
    return (
        f"{data['name']}: {data['pictures']:,} pictures of {data['classes']} classes (fingerprint "
        f"{data['fingerprint'][:8]}), {row.setting.folds} folds, split={row.setting.split}{blocks} "
        f"with seed {shared.get('split.seed')}, split.validation={shared.get('split.validation')}: "
        f"{row.setting.protocol}."
    )


def _missing(study: Study) -> Iterator[str]:
    """Lines on the folds that are missing, with the commands that make them."""
    if not study.incomplete:
        return
    yield "\n## What is missing"
    for sentence in study.incomplete:
        first, *commands = sentence.split("\n    ")
        yield f"\n{markdown(first)}"
        if commands:
            yield "\n" + "\n".join(f"    {command}" for command in commands)


def _published(row: Row, line: Line) -> list[str]:
    """A row in the layout of published tables."""
    setting = row.setting
    of_folds = [line[f"accuracy_fold_{k}"] for k in range(setting.folds)]
    each = " ".join("-" if value is None else f"{value:.4f}" for value in of_folds)
    mean = tables.with_spread(line["accuracy"], line["accuracy_2sd"])
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
        tables.with_spread(line["accuracy"], line["accuracy_2sd"]),
        "best" if row.setting is row.best else p_cell(row.p),
        f"{line['macro_f1']:.4f}",
        f"{line['calibration_error']:.4f}",
        f"{line['latency_ms']:.2f}",
        tables.short(line["parameters"]),
        tables.short(line["flops"]),
        f"{line['size_mb']:.1f}",
        f"{line['images_per_second']:,.0f}",
        duration(line["seconds"]),
    ]
    return figures


def _mark(row: Row) -> str:
    return "" if row.setting.is_complete else "*"
