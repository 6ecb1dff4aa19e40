"""The folder of a study comes in; its settings with their runs, and what is missing, go out.

Only run folders are read, and nothing in them is changed.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from signlang.errors import RunError, suggestion
from signlang.runs.folder import RunFolder
from signlang.runs.identity import differences
from signlang.studies import gaps
from signlang.studies.checking import read_run
from signlang.studies.runs import Run, Setting, Study

FOLD: Final = re.compile(r"fold=(\d+)")


def read_study(path: Path) -> Study:
    """Read all run folders of a study.

    Raises:
        RunError: If there are none, or the folds of a setting do not belong together.
    """
    if not path.is_dir():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggestion(path.name, sorted(near)) if near else "Train something first."
        raise RunError(f"{path}: there is no such folder. {hint}")
    path = path if path.name not in {"", ".."} else path.resolve()  # `.` has no parents
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
            missing[fold] = f"{gaps.UNUSABLE} ({str(error).rstrip('.')})"
            continue
        if run is None:
            missing[fold] = gaps.state(path)
        elif not math.isfinite(run.figure("loss")):
            missing[fold] = (
                f"{gaps.DIVERGED}, its loss is {run.figure('loss')} (move the setting out of the "
                "study, or choose a lower learning rate)"
            )
        else:
            runs.append(run)
    if not runs:
        return None, _without_runs(folder, missing)
    for run in runs[1:]:
        _belong_together(runs[0], run)
    absent = set(range(int(runs[0].metrics["folds"]))) - {run.fold for run in runs} - set(missing)
    missing |= dict.fromkeys(absent, "was not begun")
    return Setting(folder, tuple(sorted(runs, key=lambda r: r.fold)), missing), ""


def _without_runs(folder: Path, missing: Mapping[int, str]) -> str:
    """Say what is known of a setting that has no finished run."""
    for fold in sorted(missing):
        with suppress(RunError):
            record = RunFolder(folder / f"fold={fold}").record() or {}
            folds = record.get("settings", {}).get("folds")
            if isinstance(folds, int) and "overrides" in record:
                absent = dict.fromkeys(range(folds), "was not begun")
                return gaps.sentence(folder, {**absent, **missing}, record)
    return f"{folder}: {gaps.reasons(missing)}."


def _run(path: Path) -> Run | None:
    """Read a run of a study; None if it is not finished."""
    run = read_run(path)
    if run is not None and f"fold={run.fold}" != path.name:
        raise RunError(
            f"{path / 'metrics.json'} is of fold {run.fold}: the folder was moved or copied "
            "here, move it back or delete it"
        )
    return run


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
        told = "".join(f"\n{why}" for why in unusable.values())
        return f"{path} holds no finished run.{told}"
    inner = sorted({p.parent.parent.parent.name for p in path.glob("*/*/fold=*/record.json")})
    if inner:
        return f"{path} holds studies, not runs. Name one of them: {', '.join(inner)}."
    return (
        f"{path} holds no run. A run folder is <study>/<what was chosen>/fold=<k>, as "
        "python -m signlang.train leaves it; name the folder of the study."
    )
