"""Columns of the leaderboard: key, title, value, format, meaning and order of each.

The CSV file, the tables in Markdown, report and terminal, the glossary and `sort=` all read this
table.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from signlang.console import duration
from signlang.metrics.classification import accuracy_by_set
from signlang.metrics.significance import Interval
from signlang.reporting.formatting import interval_text, p_cell, short_number, with_spread
from signlang.studies.ranking import Row
from signlang.studies.study import Study


def four_digits(value: float) -> str:
    """Write a share.

    >>> four_digits(0.97)
    '0.9700'
    """
    return f"{value:.4f}"


NOT_KNOWN: Final = "-"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Its name in `leaderboard.csv` and for `sort=`.
        value: Of a setting; None where it is not known.
        title: Heading in tables; empty if only `leaderboard.csv` has the column.
        meaning: For the glossary.
        format: Writes a value for a table.
        higher_is_better: Whether sorting starts with the highest value.
        cell: Writes the cell of a table where that takes more than the value.
        narrow_title: Heading where there is little room; `title` if empty.
        narrow_format: Likewise; `format` if None.
    """

    key: str
    value: Callable[[Row], Any]
    title: str = ""
    meaning: str = ""
    format: Callable[[Any], str] = str
    higher_is_better: bool = False
    cell: Callable[[Row], str] | None = None
    narrow_title: str = ""
    narrow_format: Callable[[Any], str] | None = None

    def text(self, row: Row) -> str:
        """The cell of a setting in a table."""
        value = self.value(row)
        if isinstance(value, float) and math.isnan(value):
            return NOT_KNOWN
        return self.format(value) if self.cell is None else self.cell(row)

    def narrow_text(self, row: Row) -> str:
        """The cell of a setting where there is little room."""
        text = self.text(row)
        if self.narrow_format is None or text == NOT_KNOWN:
            return text
        return self.narrow_format(self.value(row))

    @property
    def heading(self) -> str:
        """The heading where there is little room."""
        return self.narrow_title or self.title


def _mean(key: str, **options: Any) -> Column:
    return Column(key, lambda row: row.setting.mean(key), **options)


def _of_records(key: str) -> Callable[[Row], str]:
    """The distinct values of the records of all runs."""
    return lambda row: "; ".join(
        dict.fromkeys(str(run.record.get(key)) for run in row.setting.runs)
    )


def _against_best(p: Callable[[Row], float | None]) -> Callable[[Row], str]:
    return lambda row: "best" if row.setting is row.best else p_cell(p(row))


def ends(interval: Interval | None) -> str:
    """Write the interval of a difference.

    >>> ends((-0.01, 0.02)), ends(None)
    ('-0.0100 to +0.0200', '-')
    """
    return "-" if interval is None else f"{interval[0]:+z.4f} to {interval[1]:+z.4f}"


def _difference_to_best(row: Row) -> str:
    if row.setting is row.best:
        return "best"
    return "-" if row.difference is None else ends(row.difference.interval)


def _interval_bound(
    of: Callable[[Row], Interval | None], which: int
) -> Callable[[Row], float | None]:
    """One end of an interval; None where it is not known."""

    def end(row: Row) -> float | None:
        interval = of(row)
        return None if interval is None else interval[which]

    return end


def _difference_interval(row: Row) -> Interval | None:
    return None if row.difference is None else row.difference.interval


def _rank(row: Row) -> str:
    return f"{row.rank}" if row.setting.is_complete else f"{row.rank}*"


def _latency_alone(row: Row) -> bool | None:
    """Whether all times per image were measured alone; None if that is not known of one."""
    alone = {run.latency_alone for run in row.setting.runs}
    return False if False in alone else None if None in alone else True


def fold_accuracies(row: Row) -> dict[int, float | None]:
    """Accuracy of each fold; None for one that is missing."""
    accuracy_of = {run.fold: run.metric("accuracy") for run in row.setting.runs}
    return {fold: accuracy_of.get(fold) for fold in range(row.setting.folds)}


def _each_fold(row: Row) -> str:
    values = fold_accuracies(row).values()
    return " ".join("-" if value is None else four_digits(value) for value in values)


def _per_set(row: Row) -> str:
    shares = accuracy_by_set(row.setting.predictions)
    return "; ".join(f"{name} {four_digits(share.value)}" for name, share in shares.items())


RANK: Final = "rank"
_SETTING: Final = (
    Column(RANK, lambda row: row.rank, "", cell=_rank),
    Column("label", lambda row: row.label, "network and settings"),
    Column("setting", lambda row: row.setting.name),
    Column("model", lambda row: row.setting.model),
)
_FOLDS: Final = (
    Column("split", lambda row: row.setting.split),
    Column("protocol", lambda row: row.setting.protocol),
    Column("folds_done", lambda row: len(row.setting.runs), higher_is_better=True),
    Column("folds", lambda row: row.setting.folds),
    Column("complete", lambda row: str(row.setting.is_complete).lower()),
)
_METRICS: Final = (
    _mean(
        "accuracy",
        title="accuracy ± 2 sd",
        meaning="share of the images of a test fold that is recognised: mean over the finished "
        "folds, and two standard deviations (n - 1) of the folds",
        higher_is_better=True,
        cell=lambda row: with_spread(
            row.setting.mean("accuracy"), row.setting.two_deviations("accuracy")
        ),
        narrow_title="accuracy\n± 2 sd",
    ),
    Column("accuracy_2sd", lambda row: row.setting.two_deviations("accuracy")),
    Column(
        "accuracy_low",
        _interval_bound(lambda row: row.accuracy.interval, 0),
        "95 % interval",
        "of the accuracy on all tested images together: Wilson's score (Wilson 1927, JASA 22) of "
        "as many independent images as they are worth (Korn and Graubard 1998, Survey Methodology "
        "24), as images of one signer, or neighbouring frames of a film, are alike. The verdicts "
        "say which and how many; with one or two signers there is none",
        cell=lambda row: interval_text(row.accuracy.interval),
    ),
    Column("accuracy_high", _interval_bound(lambda row: row.accuracy.interval, 1)),
    Column("per_set", _per_set),
    Column("clusters", lambda row: str(row.setting.predictions.clusters or "")),
    _mean(
        "macro_f1",
        title="macro F1",
        meaning="F1 of each class, averaged with equal weights; mean over folds",
        format=four_digits,
        higher_is_better=True,
        narrow_title="macro\nF1",
    ),
    _mean(
        "calibration_error",
        title="calibration error",
        meaning="how far confidence is from accuracy, over 15 bins of equal width (Guo et al. "
        "2017, arXiv 1706.04599), before any temperature; mean over folds. 0 is best; in-sample by "
        "the protocol validation=fold",
        format=four_digits,
        narrow_title="calibr.\nerror",
    ),
    _mean("loss"),
    _mean("validation_accuracy", higher_is_better=True),
    _mean(
        "parameters",
        title="parameters",
        meaning="trainable numbers of the network",
        format="{:,.0f}".format,
        narrow_title="para-\nmeters",
        narrow_format=short_number,
    ),
    _mean(
        "flops",
        title="FLOPs (M)",
        meaning="millions for one image in training mode, as fvcore counts them: a multiply-add "
        "is 1",
        format=lambda value: f"{value / 1e6:,.2f}",
        narrow_title="FLOPs",
        narrow_format=short_number,
    ),
    _mean(
        "size_mb",
        title="size MB",
        meaning="of the weights as stored; 1 MB is a million bytes",
        format="{:.1f}".format,
        narrow_title="size\nMB",
    ),
    _mean(
        "latency_ms",
        title="ms per image",
        meaning="median time for one image on one thread of the machine that trained; only times "
        "of one device compare. † means that other jobs of a sweep ran beside it: the command of "
        "the sweep, repeated, measures it again",
        format="{:.2f}".format,
        cell=lambda row: (
            f"{row.setting.mean('latency_ms'):.2f}" + "†" * (_latency_alone(row) is False)
        ),
        narrow_title="ms per\nimage",
    ),
    Column(
        "latency_alone",
        lambda row: {True: "true", False: "false", None: None}[_latency_alone(row)],
    ),
    _mean(
        "images_per_second",
        title="images/s",
        meaning="images trained on in a second, mean over folds",
        format="{:,.0f}".format,
        higher_is_better=True,
        narrow_title="images\nper s",
    ),
    _mean(
        "epochs",
        title="epochs",
        meaning="passes over the training images, mean over folds",
        format="{:.0f}".format,
    ),
    Column(
        "seconds",
        lambda row: float(row.setting.values("seconds").sum()),
        "time",
        "of training, all finished folds together",
        format=duration,
    ),
    Column(
        "p",
        lambda row: row.p,
        "p",
        "against the best setting with the same folds: corrected resampled t-test on the folds "
        "(Nadeau and Bengio 2003, Machine Learning 52), adjusted (Holm 1979, Scandinavian Journal "
        "of Statistics 6) for all pairs of settings: the best is chosen by the same figures",
        higher_is_better=True,
        cell=_against_best(lambda row: row.p),
    ),
    Column(
        "difference_low",
        _interval_bound(_difference_interval, 0),
        "best less this",
        "95 % interval of the accuracy of the best less that of this setting, on the images that "
        "both were tested on, by signer or block of film (Liang and Zeger 1986, Biometrika 73); "
        "it holds for all pairs of settings at once (Bonferroni). The networks are taken as they "
        "are: what another training would change is in p",
        higher_is_better=True,
        cell=_difference_to_best,
    ),
    Column("difference_high", _interval_bound(_difference_interval, 1)),
    Column("p_mcnemar", lambda row: row.p_mcnemar, higher_is_better=True),
    Column("device", _of_records("device")),
    Column("signlang", _of_records("signlang")),
    Column(
        "data_fingerprint",
        lambda row: str(row.setting.runs[0].record["data"]["fingerprint"])[:8],
    ),
)
COLUMNS: Final = {column.key: column for column in (*_SETTING, *_FOLDS, *_METRICS)}
EACH_FOLD: Final = Column(
    "accuracy_folds",
    fold_accuracies,
    "accuracy of each fold",
    "from the first fold to the last; - for one that is not finished",
    cell=_each_fold,
)
# the columns of the tables, in their order; a narrow terminal leaves out the last ones
MARKDOWN: Final = (
    RANK, "label", "accuracy", "p", "difference_low", "macro_f1", "calibration_error", "size_mb",
    "parameters", "flops", "latency_ms", "images_per_second", "seconds",
)  # fmt: skip
TERMINAL: Final = (
    RANK, "label", "accuracy", "p", "macro_f1", "calibration_error", "latency_ms", "parameters",
    "flops", "size_mb", "images_per_second", "seconds",
)  # fmt: skip
REPORT: Final = (
    "label", "accuracy", "accuracy_low", "p", "difference_low", "macro_f1", "calibration_error",
    "parameters", "flops", "size_mb", "latency_ms", "images_per_second", "epochs", "seconds",
)  # fmt: skip


def chosen(keys: Iterable[str]) -> list[Column]:
    """The columns of some keys."""
    return [COLUMNS[key] for key in keys]


def csv_columns(study: Study) -> dict[str, Column]:
    """The columns of `leaderboard.csv` by key; any of them can sort the tables.

    Between those of every study stand the factors of this one, and a column for each fold.
    """
    factors = [_factor(key) for key in study.factors if key not in COLUMNS]
    folds = [_fold(number) for number in range(max(s.folds for s in study.settings))]
    columns = (*_SETTING, *factors, *_FOLDS, *folds, *_METRICS)
    return {column.key: column for column in columns}


def _factor(key: str) -> Column:
    return Column(key, lambda row: row.setting.choice(key))


def _fold(number: int) -> Column:
    return Column(
        f"accuracy_fold_{number}",
        lambda row: fold_accuracies(row).get(number),
        format=four_digits,
        higher_is_better=True,
    )


def csv_cell(value: object) -> str:
    """Write a value so that it can be read back: six digits after the point, or six that count.

    >>> csv_cell(0.95), csv_cell(38215264.0), csv_cell(3.2e-9), csv_cell(float("nan"))
    ('0.950000', '38215264', '3.2e-09', '')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float):
        return str(value)
    if value >= 1e3 and value.is_integer():
        return f"{value:.0f}"
    return f"{value:.6f}" if not 0 < abs(value) < 1e-3 else f"{value:.6g}"
