"""A run folder comes in, what its network said of its test fold goes out as arrays."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from signlang.errors import RunError
from signlang.runs.folder import ANEW, RunFolder

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
COLUMNS: Final = ("path", "label", "predicted", "confidence")
ROUNDING: Final = 1e-3  # of a sum of probabilities with six decimals each, of up to 2,000 classes


@dataclass(frozen=True, eq=False)
class Predictions:
    """What networks said of pictures that they had not seen.

    Attributes:
        classes: Names.
        paths: One per picture, relative to the data set.
        labels: (n,) positions in `classes`.
        probabilities: (n, classes).
        folds: (n,) fold in which each picture was tested.
        signers: Who is in each picture, or None where that is not known.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Ints
    probabilities: Floats
    folds: Ints
    signers: tuple[str, ...] | None

    @cached_property
    def predicted(self) -> Ints:
        """(n,) the most probable class."""
        best: Ints = self.probabilities.argmax(1)
        return best

    @cached_property
    def confidence(self) -> Floats:
        """(n,) its probability."""
        highest: Floats = self.probabilities.max(1)
        return highest

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(n,) whether the picture was recognised."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right

    @classmethod
    def together(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Put folds behind one another."""
        first = parts[0]
        signers = [part.signers for part in parts]
        return cls(
            first.classes,
            tuple(path for part in parts for path in part.paths),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.folds for part in parts]),
            None if None in signers else tuple(s for part in signers for s in part or ()),
        )


def read_predictions(run: Path, fold: int) -> Predictions:
    """Read `predictions.csv` of a run, and who is in the pictures from its `data.csv`.

    Args:
        run: Its folder.
        fold: Number of its test fold.

    Raises:
        RunError: If a file is missing, was cut off, or names classes that the run does not know.
    """
    file, classes = run / "predictions.csv", _classes(run)
    expected = [*COLUMNS, *(f"p_{name}" for name in classes)]
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}). {ANEW}") from None
    if header != expected:
        odd = sorted(set(header) ^ set(expected)) or ["their order"]
        raise RunError(
            f"{file} does not fit classes.json beside it: the columns differ in {', '.join(odd)}. "
            f"{ANEW}"
        )
    number = {name: position for position, name in enumerate(classes)}
    for line, row in enumerate(rows, start=2):
        if len(row) != len(expected) or row[1] not in number:
            raise RunError(f"{file} is damaged in line {line}. {ANEW}")
    labels = np.array([number[row[1]] for row in rows], dtype=np.int64)
    try:
        table = np.array([row[4:] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}). {ANEW}") from None
    # not a number fails both
    if not rows or not (table >= 0).all() or not (np.abs(table.sum(1) - 1) < ROUNDING).all():
        raise RunError(f"{file} is empty, or holds probabilities that are none. {ANEW}")
    paths = tuple(row[0] for row in rows)
    return Predictions(
        classes, paths, labels, table, np.full(len(rows), fold), _signers(run, paths)
    )


def _classes(run: Path) -> tuple[str, ...]:
    file = run / "classes.json"
    try:
        names = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}). {ANEW}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{file} holds no list of names. {ANEW}")
    return tuple(names)


def _signers(run: Path, paths: Sequence[str]) -> tuple[str, ...] | None:
    """Check that exactly the test fold was judged, and say who is in it."""
    tested = {row["path"]: row["signer"] for row in RunFolder(run).pictures_of("test")}
    if set(paths) != tested.keys() or len(paths) != len(tested):
        raise RunError(
            f"{run / 'predictions.csv'} holds {len(paths)} pictures, but the test fold in data.csv "
            f"has {len(tested)}: it was cut off or is of another run. {ANEW}"
        )
    signers = tuple(tested[path] for path in paths)
    return signers if all(signers) else None
