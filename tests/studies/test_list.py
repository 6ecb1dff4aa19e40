"""The list of studies and runs: what became of each, in 80 columns, before torch is there."""

import fcntl
import json
import re
from pathlib import Path

import pytest
from conftest import Result
from test_command_line import watched
from test_report import write_run

BAD = "2026-11-25 03:14:00,000 ERROR signlang: the run failed\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two studies; each fold of `second` ended in another way."""
    for fold, accuracy in enumerate((1.0, 0.5, 0.75)):
        write_run(tmp_path / "runs" / "first", {"model": "good"}, fold, 3, accuracy)
    for fold in range(5):
        run = write_run(tmp_path / "runs" / "second", {"model": "cnn"}, fold, folds=6)
        if fold:
            (run / "metrics.json").unlink()
    second = tmp_path / "runs" / "second" / "cnn"
    (second / "fold=1" / "run.log").write_text(BAD)
    (second / "fold=2" / "diverged.json").write_text('{"epoch": 3, "loss": "nan"}')
    (second / "fold=4" / "record.json").write_text("{")
    return tmp_path


def listed(place: Path, *words: str) -> Result:
    return watched(place, "signlang.list", *words)


def test_every_setting_has_a_line_with_what_became_of_it(place: Path) -> None:
    shown = listed(place)
    assert (shown.code, shown.err) == (0, "")
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0] == ["runs/first"]
    assert lines[2][:3] == ["finished", "3/3", "0.7500"]
    assert lines[2][-1] == "good"
    assert lines[4] == ["runs/second"]
    assert lines[6][:2] == ["failed", "1/6"]


def test_a_study_shows_every_fold_and_its_status(place: Path) -> None:
    cnn = place / "runs" / "second" / "cnn"
    states = ["finished", "failed", "diverged", "interrupted", "damaged"]
    for word in ("second", "study=second", "runs/second"):
        lines = [line.split() for line in listed(place, word).out.splitlines()[2:]]
        assert [line[0] for line in lines] == states
        assert [line[-1] for line in lines] == [f"cnn/fold={fold}" for fold in range(5)]
    with (cnn / "fold=3" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = [line.split() for line in listed(place, "second").out.splitlines()[2:]]
        assert lines[3][0] == "running"
        assert listed(place, "status=running").out.count("cnn") == 1
    chosen = listed(place, "second", "status=[failed,diverged]").out
    assert [line.split()[0] for line in chosen.splitlines()[2:]] == ["failed", "diverged"]


def test_runs_are_sorted_and_fit_a_narrow_terminal(place: Path) -> None:
    name = "net" + "x" * 70
    write_run(place / "runs" / "first", {"model": name}, folds=1, accuracy=1.0)
    shown = listed(place, "sort=accuracy").out
    assert shown.index(name) < shown.index("good")
    narrow = watched(place, "signlang.list", columns=80).out.splitlines()
    assert all(len(line) <= 80 for line in narrow)
    assert f"    {name}" in narrow  # whole, on a line of its own


def test_what_a_nested_search_tried_shows_no_test_accuracy(place: Path) -> None:
    tried = [{"fold": 0, "setting": "good", "values": {}, "validation": 0.5, "chosen": True}]
    search = {"name": "s", "nested": True, "trials": 1, "folds": [0], "space": {}, "words": [],
              "tried": tried}  # fmt: skip
    (place / "runs" / "first" / "search.json").write_text(json.dumps({"searches": [search]}))
    assert [line.split()[2] for line in listed(place).out.splitlines()[2:3]] == ["-"]
    assert not re.search(r"\d\.\d{4}", listed(place, "first").out)


def test_wrong_words_and_empty_folders_are_told(place: Path) -> None:
    refused = listed(place, "scond")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(
        "study=scond: there is no such study in runs. Did you mean second?"
    )
    assert "Did you mean finished?" in listed(place, "status=finishd").err
    empty = listed(place, "runs_dir=none")
    assert (empty.code, empty.out.startswith("No run in none. Train something")) == (0, True)
