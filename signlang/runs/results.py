"""Results of a finished run, read back and checked: metrics, predictions, history."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from signlang.arrays import Floats
from signlang.console import log
from signlang.constraints import Count, Index, Strict, Text, validated
from signlang.errors import RunError
from signlang.files import BUNDLE_MANIFEST, SET, parse_json, text_lines
from signlang.metrics.classification import Predictions, classification_metrics
from signlang.runs.folder import TRAIN_AGAIN, RunFolder
from signlang.runs.identity import PRECISION, recorded_environment

COLUMNS: Final = ("path", "label", "predicted", "confidence")
OPTIMISTIC: Final = "validation=fold"  # the protocol of published tables
ROUNDING: Final = 1e-3  # of a sum of probabilities with six decimals each, of up to 2,000 classes


def read_predictions(folder: RunFolder, fold: int) -> Predictions:
    """Read `predictions.csv` of a run, and who is in the images from its `data.csv`.

    Args:
        folder: Of the run.
        fold: Number of its test fold.

    Raises:
        RunError: If a file is missing, was cut off, or names classes that the run does not know.
    """
    file, classes = folder.path / "predictions.csv", _class_names(folder)
    expected = [*COLUMNS, *(f"p_{name}" for name in classes)]
    try:
        header, *rows = list(csv.reader(text_lines(folder.content("predictions.csv")))) or [[]]
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}). {TRAIN_AGAIN}") from None
    if header == [*expected, SET]:  # of joined data sets; data.csv has it as well
        rows = [row[:-1] if len(row) == len(header) else row for row in rows]
    elif header != expected:
        odd_columns = sorted(set(header) ^ set(expected)) or ["their order"]
        raise RunError(
            f"{file} does not fit classes.json beside it: the columns differ in "
            f"{', '.join(odd_columns)}. {TRAIN_AGAIN}"
        )
    label_of = {name: position for position, name in enumerate(classes)}
    for line, row in enumerate(rows, start=2):
        if len(row) != len(expected) or row[1] not in label_of or row[2] not in label_of:
            raise RunError(f"{file} is damaged in line {line}. {TRAIN_AGAIN}")
    labels, predicted = (
        np.array([label_of[row[column]] for row in rows], dtype=np.int64) for column in (1, 2)
    )
    try:
        table = np.array([list(map(float, row[4:])) for row in rows])
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}). {TRAIN_AGAIN}") from None
    # not a number fails both
    if not rows or not (table >= 0).all() or not (np.abs(table.sum(1) - 1) < ROUNDING).all():
        raise RunError(f"{file} is empty, or holds probabilities that are none. {TRAIN_AGAIN}")
    highest, positions = table.max(1), np.arange(len(rows))
    wrong = np.flatnonzero(table[positions, predicted] < highest)
    if len(wrong):
        raise RunError(
            f"{file} is damaged in line {wrong[0] + 2}: {rows[wrong[0]][2]} is predicted, which is "
            f"not the most probable class there. {TRAIN_AGAIN}"
        )
    # where two classes have the same digits, more of them decided
    tied = table.argmax(1) != predicted
    table[positions[tied], predicted[tied]] = np.nextafter(highest[tied], 2)
    tested = folder.image_table.tested
    images = folder.image_table.tested_images(tuple(row[0] for row in rows))
    if images is None:
        raise RunError(
            f"{file} holds {len(rows)} images, but the test fold in data.csv has {len(tested)}: it "
            f"was cut off or is of another run. {TRAIN_AGAIN}"
        )
    return Predictions(
        classes,
        images.paths,
        labels,
        table,
        np.full(len(rows), fold),
        images.signers,
        images.clusters,
        images.sets,
    )


def read_class_names(run: Path) -> tuple[str, ...]:
    """Read `classes.json` of a run: the names of its classes, in the order of the labels.

    Raises:
        RunError: If it is missing or damaged.
    """
    return _class_names(RunFolder(run))


def _class_names(folder: RunFolder) -> tuple[str, ...]:
    file = folder.path / "classes.json"
    try:
        names = parse_json(folder.content("classes.json").decode("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}). {TRAIN_AGAIN}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{file} holds no list of names. {TRAIN_AGAIN}")
    return tuple(names)


SHARE_TOLERANCE: Final = 1e-5  # a macro F1 of 1 is summed up in float32


def _is_proportion(value: float) -> float:
    if math.isfinite(value) and not 0 <= value < 1 + SHARE_TOLERANCE:
        raise ValueError("it must be a number from 0 to 1.")
    return value


def _is_positive(value: float) -> float:
    if math.isfinite(value) and value < 0:
        raise ValueError("it must be a number of at least 0.")
    return value


# nan is for runs that diverged
Measured = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_is_positive)]
MeasuredShare = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_is_proportion)]


class ValidationMetrics(Strict, extra="ignore"):
    """Metrics of the validation subset."""

    accuracy: MeasuredShare


class TestMetrics(ValidationMetrics):
    """Metrics of the test fold."""

    macro_f1: MeasuredShare
    calibration_error: MeasuredShare
    loss: Measured


class CostMetrics(Strict, extra="ignore"):
    """What the network costs."""

    parameters: Measured
    flops: Measured | None  # both null with callbacks.cost=null
    size_mb: Measured
    latency_ms: Measured | None
    latency_alone: bool | None = None


class MetricsFile(Strict, extra="ignore"):
    """`metrics.json` of a finished run."""

    status: Literal["finished"]
    model: Text
    data: Text
    split: Text
    protocol: str
    fold: Index
    folds: Count
    seed: Index
    test: TestMetrics
    validation: ValidationMetrics
    cost: CostMetrics
    epochs: Measured
    seconds: Measured
    images_per_second: Measured
    fingerprint: str
    checkpoint: Literal["best.ckpt", "last.ckpt"] | None = "best.ckpt"
    partial: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _is_finite(self) -> "MetricsFile":
        if math.isfinite(self.test.loss):
            for group in ("test", "validation", "cost"):
                for key, value in getattr(self, group):
                    if value is not None and not math.isfinite(value):
                        raise ValueError(f"{group}.{key}={value}: it must be a number.")
        return self


class RecordData(Strict, extra="ignore"):
    """The data set of a run."""

    fingerprint: str
    images: Index
    classes: Index
    train: Count
    test: Index
    boxes: Index = 0  # images that were cropped to one
    box_margin: float = Field(default=0.1, ge=0)


class RecordFile(Strict, extra="ignore"):
    """`record.json`; its format number is checked where it is read."""

    signlang: str
    fingerprint: str
    overrides: list[str]
    settings: dict[str, Any]
    data: RecordData


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

    @property
    def is_optimistic(self) -> bool:
        """Whether the test fold also selected the checkpoint and fitted the calibration."""
        return bool(self.metrics["protocol"] == OPTIMISTIC)

    def metric(self, name: str) -> float:
        """One of `METRICS`; those of the test fold are computed from its predictions.

        Raises:
            RunError: As `predictions`.
        """
        if METRICS[name][0] == "test":
            return self.tested[name]
        return self.recorded_metric(name)

    def recorded_metric(self, name: str) -> float:
        """One of `METRICS`, as `metrics.json` has it; nan if it was not measured."""
        value: Any = self.metrics
        for key in METRICS[name]:
            value = value[key]
        return math.nan if value is None else float(value)

    @cached_property
    def tested(self) -> Mapping[str, float]:
        """Metrics of the test fold, computed from `predictions.csv`.

        What `metrics.json` says otherwise is reported. A loss that does not follow from the six
        decimals which earlier versions wrote is believed.

        Raises:
            RunError: As `predictions`.
        """
        predictions, results = self.predictions, dict(self._computed)
        if _is_coarse(predictions):
            results["loss"] = self.recorded_metric("loss")
        tolerance = EXACT if "environment" in self.metrics else BEFORE
        mismatches = [
            f"{name} {self.recorded_metric(name):.6g} there, {value:.6g} by the predictions"
            for name, value in results.items()
            if not abs(self.recorded_metric(name) - value) <= tolerance
        ]
        if mismatches:
            log.warning(
                "%s does not follow from predictions.csv beside it: it was changed, or is of "
                "another run; figures are those of the predictions: %s",
                self.path / "metrics.json", "; ".join(mismatches),
            )  # fmt: skip
        return results

    @cached_property
    def _computed(self) -> Mapping[str, float]:
        predictions = self.predictions
        return classification_metrics(predictions.probabilities, predictions.labels)

    def set_predictions(self, predictions: Predictions, metrics: Mapping[str, float]) -> None:
        """Take what another process has read, in place of reading it.

        Args:
            predictions: Of `read_predictions`.
            metrics: Their `classification_metrics`.
        """
        self.__dict__.update(_read_predictions=predictions, _computed=metrics)

    def share_probabilities(self, table: Floats) -> None:
        """Keep a view of an array that holds equal probabilities, in place of an array of its own.

        Args:
            table: (n, classes) probabilities of `predictions`.
        """
        shared = replace(self.predictions, probabilities=table)
        self.__dict__.update(_read_predictions=shared, predictions=shared)

    @cached_property
    def _read_predictions(self) -> Predictions:
        return read_predictions(self.folder, self.fold)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decided the outcome, but for the fold; the precision is the resolved one."""
        settings = {k: value for k, value in self.record["settings"].items() if k != "fold"}
        if PRECISION in settings and self.environment["precision"] is not None:
            settings[PRECISION] = self.environment["precision"]
        return settings

    @property
    def latency_alone(self) -> bool | None:
        """Whether no other job of a sweep ran beside its measurement; None if not known."""
        alone: bool | None = self.metrics["cost"].get("latency_alone")
        return alone

    @property
    def environment(self) -> Mapping[str, str | None]:
        """Precision, processor, torch and commit that finished it; None what is not known."""
        recorded: Mapping[str, str | None] = self.metrics.get("environment") or {}
        return {**recorded_environment(self.record), **recorded}

    @cached_property
    def predictions(self) -> Predictions:
        """Predictions of the test fold.

        Raises:
            RunError: If the file cannot be used, or does not bear out the accuracy of the run.
        """
        predictions = self._read_predictions
        correct, accuracy = int(predictions.correct.sum()), self.recorded_metric("accuracy")
        if abs(correct - accuracy * len(predictions.paths)) > ROUNDED:
            raise RunError(
                f"{self.path / 'predictions.csv'} has {correct} of {len(predictions.paths)} images "
                f"right, but metrics.json beside it an accuracy of {accuracy:.4f}: they are of "
                f"different runs, or were changed. {TRAIN_AGAIN}"
            )
        return predictions


def read_history(run: Path) -> dict[str, Floats]:
    """Read `history.csv` of a run: (epochs,) of each column; empty without the file.

    Raises:
        RunError: If something in it is no number.
    """
    file = run / "history.csv"
    return _history(file, file.read_bytes() if file.is_file() else b"")


def _history(file: Path, content: bytes) -> dict[str, Floats]:
    rows = list(csv.DictReader(text_lines(content)))
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
    metrics, record_content = folder.metrics(), folder.read("record.json")
    record = folder.parsed_record(record_content)
    if metrics is None:
        return None
    if record is None:
        raise RunError(f"{path / 'record.json'} is missing. {TRAIN_AGAIN}")
    writer = f", written by signlang {record.get('signlang', 'unknown')}"
    for schema, name, content in (
        (RecordFile, "record.json", record), (MetricsFile, "metrics.json", metrics),
    ):  # fmt: skip
        prefix = f"{path / name}{writer}"
        validated(schema, content, error=RunError, before=prefix, fix=TRAIN_AGAIN)
    if metrics["fingerprint"] != record["fingerprint"]:
        raise RunError(
            f"{path / 'metrics.json'} and record.json beside it are of different runs. "
            f"{TRAIN_AGAIN}"
        )
    contents = {"record.json": record_content, "history.csv": folder.read("history.csv")}
    folder.report_changes("metrics.json", *contents, metrics=metrics, contents=contents)
    history = _history(path / "history.csv", contents["history.csv"] or b"")
    return Run(path, metrics, record, history)


def require_run(path: Path) -> Run:
    """Read a run that must be finished.

    Raises:
        RunError: If it is none, or one of its files is missing or damaged.
    """
    if (path / BUNDLE_MANIFEST).is_file() or path.is_file():
        raise RunError(f"run={path} is no run folder: if it is a bundle, say bundle={path}.")
    run = read_run(path)
    if run is not None:
        partial = ", ".join(run.metrics.get("partial", ()))
        if partial:
            log.warning("%s saw only a part of its images (%s): its metrics do not count", path,
                        partial)  # fmt: skip
        return run
    folds = sorted(folder.name for folder in path.glob("fold=*"))
    if folds:
        raise RunError(f"run={path} holds several runs: give one of {', '.join(folds)}.")
    started = RunFolder(path).record() is not None
    what = "is a run that is not finished" if started else "is no run folder"
    raise RunError(f"run={path} {what}: it needs the folder of a finished run, .../fold=K.")


# where the metrics of a run are
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
ROUNDED: Final = 0.05  # images; an accuracy in float32 is off by less
EXACT: Final = 1e-4  # seven digits of each probability
BEFORE: Final = 0.02  # earlier versions counted a confidence of exactly 1 in a bin of its own


def _is_coarse(predictions: Predictions) -> bool:
    """Whether probabilities have six decimals, and that of a true class may be rounded to 0."""
    table = predictions.probabilities
    of_truth = table[np.arange(len(table)), predictions.labels]
    return bool((of_truth < 1e-5).any() and np.allclose(table, table.round(6), rtol=0, atol=1e-12))
