"""metrics.json and record.json are read back as they are, or refused in a sentence."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from signlang.errors import RunError
from signlang.files import write_csv
from signlang.runs.folder import Search, Trial, read_searches, write_search
from signlang.runs.identity import FORMAT
from signlang.runs.results import Run, read_run, require_run

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
    "data": {"fingerprint": "d", "images": 10, "classes": 2, "train": 7, "test": 2},
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
        ({"cost.flops": True}, r"cost\.flops=true: it must be a number or null\."),
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
    assert math.isnan(run.recorded_metric("loss"))
    assert run.recorded_metric("accuracy") == 0.9


def test_metrics_of_later_versions_may_have_more_keys(tmp_path: Path) -> None:
    run = read_run(run_of(tmp_path, {"energy": 5, "test.top5": 1.0}))
    assert run is not None
    assert run.metrics["energy"] == 5


def test_metrics_without_a_record_are_refused(tmp_path: Path) -> None:
    (run_of(tmp_path) / "record.json").unlink()
    with pytest.raises(RunError, match=rf"^{tmp_path / 'record.json'} is missing\. Train this"):
        read_run(tmp_path)
    run_of(tmp_path, {"fingerprint": "g"})
    with pytest.raises(RunError, match=rf"^{tmp_path / 'metrics.json'} and record.json beside it"):
        read_run(tmp_path)


def test_settings_are_those_but_the_fold(tmp_path: Path) -> None:
    run = read_run(run_of(tmp_path, record={"settings.seed": 3}))
    assert run is not None
    assert run.settings == {"folds": 5, "seed": 3}


def test_what_is_no_finished_run_is_told_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    for path in (tmp_path / "bundle", tmp_path / "bundle" / "bundle.json"):
        with pytest.raises(RunError, match=rf"no run folder: if it is a bundle, say bundle={path}"):
            require_run(path)
    for name in ("fold=1", "fold=0"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        run_of(tmp_path / "runs" / name)
    with pytest.raises(RunError, match=r"holds several runs: give one of fold=0, fold=1\."):
        require_run(tmp_path / "runs")
    assert require_run(tmp_path / "runs" / "fold=0").recorded_metric("accuracy") == 0.9
    (tmp_path / "runs" / "fold=0" / "metrics.json").unlink()
    with pytest.raises(RunError, match="is a run that is not finished"):
        require_run(tmp_path / "runs" / "fold=0")
    with pytest.raises(RunError, match="is no run folder"):
        require_run(tmp_path)


ROWS = [
    ["1.png", "A", "A", "0.7", "0.7", "0.3"],
    ["2.png", "B", "B", "0.8", "0.2", "0.8"],
    ["3.png", "B", "A", "1", "1", "0"],
]


def with_predictions(folder: Path, rows: list[list[str]], accuracy: float = 2 / 3) -> Run:
    """A run of three images, two of them recognised, and a table of its predictions."""
    run_of(folder, {"test.accuracy": accuracy})
    (folder / "classes.json").write_text('["A", "B"]')
    header = ["path", "label", "predicted", "confidence", "p_A", "p_B"]
    write_csv(folder / "predictions.csv", header, rows)
    images = [[row[0], row[1], "s" + row[0][0], "test"] for row in ROWS]
    write_csv(folder / "data.csv", ["path", "label", "signer", "subset"], images)
    run = read_run(folder)
    assert run is not None
    return run


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = with_predictions(tmp_path, ROWS).predictions
    assert found.classes == ("A", "B")
    assert found.paths == ("1.png", "2.png", "3.png")
    assert found.labels.tolist() == [0, 1, 1]
    assert found.probabilities.tolist() == [[0.7, 0.3], [0.2, 0.8], [1, 0]]
    assert found.folds.tolist() == [0, 0, 0]
    assert found.signers == ("s1", "s2", "s3")
    assert found.correct.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "is empty, or holds probabilities that are none"),
        ([*ROWS[:2], [*ROWS[2][:4], "0.5", "0.4"]], "holds probabilities that are none"),
        ([*ROWS[:2], [*ROWS[2][:4], "1.5", "-0.5"]], "holds probabilities that are none"),
        ([*ROWS[:2], [*ROWS[2][:4], "nan", "0"]], "holds probabilities that are none"),
        ([*ROWS[:2], [*ROWS[2][:4], "much", "0"]], "is damaged .*much"),
        ([*ROWS[:2], ROWS[2][:5]], "is damaged in line 4"),
        ([*ROWS[:2], ["3.png", "C", *ROWS[2][2:]]], "is damaged in line 4"),
        (ROWS[:2], r"holds 2 images, but the test fold in data\.csv has 3"),
        ([*ROWS, ROWS[0]], r"holds 4 images, but the test fold in data\.csv has 3"),
        ([*ROWS[:2], ["4.png", *ROWS[2][1:]]], "it was cut off or is of another run"),
    ],
)
def test_predictions_that_cannot_be_are_refused(
    rows: list[list[str]], sentence: str, tmp_path: Path
) -> None:
    run = with_predictions(tmp_path, rows)
    with pytest.raises(RunError, match=rf"predictions\.csv.*{sentence}.* Train this run again"):
        _ = run.predictions


def test_one_image_more_is_noticed(tmp_path: Path) -> None:
    run = with_predictions(tmp_path, ROWS, accuracy=1.0)
    with pytest.raises(RunError, match=r"has 2 of 3 images right, but metrics\.json beside it an"):
        _ = run.predictions


def test_the_column_of_predictions_decides_where_digits_are_the_same(tmp_path: Path) -> None:
    tie = ["3.png", "B", "B", "0.5", "0.5", "0.5"]
    run = with_predictions(tmp_path, [*ROWS[:2], tie], accuracy=1.0)
    assert run.predictions.correct.all()
    wrong = ["3.png", "B", "B", "0.6", "0.6", "0.4"]
    run = with_predictions(tmp_path, [*ROWS[:2], wrong], accuracy=1.0)
    with pytest.raises(RunError, match=r"damaged in line 4: B is predicted, which is not the most"):
        _ = run.predictions


def test_metrics_are_those_of_the_predictions_and_others_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*ROWS[:2], ["3.png", "B", "A", "0.9", "0.9", "0.1"]]
    run = with_predictions(tmp_path, rows)
    labels, p = ["A", "B", "B"], np.array([[0.7, 0.3], [0.2, 0.8], [0.9, 0.1]])
    expected = {
        "accuracy": 2 / 3,
        "macro_f1": f1_score(labels, ["A", "B", "A"], average="macro"),
        "loss": log_loss(labels, p),
        "calibration_error": (0.3 + 0.2 + 0.9) / 3,
    }
    assert {name: run.metric(name) for name in expected} == pytest.approx(expected)
    (line,) = caplog.messages
    assert line.startswith(
        f"{tmp_path / 'metrics.json'} does not follow from predictions.csv besid"
    )
    assert "macro_f1 1 there, 0.666667 by the predictions; loss 0.3 there, " in line
    caplog.clear()
    content = json.loads((tmp_path / "metrics.json").read_text())
    content["test"] = expected
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    again = read_run(tmp_path)
    assert again is not None
    assert again.metric("loss") == pytest.approx(expected["loss"])
    assert not caplog.messages


def test_a_loss_that_six_decimals_do_not_give_is_believed(tmp_path: Path) -> None:
    rows = [*ROWS[:2], ["3.png", "B", "A", "1.000000", "1.000000", "0.000000"]]
    assert with_predictions(tmp_path, rows).metric("loss") == METRICS["test"]["loss"]


def test_predictions_bear_out_the_accuracy(tmp_path: Path) -> None:
    run = with_predictions(tmp_path, ROWS, accuracy=0.0)
    with pytest.raises(RunError, match=r"has 2 of 3 images right, but metrics\.json beside it an"):
        _ = run.predictions


def test_folds_of_a_nested_search_may_be_searched_by_several_commands(tmp_path: Path) -> None:
    def search(fold: int, trials: int = 1, rates: str = "0.1,0.2") -> None:
        tried = [Trial(fold=fold, setting="cnn,lr=0.1", values={}, validation=0.5, chosen=True)]
        write_search(tmp_path, Search(
            name="cnn", nested=True, trials=trials, folds=[fold], space={"lr": rates},
            words=["-m"], tried=tried,
        ))  # fmt: skip

    def chosen() -> dict[int, bool]:
        (read,) = read_searches(tmp_path)
        assert read.folds == sorted(trial.fold for trial in read.tried)
        return {trial.fold: trial.chosen for trial in read.tried}

    for fold in (1, 0, 1):
        search(fold)
    assert chosen() == {0: True, 1: True}
    search(1, trials=2)
    assert chosen() == {0: False, 1: True}, "fold 0 has too few trials for its choice"
    with pytest.raises(RunError, match=r"lr: 0\.1,0\.2 there, 0\.3 now"):
        search(1, rates="0.3")
