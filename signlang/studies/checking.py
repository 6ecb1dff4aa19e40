"""The folder of a run comes in; its figures, found to be usable, go out."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from signlang.errors import RunError
from signlang.runs.folder import RunFolder
from signlang.studies.runs import FIGURES, SHARES, Run, read_history

ROUNDING: Final = 1e-5  # a macro F1 of 1 is summed up in float32
WORDS: Final = ("model", "data", "split", "protocol", "fold", "folds", "seed", "fingerprint")
RECORD: Final = {"settings": dict, "data": dict, "overrides": list, "signlang": str}
DATA: Final = ("fingerprint", "pictures", "classes", "test")


def read_run(path: Path) -> Run | None:
    """Read the figures of a run; None if it is not finished.

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
    read_history(path)  # a damaged one is to be known before anything is written
    return Run(path, metrics, record)


def _lacking(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    lacking = [key for key in WORDS if key not in metrics]
    lacking += ["status"] * (metrics.get("status") != "finished")
    lacking += [".".join(k) for name, k in FIGURES.items() if not _is_usable(metrics, name)]
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
    most = 1 + ROUNDING if name in SHARES else math.inf
    return not math.isfinite(loss) or 0 <= value < most


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value: Any = metrics
    for key in FIGURES[name]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
