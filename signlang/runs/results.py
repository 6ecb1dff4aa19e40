"""Results of a finished run, read back and checked: metrics, predictions, history."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from signlang.arrays import Floats
from signlang.errors import RunError
from signlang.files import read_csv
from signlang.metrics.classification import Predictions
from signlang.runs.folder import TRAIN_AGAIN, RunFolder

COLUMNS: Final = ("path", "label", "predicted", "confidence")
ROUNDING: Final = 1e-3  # of a sum of probabilities with six decimals each, of up to 2,000 classes


def read_predictions(folder: RunFolder, fold: int) -> Predictions:
    """Read `predictions.csv` of a run, and who is in the images from its `data.csv`.

    Args:
        folder: Of the run.
        fold: Number of its test fold.

    Raises:
        RunError: If a file is missing, was cut off, or names classes that the run does not know.
    """
    file, classes = folder.path / "predictions.csv", _classes(folder.path)
    expected = [*COLUMNS, *(f"p_{name}" for name in classes)]
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}). {TRAIN_AGAIN}") from None
    if header != expected:
        odd = sorted(set(header) ^ set(expected)) or ["their order"]
        raise RunError(
            f"{file} does not fit classes.json beside it: the columns differ in {', '.join(odd)}. "
            f"{TRAIN_AGAIN}"
        )
    number = {name: position for position, name in enumerate(classes)}
    for line, row in enumerate(rows, start=2):
        if len(row) != len(expected) or row[1] not in number:
            raise RunError(f"{file} is damaged in line {line}. {TRAIN_AGAIN}")
    labels = np.array([number[row[1]] for row in rows], dtype=np.int64)
    try:
        table = np.array([row[4:] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}). {TRAIN_AGAIN}") from None
    # not a number fails both
    if not rows or not (table >= 0).all() or not (np.abs(table.sum(1) - 1) < ROUNDING).all():
        raise RunError(f"{file} is empty, or holds probabilities that are none. {TRAIN_AGAIN}")
    paths = tuple(row[0] for row in rows)
    return Predictions(
        classes, paths, labels, table, np.full(len(rows), fold), _signers(folder, paths)
    )


def _classes(run: Path) -> tuple[str, ...]:
    file = run / "classes.json"
    try:
        names = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}). {TRAIN_AGAIN}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{file} holds no list of names. {TRAIN_AGAIN}")
    return tuple(names)


def _signers(folder: RunFolder, paths: Sequence[str]) -> tuple[str, ...] | None:
    """Check that exactly the test fold was judged, and say who is in it."""
    tested = {row["path"]: row["signer"] for row in folder.images_of("test")}
    if set(paths) != tested.keys() or len(paths) != len(tested):
        raise RunError(
            f"{folder.path / 'predictions.csv'} holds {len(paths)} images, but the test fold in "
            f"data.csv has {len(tested)}: it was cut off or is of another run. {TRAIN_AGAIN}"
        )
    signers = tuple(tested[path] for path in paths)
    return signers if all(signers) else None


SHARE_TOLERANCE: Final = 1e-5  # a macro F1 of 1 is summed up in float32
WORDS: Final = ("model", "data", "split", "protocol", "fold", "folds", "seed", "fingerprint")
RECORD: Final = {"settings": dict, "data": dict, "overrides": list, "signlang": str}
DATA: Final = ("fingerprint", "images", "classes", "test")


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    Attributes:
        path: Its folder.
        metrics: Content of `metrics.json`, with every key of `METRICS`.
        record: Content of `record.json`.
        history: (epochs,) of each column of `history.csv`; empty without the file.
    """

    path: Path
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    history: Mapping[str, Floats]

    @cached_property
    def folder(self) -> RunFolder:
        """Its folder, with the images of `data.csv` once they were asked for."""
        return RunFolder(self.path)

    @property
    def fold(self) -> int:
        """Number of the test fold."""
        return int(self.metrics["fold"])

    def figure(self, name: str) -> float:
        """One of `METRICS`."""
        value: Any = self.metrics
        for key in METRICS[name]:
            value = value[key]
        return float(value)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decided the outcome, but for the fold."""
        return {key: value for key, value in self.record["settings"].items() if key != "fold"}

    @cached_property
    def predictions(self) -> Predictions:
        """What the network said of the images of its test fold.

        Raises:
            RunError: If the file cannot be used, or does not bear out the accuracy of the run.
        """
        found = read_predictions(self.folder, self.fold)
        right, told = int(found.correct.sum()), self.figure("accuracy")
        if abs(right - told * len(found.paths)) > ROUNDED:
            raise RunError(
                f"{self.path / 'predictions.csv'} has {right} of {len(found.paths)} images "
                f"right, but metrics.json beside it an accuracy of {told:.4f}: they are of "
                f"different runs, or were changed. {TRAIN_AGAIN}"
            )
        return found


def read_history(run: Path) -> dict[str, Floats]:
    """Read `history.csv` of a run: (epochs,) of each column; empty without the file.

    Raises:
        RunError: If something in it is no number.
    """
    file = run / "history.csv"
    rows = read_csv(file)
    try:
        return {
            name: np.array([float(row[name] or "nan") for row in rows])
            for name in (rows[0] if rows else ())
        }
    except (ValueError, TypeError) as error:
        raise RunError(f"{file} is damaged ({error}). {TRAIN_AGAIN}") from None


def read_run(path: Path) -> Run | None:
    """Read a run, but for its predictions and the list of its images; None if it is not finished.

    Raises:
        RunError: If a file is missing or damaged, or they do not belong together.
    """
    folder = RunFolder(path)
    metrics, record = folder.metrics(), folder.record()
    if metrics is None:
        return None
    if record is None:
        raise RunError(f"{path / 'record.json'} is missing: train this run again")
    if lacking := _lacking(metrics, record):
        raise RunError(
            f"{path / 'metrics.json'}, written by signlang {record.get('signlang', 'unknown')}, "
            f"has no usable {', '.join(lacking)}: train this run again with overwrite=true"
        )
    if metrics["fingerprint"] != record.get("fingerprint"):
        raise RunError(
            f"{path / 'metrics.json'} and record.json beside it are of different runs: train this "
            "one again with overwrite=true"
        )
    return Run(path, metrics, record, read_history(path))


def _lacking(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    lacking = [key for key in WORDS if key not in metrics]
    lacking += ["status"] * (metrics.get("status") != "finished")
    lacking += [".".join(k) for name, k in METRICS.items() if not _is_usable(metrics, name)]
    lacking += [
        f"{key} of record.json" for key, kind in RECORD.items()
        if not isinstance(record.get(key), kind)
    ]  # fmt: skip
    return lacking or [f"data.{key} of record.json" for key in DATA if key not in record["data"]]


def _is_usable(metrics: Mapping[str, Any], name: str) -> bool:
    """Whether a figure is a number that it can be; of a diverged run, any number."""
    value, loss = (_number(metrics, figure) for figure in (name, "loss"))
    if value is None or loss is None:
        return value is not None
    most = 1 + SHARE_TOLERANCE if name in PROPORTIONS else math.inf
    return not math.isfinite(loss) or 0 <= value < most


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value: Any = metrics
    for key in METRICS[name]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


# where the figures of a run are, and what they must be
METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "accuracy": ("test", "accuracy"),
    "macro_f1": ("test", "macro_f1"),
    "calibration_error": ("test", "calibration_error"),
    "loss": ("test", "loss"),
    "validation_accuracy": ("validation", "accuracy"),
    "parameters": ("cost", "parameters"),
    "flops": ("cost", "flops"),
    "size_mb": ("cost", "size_mb"),
    "latency_ms": ("cost", "latency_ms"),
    "epochs": ("epochs",),
    "seconds": ("seconds",),
    "images_per_second": ("images_per_second",),
}
ROUNDED: Final = 1.5  # images whose two best classes may be equal in six decimals
PROPORTIONS: Final = ("accuracy", "macro_f1", "calibration_error", "validation_accuracy")
