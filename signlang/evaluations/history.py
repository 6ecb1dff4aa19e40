"""A run folder and pictures come in; what the run was trained on, and its calibration, go out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from signlang.confidence import calibration
from signlang.confidence.calibration import Calibration, Judged
from signlang.console import track
from signlang.data import pictures
from signlang.data.index import Index
from signlang.data.pictures import Pixels
from signlang.errors import DataError, RunError
from signlang.evaluations.candidates import BATCH, Candidate, Floats
from signlang.evaluations.scores import figures
from signlang.runs.folder import RunFolder
from signlang.studies.originals import root_of

Flags = npt.NDArray[np.bool_]
LIKE: Final = 0.01  # losses of the same pictures on other machines differ by much less


@dataclass(frozen=True, eq=False)
class Seen:
    """Which pictures are no news to a network, byte for byte.

    Attributes:
        trained: (N,) those that it was trained on.
        chosen: (N,) those that chose its checkpoint or its calibration.
        unknown: Why that cannot be known; nothing where it is.
    """

    trained: Flags
    chosen: Flags
    unknown: str = ""

    @property
    def either(self) -> Flags:
        """(N,) both."""
        return self.trained | self.chosen


def seen(candidate: Candidate, index: Index) -> Seen:
    """Find pictures that a run was made of, by the digests of their files.

    Args:
        candidate: Of a bundle, or of somebody else's weights, nothing is known.
        index: The pictures.
    """
    none = np.zeros(len(index), dtype=np.bool_)
    if candidate.kind != "run":
        return Seen(
            none, none, f"its {candidate.kind} do{'es' * (candidate.kind == 'bundle')} not say"
        )
    used = [(row["path"], row["part"]) for row in RunFolder(candidate.path).pictures()
            if row["part"].startswith(("train", "validation"))]  # fmt: skip
    if candidate.facts["trained_on"].get("fingerprint") == index.fingerprint:
        digests = dict(zip(index.paths, (fact.digest for fact in index.facts), strict=True))
    else:
        try:
            root = root_of(candidate.path)
        except DataError as error:
            return Seen(none, none, f"the pictures of the run are not there to compare: {error}")
        digests = _digests(root, [path for path, _ in used], _sizes(index))
    parts: dict[str, set[str]] = {}
    for path, part in used:
        parts.setdefault(digests.get(path, ""), set()).add(part.partition("+")[0])
    here = [parts.get(fact.digest, set()) for fact in index.facts]
    trained = np.array(["train" in found for found in here], dtype=np.bool_)
    chosen = np.array(["validation" in found for found in here], dtype=np.bool_)
    return Seen(trained, chosen & ~trained)


def _sizes(index: Index) -> set[int]:
    return {(index.root / path).stat().st_size for path in index.paths}


def _digests(root: Path, paths: Sequence[str], sizes: set[int]) -> dict[str, str]:
    """Sum up those files that are as large as some picture of the evaluation."""
    found = {}
    for path in track(paths, "comparing with the training pictures", len(paths)):
        file = root / path
        try:
            if file.stat().st_size in sizes:
                found[path] = pictures.digest_of(file.read_bytes())
        except OSError:
            continue
    return found


def calibrated_again(candidate: Candidate, wanted_precision: float, *, write: bool) -> Calibration:
    """Fit the calibration of a run on its own validation pictures.

    Args:
        candidate: A run.
        wanted_precision: Between 0 and 1.
        write: Put `calibration.json` into the run folder; the test fold is then judged as well.

    Raises:
        DataError: If the pictures are not there, or not those that the run was made with.
        RunError: If the network says nothing that is a number.
    """
    run, root = candidate.path, root_of(candidate.path)
    judged = {"validation": _judged(candidate, root, "validation")}
    _check_same(run, root, judged["validation"])
    if write:
        judged["test"] = _judged(candidate, root, "test")
        with RunFolder(run).claimed():
            calibration.write(run, judged, wanted_precision)
    return calibration.fit(*judged["validation"], wanted_precision)


def _judged(candidate: Candidate, root: Path, part: str) -> Judged:
    """Show the pictures of one part to the network."""
    rows = RunFolder(candidate.path).part(part, candidate.classes)
    if not rows:
        raise DataError(f"{candidate.path / 'data.csv'} names no {part} pictures.")
    starts = range(0, len(rows), BATCH)
    said: list[Floats] = []
    for start in track(starts, f"judging the {part} pictures of the run", len(starts)):
        batch = [_read(root / path, candidate.sides[0]) for path, _ in rows[start : start + BATCH]]
        said.append(candidate.judge(candidate.prepared(np.stack(batch))))
    probabilities = np.concatenate(said)
    if not np.isfinite(probabilities).all():
        raise RunError(f"The training of {candidate.path} diverged: it cannot be calibrated.")
    return probabilities, np.array([label for _, label in rows], dtype=np.int64)


def _read(file: Path, side: int) -> Pixels:
    try:
        return pictures.resized(pictures.decode(pictures.read_bytes(file)), side)
    except pictures.BadPictureError as error:
        raise DataError(f"{file}: {error}.") from None


def _check_same(run: Path, root: Path, judged: Judged) -> None:
    """Refuse pictures that give another loss than when the run was made."""
    metrics = RunFolder(run).metrics() or {}
    then = float(metrics["validation"]["loss"])
    now = figures(*judged)["loss"]
    if abs(now - then) > LIKE * max(then, 0.1):
        raise DataError(
            f"The validation pictures in {root} give a loss of {now:.4f}, but {then:.4f} when the "
            f"run was made: they have changed."
        )
