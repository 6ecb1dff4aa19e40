"""What a study is made of: runs, settings with a run of every fold, and all settings together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.data.files import read_csv
from signlang.errors import RunError
from signlang.runs.folder import ANEW
from signlang.runs.identity import UNNAMED, is_below
from signlang.studies import gaps
from signlang.studies.predictions import Predictions, read_predictions

Floats = npt.NDArray[np.float64]
# where the figures of a run are, and what they must be
FIGURES: Final[Mapping[str, tuple[str, ...]]] = {
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
ROUNDED: Final = 1.5  # pictures whose two best classes may be equal in six decimals
SHARES: Final = ("accuracy", "macro_f1", "calibration_error", "validation_accuracy")


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    Attributes:
        path: Its folder.
        metrics: Content of `metrics.json`, with every key of `FIGURES`.
        record: Content of `record.json`.
    """

    path: Path
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def fold(self) -> int:
        """Number of the test fold."""
        return int(self.metrics["fold"])

    def figure(self, name: str) -> float:
        """One of `FIGURES`."""
        value: Any = self.metrics
        for key in FIGURES[name]:
            value = value[key]
        return float(value)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decided the outcome, but for the fold."""
        return {key: value for key, value in self.record["settings"].items() if key != "fold"}

    @cached_property
    def predictions(self) -> Predictions:
        """What the network said of the pictures of its test fold.

        Raises:
            RunError: If the file cannot be used, or does not bear out the accuracy of the run.
        """
        found = read_predictions(self.path, self.fold)
        right, told = int(found.correct.sum()), self.figure("accuracy")
        if abs(right - told * len(found.paths)) > ROUNDED:
            raise RunError(
                f"{self.path / 'predictions.csv'} has {right} of {len(found.paths)} pictures "
                f"right, but metrics.json beside it an accuracy of {told:.4f}: they are of "
                f"different runs, or were changed. {ANEW}"
            )
        return found

    @cached_property
    def history(self) -> dict[str, Floats]:
        """(epochs,) of each column of `history.csv`; empty without the file."""
        return read_history(self.path)


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
        raise RunError(f"{file} is damaged ({error}). {ANEW}") from None


@dataclass(frozen=True, eq=False)
class Setting:
    """What was chosen, with its run of every fold.

    Attributes:
        path: Folder of its runs.
        runs: The finished ones, by fold; at least one.
        missing: Why each other fold is missing, by fold.
    """

    path: Path
    runs: tuple[Run, ...]
    missing: Mapping[int, str]

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.name

    @property
    def model(self) -> str:
        """Name of the network."""
        return str(self.runs[0].metrics["model"])

    @property
    def protocol(self) -> str:
        """Whether the test fold picked the checkpoint."""
        return str(self.runs[0].metrics["protocol"])

    @property
    def split(self) -> str:
        """How pictures were dealt to folds."""
        return str(self.runs[0].metrics["split"])

    @property
    def folds(self) -> int:
        """How many folds there are, finished or not."""
        return int(self.runs[0].metrics["folds"])

    @property
    def is_complete(self) -> bool:
        """Whether every fold is finished."""
        return not self.missing

    @cached_property
    def dealing(self) -> tuple[Any, ...]:
        """What two settings must share for their folds to hold the same pictures."""
        record = self.runs[0].record
        split = sorted((k, str(v)) for k, v in record["settings"].items() if k.startswith("split."))
        return (record["data"]["fingerprint"], self.folds, tuple(split))

    @property
    def test_share(self) -> float:
        """Pictures of a test fold for each picture outside of it."""
        data = self.runs[0].record["data"]
        return float(data["test"]) / (float(data["pictures"]) - float(data["test"]))

    def values(self, name: str) -> Floats:
        """(finished folds,) one of `FIGURES`."""
        return np.array([run.figure(name) for run in self.runs])

    def mean(self, name: str) -> float:
        """Mean of a figure over the finished folds."""
        return float(self.values(name).mean())

    def two_deviations(self, name: str) -> float:
        """Two standard deviations (n - 1) over the finished folds; nan for a single one."""
        values = self.values(name)
        return 2 * float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    @cached_property
    def predictions(self) -> Predictions:
        """Out-of-fold predictions, fold after fold."""
        return Predictions.together([run.predictions for run in self.runs])

    @cached_property
    def chosen(self) -> dict[str, str]:
        """The overrides that made it, but for the fold and what does not change the outcome."""
        words = [word for word in self.runs[0].record["overrides"] if "=" in word]
        pairs = dict(word.partition("=")[::2] for word in words)
        named = {k: v for k, v in pairs.items() if k not in {"model", "experiment"}}
        kept = {k: v for k, v in named.items() if not is_below(k, UNNAMED)}
        return {key.lstrip("+"): value.strip("'\"") for key, value in kept.items()}

    def choice(self, key: str) -> str:
        """The value of a setting by the name of its override, shortened for people."""
        settings = self.runs[0].settings
        if key in settings or f"{key}.name" in settings:
            value = settings.get(key, settings.get(f"{key}.name"))
        else:
            value = self.chosen.get(key)
        if key == "model.weights" and value:
            value = str(value).split()[0]  # without the digest
        return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, eq=False)
class Study:
    """All settings of a study, the most accurate first.

    Attributes:
        path: Its folder.
        settings: With at least one finished run.
        unusable: Settings without any, by the name of their folder, with a sentence and its mend.
    """

    path: Path
    settings: tuple[Setting, ...]
    unusable: Mapping[str, str]

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.resolve().name

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """Names of the overrides in which the settings differ, the network's first."""
        keys = dict.fromkeys(key for setting in self.settings for key in setting.chosen)
        varying = [k for k in keys if len({s.choice(k) for s in self.settings}) > 1]
        models = len({setting.model for setting in self.settings}) > 1
        return ("model",) * models + tuple(sorted(varying))

    @cached_property
    def labels(self) -> dict[str, str]:
        """A short name of each setting: its network, and what tells it from the others."""
        labels = {setting.name: self._label(setting, self.factors) for setting in self.settings}
        taken = list(labels.values())
        return {
            name: label if taken.count(label) == 1 else f"{label} ({name})"
            for name, label in labels.items()
        }

    def label(self, setting: Setting, without: str = "") -> str:
        """The short name of a setting, on request without the factors of one group."""
        if not without:
            return self.labels[setting.name]
        return self._label(setting, [key for key in self.factors if not is_below(key, [without])])

    def _label(self, setting: Setting, factors: Sequence[str]) -> str:
        short = {key: key.rpartition(".")[2] for key in factors}
        if len(set(short.values())) < len(short):
            short = {key: key for key in factors}
        chosen = [f"{short[key]} {setting.choice(key)}" for key in factors if key != "model"]
        return ", ".join([setting.model, *chosen])

    @property
    def incomplete(self) -> list[str]:
        """What is missing, a sentence with its mend for each setting."""
        told = [
            gaps.sentence(setting.path, setting.missing, setting.runs[0].record)
            for setting in self.settings
            if setting.missing
        ]
        return [*told, *self.unusable.values()]
