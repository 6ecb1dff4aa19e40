"""Many settings are read and calibrated by processes; the comparison is that of one process."""

import logging
from pathlib import Path

import pytest
from test_report import write_run
from test_study import of_folds

from signlang.console import log
from signlang.errors import RunError
from signlang.metrics.classification import Predictions
from signlang.runs import folder, results
from signlang.runs.folder import RunFolder
from signlang.studies import prefetch
from signlang.studies.comparison import compare_study
from signlang.studies.study import cross_fit, wanted_precision

NEVER = 10**9
MODELS = {"one": (1.0, 0.5), "two": (0.75, 0.875), "three": (0.625, 0.75)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Finished runs with checksums."""
    for model, accuracies in MODELS.items():
        for fold, accuracy in enumerate(accuracies):
            run = RunFolder(
                write_run(tmp_path / "s", {"model": model}, fold, accuracy=accuracy, each=20)
            )
            run.finish(run.metrics() or {})
    return tmp_path / "s"


def content_of(place: Path) -> dict[str, bytes]:
    """Every file but the events, which hold the time."""
    files = (path for path in place.rglob("*") if path.is_file() and "events" not in path.name)
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose predictions this process reads, as it does."""
    names, read = [], results.read_predictions

    def reading(run: RunFolder, fold: int) -> Predictions:
        names.append(f"{run.path.parent.name}/{run.path.name}")
        return read(run, fold)

    monkeypatch.setattr(results, "read_predictions", reading)
    return names


def test_processes_change_nothing(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_here: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Neither files nor warnings: what is odd is read where it is used."""
    changed = study / "two" / "fold=1" / "data.csv"
    changed.write_text(changed.read_text("utf-8") + "\n", "utf-8")
    logs = []
    for fewest, out in ((NEVER, "alone"), (1, "together")):
        monkeypatch.setattr(prefetch, "FEWEST", fewest)
        folder._warn_of_change.cache_clear()
        read_here.clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            compare_study(study, tmp_path / out)
        logs.append([record.getMessage() for record in caplog.records])
    assert read_here == ["two/fold=1"]
    assert logs[0] == logs[1]
    assert any(str(changed) in line for line in logs[1])
    alone, together = content_of(tmp_path / "alone"), content_of(tmp_path / "together")
    assert alone.keys() == together.keys()
    assert [name for name, content in alone.items() if content != together[name]] == []
    assert b'"temperature"' in alone["calibration.json"]


@pytest.mark.parametrize("lost", [None, 1])
def test_damaged_predictions_are_refused_alike(
    study: Path, monkeypatch: pytest.MonkeyPatch, lost: int | None
) -> None:
    """Of two damaged runs the same one is named."""
    for model in ("three", "two"):
        file = study / model / "fold=1" / "predictions.csv"
        if lost is None:
            file.unlink()
        else:
            file.write_text("\n".join(file.read_text("utf-8").splitlines()[:-lost]), "utf-8")
    errors = []
    for fewest in (NEVER, 1):
        monkeypatch.setattr(prefetch, "FEWEST", fewest)
        with pytest.raises(RunError) as caught:
            compare_study(study)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert f"{study / 'two' / 'fold=1' / 'predictions.csv'}" in errors[0]


def test_a_calibration_that_fails_there_is_fitted_here(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same refusal."""
    (study / "two" / "fold=0" / "calibration.json").write_text("{", "utf-8")
    for fewest in (NEVER, 1):
        monkeypatch.setattr(prefetch, "FEWEST", fewest)
        with pytest.raises(RunError, match=r"calibration\.json cannot be read"):
            compare_study(study, tmp_path / str(fewest))


def test_settings_of_other_images_are_fitted_apart(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that were sent together; a run without a readable calibration is left out."""
    for name in ("handlers", "propagate"):  # the log of a process is silent
        monkeypatch.setattr(log, name, getattr(log, name))
    run, damaged = study / "one" / "fold=0", study / "two" / "fold=0"
    (damaged / "calibration.json").write_text("{", "utf-8")
    sets = [of_folds(), of_folds(1), of_folds(2, n=90), of_folds()]
    tasks = [(run, [one]) for one in sets[:3]] + [(damaged, [sets[3]])]
    *fitted, left_out = prefetch._fit_all(tasks, asked_by=-1)
    assert left_out is None
    for result, predictions in zip(fitted, sets[:3], strict=True):
        assert result is not None
        assert result.as_json() == cross_fit(predictions, wanted_precision(run)).as_json()
