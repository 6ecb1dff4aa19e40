"""Detection of label errors from out-of-fold predictions (cleanlab).

The method is confident learning (Northcutt, Jiang and Chuang: Confident Learning: Estimating
Uncertainty in Dataset Labels, JAIR 70, 2021), as cleanlab implements it.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from signlang.arrays import Floats, Ints
from signlang.data.index import Index
from signlang.errors import DataError, listing

NAME: Final = "predictions.csv"
# of cleanlab's five filters the one with the highest recall of 2 % and 5 % labels flipped on
# purpose in the Sign Language Digits (88 % and 86 %), and with the fewest false alarms
FILTER: Final = "low_self_confidence"


@dataclass(frozen=True, eq=False)
class OutOfFoldPredictions:
    """Predictions for images that the networks were not trained on.

    Attributes:
        rows: (n,) rows of the index with predictions, sorted.
        probabilities: (n, classes), the mean over all files that contain the image.
        files: Number of files.
        relabelled: Images whose label has changed since the predictions.
    """

    rows: Ints
    probabilities: Floats
    files: int
    relabelled: int


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong.

    Attributes:
        row: Its row in the index.
        suggested: The predicted label.
        given_probability: Mean probability of the given label.
        suggested_probability: Mean probability of the suggested label.
    """

    row: int
    suggested: int
    given_probability: float
    suggested_probability: float


def prediction_files(paths: Iterable[Path]) -> list[Path]:
    """Find the predictions in files, run folders and folders of run folders.

    Raises:
        DataError: If there are no predictions in or below one of them.
    """
    predictions: dict[Path, None] = {}
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob(NAME))
        if not files:
            raise DataError(f"predictions={path}: there is no {NAME} in or below this folder.")
        predictions.update(dict.fromkeys(file.resolve() for file in files))
    return list(predictions)


def read_predictions_for(files: Sequence[Path], index: Index) -> OutOfFoldPredictions:
    """Read predictions (path,label,predicted,confidence,p_<class>...) and average them by image.

    Raises:
        DataError: If a file is unreadable, or has other images or classes than the index.
    """
    row_of = {path: row for row, path in enumerate(index.paths)}
    total = np.zeros((len(index), len(index.classes)))
    counts = np.zeros(len(index), dtype=np.int64)
    relabelled: set[int] = set()
    for file in files:
        paths, labels, probabilities = _read_table(file, index.classes)
        unknown = [path for path in paths if path not in row_of]
        if unknown:
            raise DataError(
                f"{file} has predictions of {len(unknown)} images that are not in {index.root} (or "
                "cannot be used): give the data set that its run was trained on."
                f"{listing(unknown, most=5)}"
            )
        rows = np.array([row_of[path] for path in paths], dtype=np.int64)
        np.add.at(total, rows, probabilities)
        np.add.at(counts, rows, 1)
        changed = np.array(labels) != np.array(index.classes)[index.labels[rows]]
        relabelled.update(rows[changed].tolist())
    predicted = np.flatnonzero(counts)
    mean = total[predicted] / counts[predicted, None]
    return OutOfFoldPredictions(
        predicted, mean / mean.sum(1, keepdims=True), len(files), len(relabelled)
    )


def suspicious_labels(labels: Ints, predictions: OutOfFoldPredictions) -> list[Suspect]:
    """Find the images whose label is probably wrong, the surest first.

    Confident learning estimates how many labels of each class are wrong; that many images with
    the lowest probability of the given label are suspects, ranked by its margin to the best other.

    Args:
        labels: (N,) labels of the whole index.
        predictions: Predictions of some or all of its images.
    """
    from cleanlab.filter import find_label_issues

    own_labels, probabilities = labels[predictions.rows], predictions.probabilities
    present, compact = np.unique(own_labels, return_inverse=True)  # cleanlab refuses empty classes
    if len(present) < 2:
        return []
    normalized = probabilities[:, present] + 1e-12
    positions = find_label_issues(
        compact,
        normalized / normalized.sum(1, keepdims=True),
        return_indices_ranked_by="normalized_margin",
        filter_by=FILTER,
        n_jobs=1,
    )
    return [
        Suspect(
            row=int(predictions.rows[position]),
            suggested=int(best),
            given_probability=float(probabilities[position, own_labels[position]]),
            suggested_probability=float(probabilities[position, best]),
        )
        for position in positions
        if (best := probabilities[position].argmax()) != own_labels[position]
    ]


def _read_table(file: Path, classes: tuple[str, ...]) -> tuple[list[str], list[str], Floats]:
    columns = [f"p_{name}" for name in classes]
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            _check_header(file, reader.fieldnames or (), columns)
            rows = list(reader)
        values = [[float(row[column]) for column in columns] for row in rows]
    except (OSError, csv.Error, ValueError, TypeError) as error:
        raise DataError(f"{file} cannot be read as predictions: {error}.") from None
    table = np.array(values, dtype=np.float64).reshape(-1, len(columns))
    sums = table.sum(1)
    if not len(rows) or not np.isfinite(sums).all() or (table < 0).any() or (sums <= 0).any():
        raise DataError(
            f"{file} cannot be read as predictions: it must have a line per image with "
            "probabilities, numbers from 0 to 1."
        )
    return [row["path"] for row in rows], [row["label"] for row in rows], table


def _check_header(file: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    absent = [name for name in ("path", "label") if name not in header]
    if absent:
        raise DataError(
            f"{file} is no file of predictions: it has no column {' and no column '.join(absent)}. "
            "Give a predictions.csv of a run."
        )
    missing = [name.removeprefix("p_") for name in columns if name not in header]
    extra = [n.removeprefix("p_") for n in header if n.startswith("p_") and n not in columns]
    if missing or extra:
        raise DataError(
            f"{file} has other classes than the data set; "
            f"only in the file: {', '.join(extra) or 'none'}; "
            f"only in the data set: {', '.join(missing) or 'none'}. "
            "Give the predictions of a run on this data set."
        )
