"""List studies and runs with their status: `python -m signlang.list`; no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator

from signlang.constraints import Strict, Text, validated
from signlang.errors import SettingError, suggestion
from signlang.files import expanded, parse_json
from signlang.hydra_app import run

Status = Literal["running", "failed", "diverged", "damaged", "interrupted", "partial", "finished"]
ORDER: Final[Sequence[Status]] = (  # a setting is what the first of its folds is in this order
    "running", "failed", "diverged", "damaged", "interrupted", "partial", "finished",
)  # fmt: skip


class ListConfig(Strict):
    """The settings of `conf/list.yaml`, which documents each."""

    study: Text | None = None
    status: Annotated[
        list[Status] | None, BeforeValidator(lambda x: [x] if isinstance(x, str) else x)
    ] = None
    sort: Literal["name", "accuracy", "date"] = "name"
    runs_dir: Text = "runs"
    verbose: bool = True


@dataclass(frozen=True)
class Listed:
    """One fold of a setting, or all of them.

    Attributes:
        name: Of its folder, below that of the study.
        status: What became of it.
        finished: Finished folds.
        folds: How many there are; 0 if that is not known.
        accuracy: On the test folds: mean over the finished ones; None without one, and where it
            must not be looked at.
        changed: When it was last written, in seconds since 1970.
    """

    name: str
    status: Status
    finished: int
    folds: int
    accuracy: float | None
    changed: float


def list_runs(cfg: DictConfig) -> list[tuple[str, list[Listed]]]:
    """Show all studies, with one line for each setting, or each fold of one study.

    Returns:
        The lines of each study.

    Raises:
        SettingError: If there is no such study.
    """
    config = validated(ListConfig, OmegaConf.to_container(cfg, resolve=True))
    from signlang import console

    runs_dir = expanded(config.runs_dir)
    studies = [(p.name, lines) for p in _studies(config, runs_dir) if (lines := _lines(p, config))]
    console.show_lines(_table_lines(studies, runs_dir, console.width()))
    return studies


def _studies(config: ListConfig, runs_dir: Path) -> list[Path]:
    """The folders of the studies that are to be shown."""
    from signlang.runs.folder import all_runs

    studies = sorted({path.parents[1] for path in all_runs(runs_dir)})
    if config.study is None:
        return studies
    name = Path(config.study).name  # also as the path of its folder
    if name not in {study.name for study in studies}:
        hint = suggestion(name, [s.name for s in studies]) if studies else "It holds no runs."
        raise SettingError(f"study={config.study}: there is no such study in {runs_dir}. {hint}")
    return [study for study in studies if study.name == name]


def _lines(study: Path, config: ListConfig) -> list[Listed]:
    """The settings of a study, or all of their folds if it is the only one."""
    from signlang.errors import RunError
    from signlang.runs.folder import fold_folders, read_searches

    try:
        searches = read_searches(study)
    except RunError:  # `compare` reports it
        searches = []
    tried = {t.setting for search in searches if search.nested for t in search.tried}
    lines: list[Listed] = []
    for setting in sorted(path for path in study.iterdir() if path.is_dir()):
        folds = [_fold_line(path, setting.name in tried) for path in fold_folders(setting).values()]
        lines += folds if config.study is not None else _setting_lines(setting.name, folds)
    keys: dict[str, Any] = {
        "name": lambda line: line.name,
        "accuracy": lambda line: -1.0 if line.accuracy is None else -line.accuracy,
        "date": lambda line: -line.changed,
    }
    selected = [line for line in lines if config.status is None or line.status in config.status]
    return sorted(selected, key=keys[config.sort])


def _fold_line(path: Path, is_tried: bool) -> Listed:
    """Read a run folder."""
    name, files = f"{path.parent.name}/{path.name}", [*path.glob("*.json"), *path.glob("*.csv")]
    changed = max((file.stat().st_mtime for file in files), default=path.stat().st_mtime)
    folds, accuracy, status = 0, None, _status(path)
    try:
        folds = int(parse_json((path / "record.json").read_text("utf-8"))["settings"]["folds"])
        if status in {"finished", "partial"}:
            metrics = parse_json((path / "metrics.json").read_text("utf-8"))
            accuracy = float(metrics["test"]["accuracy"])
            status = "partial" if metrics.get("partial") else status
    except (OSError, ValueError, KeyError, TypeError):
        status = status if status == "running" else "damaged"
    listed = None if is_tried else accuracy  # what a nested search tried must not be chosen by it
    return Listed(name, status, int(status == "finished"), folds, listed, changed)


def _status(path: Path) -> Status:
    """What became of a run, but for what its files hold."""
    from signlang.errors import RunError
    from signlang.runs.lifecycle import FoldState, unfinished_fold

    if (path / "metrics.json").is_file():
        return "finished"
    if _is_locked(path):
        return "running"
    try:
        state = unfinished_fold(path).state
    except RunError:
        return "damaged"
    states: dict[FoldState, Status] = {
        FoldState.FAILED: "failed", FoldState.DIVERGED: "diverged",
    }  # fmt: skip
    return states.get(state, "interrupted")


def _is_locked(path: Path) -> bool:
    """Whether a process is at work in a run folder."""
    from signlang import locks
    from signlang.runs.folder import LOCK

    return locks.is_held(path / LOCK)


def _setting_lines(name: str, folds: Sequence[Listed]) -> list[Listed]:
    """One line for the folds of a setting; none if it has no run."""
    if not folds:
        return []
    values = [fold.accuracy for fold in folds if fold.finished and fold.accuracy is not None]
    return [
        Listed(
            name=name,
            status=min((fold.status for fold in folds), key=ORDER.index),
            finished=sum(fold.finished for fold in folds),
            folds=max(fold.folds for fold in folds),
            accuracy=sum(values) / len(values) if values else None,
            changed=max(fold.changed for fold in folds),
        )
    ]


HEADER: Final = "  status       folds  accuracy  date              run"


def _table_lines(
    studies: Iterable[tuple[str, list[Listed]]], runs_dir: Path, width: int
) -> list[str]:
    """The table: names come last, and stand on a line of their own where they are too long."""
    text: list[str] = []
    for study, lines in studies:
        text += [*([""] if text else []), str(runs_dir / study), HEADER]
        for line in lines:
            folds = f"{line.finished}/{line.folds}" if line.folds else str(line.finished)
            folds = "" if "/" in line.name else folds
            accuracy = "-" if line.accuracy is None else f"{line.accuracy:.4f}"
            date = f"{datetime.fromtimestamp(line.changed):%Y-%m-%d %H:%M}"
            columns = f"  {line.status:11}  {folds:>5}  {accuracy:>8}  {date}"
            row = f"{columns}  {line.name}"
            text += [row] if len(row) <= width else [columns, f"    {line.name}"]
    if not text:
        return [f"No run in {runs_dir}. Train something, or say where runs are with runs_dir=DIR."]
    return text


def main() -> None:
    """Entry point of the command."""
    run(list_runs, "list")


if __name__ == "__main__":
    main()
