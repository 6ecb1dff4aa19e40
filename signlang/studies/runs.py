"""The folder of a study comes in; its settings with their runs, and what is missing, go out.

Only run folders are read, and nothing in them is changed.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.data.files import read_csv
from signlang.errors import RunError, suggestion
from signlang.runs.folder import RunFolder
from signlang.runs.identity import UNNAMED, differences, is_below
from signlang.studies.predictions import Predictions, read_predictions

Floats = npt.NDArray[np.float64]
FOLD: Final = re.compile(r"fold=(\d+)")
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
WORDS: Final = ("model", "data", "split", "protocol", "fold", "folds", "seed", "fingerprint")


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
        """What the network said of the pictures of its test fold."""
        return read_predictions(self.path)

    @cached_property
    def history(self) -> dict[str, Floats]:
        """(epochs,) of each column of `history.csv`; empty without the file."""
        rows = read_csv(self.path / "history.csv")
        return {
            name: np.array([float(row[name] or "nan") for row in rows])
            for name in (rows[0] if rows else ())
        }


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
        kept = {k: v for k, v in pairs.items() if not is_below(k, UNNAMED) and k != "experiment"}
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

    def completing(self) -> str:
        """The command that trains the missing folds."""
        runs_dir = self.path.parent.parent
        words = [
            word
            for word in self.runs[0].record["overrides"]
            if word.partition("=")[0] not in {"fold", "runs_dir"}
        ]
        where = [] if str(runs_dir) == "runs" else [f"runs_dir={runs_dir}"]
        folds = ",".join(map(str, sorted(self.missing)))
        line = ["python", "-m", "signlang.train", "-m", *words, *where, f"fold={folds}"]
        return shlex.join(line)


@dataclass(frozen=True, eq=False)
class Study:
    """All settings of a study, the most accurate first.

    Attributes:
        path: Its folder.
        settings: With at least one finished run.
        unusable: Settings without any, with what is known of each fold.
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
        short = {key: key.rpartition(".")[2] for key in self.factors}
        if len(set(short.values())) < len(short):
            short = {key: key for key in self.factors}
        return {
            setting.name: ", ".join(
                [
                    setting.model,
                    *(f"{short[k]} {setting.choice(k)}" for k in self.factors if k != "model"),
                ]
            )
            for setting in self.settings
        }

    def label(self, setting: Setting) -> str:
        """The short name of a setting."""
        return self.labels[setting.name]

    @property
    def incomplete(self) -> list[str]:
        """What is missing, a sentence with its mend for each setting."""
        told = [
            f"{setting.path} has {len(setting.runs)} of {setting.folds} folds: "
            + "; ".join(f"fold {fold} {why}" for fold, why in sorted(setting.missing.items()))
            + f". Complete it with\n    {setting.completing()}"
            for setting in self.settings
            if setting.missing
        ]
        return told + [f"{self.path / name}: {why}" for name, why in self.unusable.items()]


def read_study(path: Path) -> Study:
    """Read all run folders of a study.

    Raises:
        RunError: If there are none, or the folds of a setting do not belong together.
    """
    if not path.is_dir():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggestion(path.name, sorted(near)) if near else "Train something first."
        raise RunError(f"{path}: there is no such folder. {hint}")
    settings, unusable = [], {}
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        folds = _fold_folders(folder)
        if not folds:
            continue
        setting, why = _setting(folder, folds)
        if setting is not None:
            settings.append(setting)
        else:
            unusable[folder.name] = why
    if not settings:
        raise RunError(_nothing(path, unusable))
    settings.sort(key=lambda s: (-s.mean("accuracy"), s.name))
    return Study(path, tuple(settings), unusable)


def _fold_folders(folder: Path) -> dict[int, Path]:
    found = ((FOLD.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir())
    return {int(match[1]): path for match, path in sorted(found, key=lambda f: f[1]) if match}


def _setting(folder: Path, paths: Mapping[int, Path]) -> tuple[Setting | None, str]:
    runs, missing = [], {}
    for fold, path in sorted(paths.items()):
        try:
            run = _run(path)
        except RunError as error:
            missing[fold] = f"cannot be used ({error})"
            continue
        if run is None:
            missing[fold] = _state(path)
        else:
            runs.append(run)
    if not runs:
        return None, "; ".join(f"fold {fold} {why}" for fold, why in missing.items())
    for run in runs[1:]:
        _belong_together(runs[0], run)
    absent = set(range(int(runs[0].metrics["folds"]))) - {run.fold for run in runs} - set(missing)
    missing |= dict.fromkeys(absent, "was not begun")
    return Setting(folder, tuple(sorted(runs, key=lambda r: r.fold)), missing), ""


def _run(path: Path) -> Run | None:
    """Read a run; None if it is not finished."""
    folder = RunFolder(path)
    metrics, record = folder.metrics(), folder.record()
    if metrics is None:
        return None
    if record is None:
        raise RunError(f"{path / 'record.json'} is missing")
    lacking = [key for key in WORDS if key not in metrics]
    lacking += [".".join(keys) for keys in FIGURES.values() if not _is_number(metrics, keys)]
    lacking += [f"{key} of record.json" for key in ("settings", "data", "overrides", "signlang")
                if key not in record]  # fmt: skip
    if lacking:
        raise RunError(
            f"{path / 'metrics.json'}, written by signlang {record.get('signlang', 'unknown')}, "
            f"has no usable {', '.join(lacking)}: train this run again with overwrite=true"
        )
    if f"fold={metrics['fold']}" != path.name:
        raise RunError(f"{path / 'metrics.json'} is of fold {metrics['fold']}: it was moved here")
    return Run(path, metrics, record)


def _is_number(metrics: Mapping[str, Any], keys: Sequence[str]) -> bool:
    value: Any = metrics
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _state(path: Path) -> str:
    """Say how far an unfinished run has come."""
    try:
        lines = (path / "run.log").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    heads = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)]
    if heads and " ERROR " in heads[-1]:
        return f"failed (see {path / 'run.log'})"
    done = len(read_csv(path / "history.csv"))
    return f"is not finished ({done} epoch{'s' * (done != 1)} done)"


def _belong_together(one: Run, other: Run) -> None:
    """Refuse folds that were not made alike.

    Raises:
        RunError: With the settings in which they differ.
    """
    changed = differences(one.settings, other.settings)
    before, now = one.record["data"], other.record["data"]
    if before["fingerprint"] != now["fingerprint"]:
        changed.append(
            f"data: {before['pictures']} pictures of {before['classes']} classes there "
            f"({before['fingerprint'][:8]}), {now['pictures']} of {now['classes']} now "
            f"({now['fingerprint'][:8]})"
        )
    changed += [
        f"{key}: {one.metrics[key]} there, {other.metrics[key]} now"
        for key in ("model", "data", "split", "protocol", "folds", "seed")
        if one.metrics[key] != other.metrics[key] and not any(c.startswith(key) for c in changed)
    ]
    if changed:
        raise RunError(
            f"{other.path} and {one.path.name} beside it were not made alike and cannot be "
            f"averaged: {'; '.join(changed)}. Train one of them again with overwrite=true, or move "
            "it into a study of its own."
        )


def _nothing(path: Path, unusable: Mapping[str, str]) -> str:
    if unusable:
        told = "".join(f"\n  {name}: {why}" for name, why in unusable.items())
        return f"{path} holds no finished run:{told}"
    inner = sorted({p.parent.parent.parent.name for p in path.glob("*/*/fold=*/record.json")})
    if inner:
        return f"{path} holds studies, not runs. Name one of them: {', '.join(inner)}."
    return (
        f"{path} holds no run. A run folder is <study>/<what was chosen>/fold=<k>, as "
        "python -m signlang.train leaves it; name the folder of the study."
    )
