"""Standings come in; `leaderboard.csv` and the out-of-fold `predictions.csv` of a study go out."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from signlang.data.files import write_csv
from signlang.errors import SettingError, suggestion
from signlang.studies.predictions import COLUMNS as PREDICTED
from signlang.studies.runs import Run, Study
from signlang.studies.standings import Row, Standings

Line = dict[str, Any]
RANK: Final = "rank"
DEALT: Final = ("split", "protocol", "folds_done", "folds", "complete")
FIGURES: Final = (
    "accuracy", "accuracy_2sd", "accuracy_low", "accuracy_high", "macro_f1", "calibration_error",
    "loss", "validation_accuracy", "parameters", "flops", "size_mb", "latency_ms",
    "images_per_second", "epochs", "seconds", "p", "p_mcnemar", "device", "signlang",
    "data_fingerprint",
)  # fmt: skip
# sorting begins with the highest of these, with the lowest of all others
BEST_IS_HIGH: Final = (
    "accuracy", "macro_f1", "validation_accuracy", "images_per_second", "p", "p_mcnemar",
    "folds_done",
)  # fmt: skip


def columns(study: Study) -> list[str]:
    """Names of all columns of `leaderboard.csv`; any of them can sort it."""
    first = [RANK, "label", "setting", "model"]
    rest = [*DEALT, *_fold_columns(study), *FIGURES]
    return [*first, *(key for key in study.factors if key not in {*first, *rest}), *rest]


def check_column(sort: str, study: Study) -> None:
    """Refuse to sort by a column that is not there.

    Raises:
        SettingError: With the columns there are.
    """
    known = columns(study)
    if sort not in known:
        raise SettingError(f"--sort {sort}: there is no such column. {suggestion(sort, known)}")


def ranked(standings: Standings, sort: str = RANK) -> list[tuple[Row, Line]]:
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
        falling = sort in BEST_IS_HIGH or sort.startswith("accuracy_fold_")
        lines.sort(key=lambda pair: _place(pair[1][sort], falling=falling))
    return sorted(lines, key=lambda pair: order.index(pair[0].setting.dealing))


def write(standings: Standings, out: Path, sort: str = RANK) -> None:
    """Write `leaderboard.csv`, a row for each setting, nothing where a figure is not known."""
    header = columns(standings.study)
    lines = (line for _, line in ranked(standings, sort))
    write_csv(out / "leaderboard.csv", header, ([cell(line[key]) for key in header] for line in
                                                lines))  # fmt: skip


def write_predictions(study: Study, out: Path) -> None:
    """Write `predictions.csv`: what each setting said of each picture while it was in the test.

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
    means = {name: setting.mean(name) for name in FIGURES[4:14]}
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
