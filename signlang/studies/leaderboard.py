"""The leaderboard of a study as CSV, Markdown, terminal table and runs of TensorBoard."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from signlang import __version__, console
from signlang.data.image_io import map_in_order
from signlang.errors import SettingError, suggestion
from signlang.files import atomic_write, write_csv
from signlang.reporting import tensorboard
from signlang.reporting.formatting import seven_digits_each
from signlang.reporting.page import markdown
from signlang.runs.identity import hyperparameters
from signlang.runs.results import COLUMNS as PREDICTION_COLUMNS
from signlang.studies import sections, verdicts
from signlang.studies.leaderboard_columns import (
    COLUMNS,
    EACH_FOLD,
    MARKDOWN,
    RANK,
    TERMINAL,
    Column,
    chosen,
    csv_cell,
    csv_columns,
)
from signlang.studies.ranking import Ranking, Row
from signlang.studies.study import Setting, Study

Line = dict[str, Any]


def check_column(sort: str, study: Study) -> None:
    """Refuse to sort by a column that is not there.

    Raises:
        SettingError: With the columns there are.
    """
    columns = csv_columns(study)
    if sort not in columns:
        raise SettingError(f"sort={sort}: there is no such column. {suggestion(sort, columns)}")


def ranked(ranking: Ranking, sort: str = RANK) -> list[tuple[Row, Line]]:
    """Each row with its line of `leaderboard.csv`; settings that share their folds stay together.

    Args:
        ranking: The rows.
        sort: A column; what is missing comes last.
    """
    columns = csv_columns(ranking.study)
    return [
        (row, {key: column.value(row) for key, column in columns.items()})
        for row in _in_order(ranking, sort)
    ]


def _in_order(ranking: Ranking, sort: str) -> list[Row]:
    rows = list(ranking.rows)
    if sort != RANK:  # which may tie, but is in order already
        column = csv_columns(ranking.study)[sort]
        rows.sort(key=lambda row: _sort_key(column.value(row), descending=column.higher_is_better))
    order = list(dict.fromkeys(row.setting.fold_assignment for row in ranking.rows))
    return sorted(rows, key=lambda row: order.index(row.setting.fold_assignment))


def write_leaderboard(ranking: Ranking, out: Path, sort: str = RANK) -> None:
    """Write `leaderboard.csv`, a row for each setting, nothing where a value is not known."""
    lines = ([csv_cell(value) for value in line.values()] for _, line in ranked(ranking, sort))
    write_csv(out / "leaderboard.csv", list(csv_columns(ranking.study)), lines)


def write_predictions(study: Study, out: Path) -> None:
    """Write `predictions.csv`: the predictions of each setting for all images of its test folds.

    The columns are setting, fold, path, label, predicted, confidence and p_<class>..., which is
    empty for classes that a setting does not know.
    """
    names = list(dict.fromkeys(name for s in study.settings for name in s.predictions.classes))
    header = ["setting", "fold", *PREDICTION_COLUMNS, *(f"p_{name}" for name in names)]
    rows = (row for setting in study.settings for row in _predictions(setting, names))
    write_csv(out / "predictions.csv", header, rows)


def write_nested_searches(study: Study, out: Path) -> None:
    """Write `nested_search.csv`, if there was one: what each fold chose, and its accuracies."""
    header = ["search", "trials", "fold", "chosen", "validation", "test", "run"]
    rows = [
        [
            setting.name, setting.search.trials, run.fold, trial.text,
            f"{run.metric('validation_accuracy'):.6f}", f"{run.metric('accuracy'):.6f}",
            f"{trial.setting}/fold={run.fold}",
        ]
        for setting in study.settings if setting.search is not None
        for run, trial in setting.chosen
    ]  # fmt: skip
    if rows:
        write_csv(out / "nested_search.csv", header, rows)


def _predictions(setting: Setting, names: Sequence[str]) -> Iterator[list[str]]:
    """Rows with the probabilities of the classes in the order of `names`."""
    table = setting.predictions
    position_of = {name: number for number, name in enumerate(table.classes)}
    positions = [position_of.get(name) for name in names]
    for path, label, predicted, fold, probabilities in zip(
        table.paths,
        table.labels,
        table.predicted,
        table.folds,
        table.probabilities.tolist(),
        strict=True,
    ):
        p = seven_digits_each(probabilities)
        yield [
            setting.name, str(fold), path, table.classes[label], table.classes[predicted],
            p[predicted], *("" if position is None else p[position] for position in positions),
        ]  # fmt: skip


def _sort_key(value: object, *, descending: bool) -> tuple[bool, bool, float, str]:
    """The sort key of a value: numbers by size, then texts, then what is missing.

    >>> sorted(["adam", None, "0.1", 2], key=lambda value: _sort_key(value, descending=False))
    ['0.1', 2, 'adam', None]
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return (value is None, True, 0.0, str(value))
    if math.isnan(number):
        return (True, True, 0.0, "")
    return (False, False, -number if descending else number, "")


Rows = Sequence[Row]
OPTIMISTIC_NOTE: Final = (
    "validation=fold: the test folds selected the checkpoints; accuracy and calibration error are "
    "in-sample"
)
FOLDS_AND_MEAN: Final = "accuracy of each fold: mean ± 2 sd"
NOTES: Final = (
    "Images of a test fold had no part in training, unless the protocol is validation=fold.",
    *(f"{column.title}: {column.meaning}." for column in chosen(MARKDOWN) if column.meaning),
    "p and “best less this” are adjusted for all pairs of settings, the intervals of the verdicts "
    "are not.",
    "leaderboard.csv has more columns and more digits, and the p value of McNemar's test (1947, "
    "Psychometrika 12; adjusted likewise) where images are independent; predictions.csv has the "
    "predictions of each setting for each image.",
)


def write_markdown(ranking: Ranking, out: Path, sort: str = RANK) -> None:
    """Write `leaderboard.md`."""
    text = "\n".join(_markdown(ranking, sort)) + "\n"
    with atomic_write(out / "leaderboard.md") as temporary:
        temporary.write_text(text, "utf-8", errors="replace")


MOST_SHOWN: Final = 60  # settings of a table on the screen


def show_leaderboard(ranking: Ranking, sort: str = RANK) -> None:
    """Show a table for each fold assignment, and the verdicts; nothing if quiet.

    Of very many settings the first ones are shown.
    """
    columns = chosen(TERMINAL)
    headings = [column.heading for column in columns]
    for name, rows in _sections(ranking, sort):
        cells = [[column.narrow_text(row) for column in columns] for row in rows[:MOST_SHOWN]]
        console.show_columns(f"{ranking.study.name}: {name}", headings, cells, flexible=1)
        if len(rows) > MOST_SHOWN:
            console.show_lines([f"and {len(rows) - MOST_SHOWN:,} more: see leaderboard.md"])
    if any(row.setting.missing for row in ranking.rows):
        console.show_lines(["* not all folds are finished"])
    if any(row.setting.runs[0].is_optimistic for row in ranking.rows):
        console.show_lines([OPTIMISTIC_NOTE])
    console.show_lines([f"- {sentence}" for sentence in verdicts.sentences(ranking)])


def _sections(ranking: Ranking, sort: str) -> Iterator[tuple[str, Rows]]:
    """Settings that share their folds, with what they share in words."""
    names = sections.fold_assignments(row.setting for row in ranking.rows)
    rows = _in_order(ranking, sort)
    for assignment, members in groupby(rows, key=lambda row: row.setting.fold_assignment):
        yield names[assignment], list(members)


def _markdown(ranking: Ranking, sort: str) -> Iterator[str]:
    study = ranking.study
    yield f"# Leaderboard of {markdown(study.name)}\n"
    count = f"{len(study.settings)} setting{'s' * (len(study.settings) != 1)}"
    factors = f", which differ in {', '.join(study.factors)}" if study.factors else ""
    yield f"{count}{markdown(factors)}. Written by `signlang.compare` {__version__}."
    columns = chosen(MARKDOWN)
    titles = [FOLDS_AND_MEAN if c.key == "accuracy" else c.title for c in columns]
    for name, rows in _sections(ranking, sort):
        yield f"\n## {markdown(name[:1].upper() + name[1:])}\n"
        yield f"{markdown(_data_text(rows[0]))}\n"
        yield f"| {' | '.join(titles)} |"
        yield f"|{'---:|'}---|{'---:|' * (len(titles) - 2)}"
        yield from (f"| {' | '.join(_cells(row, columns))} |" for row in rows)
    if any(row.setting.missing for row in ranking.rows):
        yield "\n\\* not all folds are finished."
    yield "\n## Verdicts\n"
    yield from (f"- {markdown(sentence)}" for sentence in verdicts.sentences(ranking))
    if study.remarks:
        yield "\n## Warnings\n"
        yield from (f"- {markdown(sentence)}" for sentence in study.remarks)
    yield from _missing(study)
    yield "\n## How to read it\n"
    yield from (f"- {markdown(note)}" for note in NOTES)


def _data_text(row: Row) -> str:
    """The data and the folds that a section shares."""
    run = row.setting.runs[0]
    data, shared = run.record["data"], run.settings
    blocks = f", {shared['split.blocks']} blocks" if "split.blocks" in shared else ""
    return (
        f"{data['name']}: {data['images']:,} images of {data['classes']} classes (fingerprint "
        f"{data['fingerprint'][:8]}), {row.setting.folds} folds, "
        f"split={row.setting.split_text}{blocks} "
        f"with seed {shared.get('split.seed')}, split.validation={shared.get('split.validation')}: "
        f"{row.setting.protocol}."
    )


def _missing(study: Study) -> Iterator[str]:
    """Lines on the folds that are missing, with the commands that train them."""
    if not study.incomplete:
        return
    yield "\n## What is missing"
    for setting in study.incomplete:
        if not setting.commands:
            yield f"\n{markdown(setting.text)}"
            continue
        yield f"\n{markdown(setting.text)} Complete it with\n"
        yield from (f"    {command}" for command in setting.commands)


def _cells(row: Row, columns: Sequence[Column]) -> Iterator[str]:
    """The cells of a row, with the accuracies as published tables have them."""
    for column in columns:
        yield (
            fold_accuracies_and_mean(row)
            if column.key == "accuracy"
            else markdown(column.text(row))
        )


def fold_accuracies_and_mean(row: Row) -> str:
    """Accuracy of each fold and their mean, in Markdown."""
    mean = f"**{COLUMNS['accuracy'].text(row)}**"
    return f"{EACH_FOLD.text(row)}: {mean}" if row.setting.folds > 1 else mean


CROSS_VALIDATED: Final = "cross_validated"  # beside the runs whose means it holds
ALL_FOLDS: Final = "all"  # in the place of the number of a fold
WRITERS: Final = 4  # files that are written to the disk at a time


def write_tensorboard(ranking: Ranking, out: Path) -> Path:
    """Write `cross_validated/<setting>/` for each setting; remove those of others.

    Its row of HPARAMS has the columns of its folds.

    Returns:
        The folder of them all.
    """
    root, layout = out / CROSS_VALIDATED, tensorboard.layout()

    def write(setting: Setting) -> None:
        run = setting.runs[0]
        values = hyperparameters(run.record, run.metrics) | {"fold": ALL_FOLDS}
        means = {f"test/{name}": setting.mean(name) for name in tensorboard.FINAL}
        folds = (
            (run.fold, {f"test/each fold/{name}": run.metric(name) for name in tensorboard.FINAL})
            for run in setting.runs
        )
        summaries = [*tensorboard.hparams_row(values), layout]
        tensorboard.write_events(
            root / setting.name,
            [
                *((0, summary) for summary in summaries),
                *((step, tensorboard.scalars(metrics)) for step, metrics in [(0, means), *folds]),
            ],
        )

    # threads wait for the disk together
    settings = (row.setting for row in ranking.rows)
    for _ in map_in_order(write, settings, workers=WRITERS, ahead=2 * WRITERS):
        pass
    names = {row.setting.name for row in ranking.rows}
    for folder in root.iterdir():
        if folder.is_dir() and folder.name not in names:
            tensorboard.clear_events(folder)
    return root
