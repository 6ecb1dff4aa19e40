"""The folder of a finished run comes in; all that an export needs to know of it goes out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signlang.confidence import calibration
from signlang.confidence.calibration import Calibration
from signlang.errors import RunError
from signlang.models.classifier import Classifier
from signlang.runs.folder import RunFolder
from signlang.studies.checking import read_run
from signlang.studies.predictions import Predictions, read_predictions


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished run with its network.

    Attributes:
        path: Its folder.
        metrics: Content of `metrics.json`.
        record: Content of `record.json`.
        classifier: The best checkpoint, on the processor, ready to judge.
        stored: The calibration that lies in its folder, if any.
        calibration_error: Of the test fold, `before` and `after`; empty if not known.
    """

    path: Path
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    classifier: Classifier
    stored: Calibration | None
    calibration_error: Mapping[str, float]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the logits."""
        return self.classifier.classes

    @property
    def calibration(self) -> Calibration:
        """Of its probabilities; temperature 1 and no threshold if none is stored."""
        return self.stored or Calibration()

    @property
    def image_size(self) -> int:
        """Side of the square that the network sees, in pixels."""
        return int(self.classifier.hparams["network"]["image_size"])

    @property
    def sides(self) -> tuple[int, ...]:
        """Squares to which pictures were brought one after another, in pixels."""
        stored = self.record["settings"].get("data.stored_size")
        both = (int(stored or self.image_size), self.image_size)
        return both[:1] if both[0] == both[1] else both

    def predictions(self) -> Predictions:
        """What the network said of its test fold when the run was made.

        Raises:
            RunError: If `predictions.csv` or `data.csv` is missing or damaged.
        """
        return read_predictions(self.path, int(self.metrics["fold"]))

    @property
    def signers(self) -> int:
        """People in all pictures of the run, or 0 where that is not known."""
        names = {row["signer"] for row in RunFolder(self.path).pictures()}
        return 0 if "" in names else len(names)

    def part(self, name: str) -> list[tuple[str, int]]:
        """Paths and labels of the pictures of a part: `train`, `validation` or `test`.

        Raises:
            DataError: If `data.csv` names classes that the network does not know.
        """
        return RunFolder(self.path).part(name, self.classes)


def read(path: Path) -> Finished:
    """Read a finished run and load its best checkpoint.

    Raises:
        RunError: If there is no finished run, or it is damaged.
    """
    run, folder = read_run(path), RunFolder(path)
    if run is None:
        folds = sorted(place.name for place in path.glob("fold=*"))
        if folds:
            raise RunError(f"run={path} holds several runs: give one of {', '.join(folds)}.")
        what = "is a run that is not finished" if folder.record() else "is no run folder"
        raise RunError(f"run={path} {what}: it needs the folder of a finished run, .../fold=K.")
    try:
        model = Classifier.load_from_checkpoint(folder.best, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise RunError(
            f"{folder.best} cannot be loaded ({type(error).__name__}): train the run again with "
            "overwrite=true."
        ) from error
    found = calibration.read(path)
    errors = _calibration_error(path) if found else {}
    return Finished(path, run.metrics, run.record, model.eval(), found, errors)


def _calibration_error(path: Path) -> dict[str, float]:
    """Before and after, of the test fold if it was measured there."""
    found = json.loads((path / calibration.FILE).read_text("utf-8")).get("calibration_error")
    if isinstance(found, dict):
        found = found.get("test", found)
    if not isinstance(found, dict):
        return {}
    return {key: float(found[key]) for key in ("before", "after") if key in found}
