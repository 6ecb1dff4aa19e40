"""metrics.json and record.json are read back as they are, or refused in a sentence."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from signlang.errors import RunError
from signlang.runs.identity import FORMAT
from signlang.runs.results import read_run

METRICS: Mapping[str, Any] = {
    "status": "finished",
    "model": "simple_cnn",
    "data": "digits",
    "split": "stratified",
    "protocol": "test fold untouched",
    "fold": 0,
    "folds": 5,
    "seed": 0,
    "test": {"accuracy": 0.9, "macro_f1": 1.000001, "calibration_error": 0.1, "loss": 0.3},
    "validation": {"accuracy": 1},
    "cost": {"parameters": 10, "flops": 20, "size_mb": 0.1, "latency_ms": 1.5},
    "epochs": 2,
    "seconds": 3.5,
    "images_per_second": 100.0,
    "fingerprint": "f",
}
RECORD: Mapping[str, Any] = {
    "format": FORMAT,
    "signlang": "0.1",
    "fingerprint": "f",
    "overrides": ["fold=0"],
    "settings": {"folds": 5, "fold": 0},
    "data": {"fingerprint": "d", "images": 10, "classes": 2, "test": 2},
}


def changed(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set values by dotted keys; None deletes."""
    result: dict[str, Any] = json.loads(json.dumps(content))
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = result
        for parent in parents:
            place = place[parent]
        place[last] = value
        if value is None:
            del place[last]
    return result


def run_of(
    folder: Path, metrics: Mapping[str, Any] | None = None, record: Mapping[str, Any] | None = None
) -> Path:
    (folder / "metrics.json").write_text(json.dumps(changed(METRICS, metrics or {})))
    (folder / "record.json").write_text(json.dumps(changed(RECORD, record or {})))
    return folder


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"test.accuracy": 1.1}, r"test\.accuracy=1\.1: it must be a number from 0 to 1\."),
        ({"test.accuracy": math.nan}, r"test\.accuracy=nan: it must be a number\."),
        ({"test.loss": -0.1}, r"test\.loss=-0\.1: it must be a number of at least 0\."),
        ({"test.loss": "low"}, r"test\.loss=low: it must be a number\."),
        ({"validation": None}, r"validation is missing: it must be a mapping of keys to values\."),
        ({"cost.flops": True}, r"cost\.flops=true: it must be a number\."),
        ({"cost.size_mb": math.inf}, r"cost\.size_mb=inf: it must be a number\."),
        ({"fold": -1}, r"fold=-1: it must be a whole number of at least 0\."),
        ({"status": "started"}, r"status=started: it must be finished\."),
    ],
)
def test_metrics_that_cannot_be_are_refused(
    metrics: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    whole = rf"metrics\.json, written by signlang 0\.1: {sentence} Train this run again with overw"
    with pytest.raises(RunError, match=whole):
        read_run(run_of(tmp_path, metrics))


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"format": FORMAT + 1}, rf"is of format {FORMAT + 1}, this version .* format {FORMAT}:"),
        ({"format": None}, rf"is of format 1, this version .* format {FORMAT}:"),
        ({"overrides": "fold=0"}, r"overrides=fold=0: it must be a list\. Train this run again"),
        ({"data.test": None}, r"data\.test is missing: it must be a whole number of at least 0\."),
        ({"settings": []}, r"settings=\[\]: it must be a mapping of keys to values\."),
    ],
)
def test_records_that_cannot_be_are_refused(
    record: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=rf"record\.json.*{sentence}"):
        read_run(run_of(tmp_path, record=record))


def test_a_run_that_diverged_may_lack_numbers(tmp_path: Path) -> None:
    nothing = {"test.loss": math.nan, "test.calibration_error": math.nan}
    run = read_run(run_of(tmp_path, nothing))
    assert run is not None
    assert math.isnan(run.metric("loss"))
    assert run.metric("accuracy") == 0.9


def test_metrics_of_later_versions_may_have_more_keys(tmp_path: Path) -> None:
    run = read_run(run_of(tmp_path, {"energy": 5, "test.top5": 1.0}))
    assert run is not None
    assert run.metrics["energy"] == 5
