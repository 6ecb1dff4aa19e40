"""Studies are written as run folders and compared in this process; the files are read back."""

import csv
import json
import math
from pathlib import Path

import pytest
from boards import events_of
from test_report import TWO_MODELS, write_run, write_two_models

from signlang import console
from signlang.errors import RunError, SettingError
from signlang.metrics.significance import clustered_interval
from signlang.studies import comparison, leaderboard
from signlang.studies.leaderboard_columns import COLUMNS
from signlang.studies.ranking import rank_settings
from signlang.studies.study import read_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_two_models(tmp_path / "s")


def test_a_complete_study_is_written_and_shown(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, str] = {}
    monkeypatch.setattr(console, "show_table", lambda title, rows, paths: shown.update(paths))
    out = tmp_path / "out" / "inner"
    ranking = comparison.compare_study(study, out)
    assert [row.setting.name for row in ranking.rows] == ["two", "one"]
    assert {path.name for path in out.iterdir()} == {
        "leaderboard.csv", "leaderboard.md", "predictions.csv", "report.html", "figures",
        "cross_validated", "calibration.json",
    }  # fmt: skip
    assert shown == {
        "report": str(out / "report.html"),
        "dashboards": f"tensorboard --logdir {out / 'cross_validated'}",
    }
    assert not (study / "leaderboard.md").exists()


def test_an_incomplete_study_is_compared_on_request_alone(study: Path) -> None:
    write_run(study, {"model": "half"}, 1)
    with pytest.raises(RunError, match="half has 1 of 2 folds: fold 0 was not started") as caught:
        comparison.compare_study(study)
    assert str(caught.value).endswith("look at what there is with allow_incomplete=true.")
    assert not (study / "leaderboard.md").exists()
    assert len(comparison.compare_study(study, allow_incomplete=True).rows) == 3
    assert "half has 1 of 2 folds" in (study / "leaderboard.md").read_text("utf-8")
    with pytest.raises(SettingError, match=r"sort=accurate: there is no such column\. .*accuracy"):
        comparison.compare_study(study, allow_incomplete=True, sort="accurate")


@pytest.mark.parametrize("inner", ["", "more"])
def test_nothing_is_written_into_a_run(study: Path, inner: str) -> None:
    ranking = rank_settings(read_study(study))
    with pytest.raises(SettingError, match=r"belongs to a run, whose files are not touched"):
        comparison.write_comparison(ranking, study / "one" / "fold=0" / inner)
    assert not (study / "one" / "fold=0" / "more").exists()


def test_the_table_in_markdown_counts_settings_and_marks_the_best(
    study: Path, tmp_path: Path
) -> None:
    leaderboard.write_markdown(rank_settings(read_study(study)), tmp_path)
    text = (tmp_path / "leaderboard.md").read_text("utf-8")
    assert "\n2 settings, which differ in model. Written by `signlang.compare`" in text
    first, second = (
        line.split(" | ") for line in text.splitlines() if line.startswith(("| 1", "| 2"))
    )
    assert first[1:4] == ["two", "0.7500 0.8750: **0.8125 ± 0.1768**", "best"]
    assert second[1:3] == ["one", "1.0000 0.5000: **0.7500 ± 0.7071**"]
    assert second[3] != "best"
    write_run(tmp_path / "t", {"model": "cnn"}, folds=1)
    leaderboard.write_markdown(rank_settings(read_study(tmp_path / "t")), tmp_path)
    text = (tmp_path / "leaderboard.md").read_text("utf-8")
    assert "\n1 setting. Written by `signlang.compare`" in text
    assert "| **0.7500** |" in text


def test_every_incomplete_setting_is_listed_with_what_helps(study: Path, tmp_path: Path) -> None:
    diverged = write_run(study, {"model": "a"}, 1)
    write_run(study, {"model": "a"}, 0)
    metrics = json.loads((diverged / "metrics.json").read_text())
    metrics["test"]["loss"] = math.nan
    (diverged / "metrics.json").write_text(json.dumps(metrics))
    write_run(study, {"model": "b"}, 1, accuracy=0.5)
    leaderboard.write_markdown(rank_settings(read_study(study)), tmp_path)
    _, _, missing = (tmp_path / "leaderboard.md").read_text("utf-8").partition("is missing\n")
    first, second, *_ = missing.strip().split("\n\n")
    assert "has 1 of 2 folds: fold 1 diverged" in first
    assert "Complete it" not in first
    assert second.endswith("Complete it with")
    assert f"\n    python -m signlang.train -m model=b runs_dir={tmp_path} fold=0\n" in missing


def test_figures_of_the_file_are_those_of_the_runs(study: Path, tmp_path: Path) -> None:
    leaderboard.write_leaderboard(rank_settings(read_study(study)), tmp_path, "model")
    with (tmp_path / "leaderboard.csv").open(newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert (first["model"], second["model"]) == ("one", "two")
    for row, right in ((first, 24), (second, 26)):
        interval = [float(row["accuracy_low"]), float(row["accuracy_high"])]
        (setting,) = (s for s in read_study(study).settings if s.name == row["model"])
        correct, signers = setting.predictions.correct, setting.predictions.signers
        assert correct.sum() == right
        assert interval == pytest.approx(clustered_interval(correct, signers), abs=1e-6)
        assert row["clusters"] == "8 signers"
    assert first["seconds"] == "150.000000"
    assert (second["p"], second["difference_low"]) == ("", "")
    assert float(first["difference_low"]) < 2 / 32 < float(first["difference_high"])
    assert first["p_mcnemar"] == ""  # images of one signer are not independent
    assert float(first["p"]) > 0.05
    assert COLUMNS["flops"].text(rank_settings(read_study(study)).rows[0]) == "200.00"


def test_values_that_are_not_known_come_last_whatever_the_order(study: Path) -> None:
    write_run(study, {"model": "none"}, 1, accuracy=0.25)
    ranking = rank_settings(read_study(study))
    for key, models in {
        "accuracy_fold_0": ["one", "two", "none"], "accuracy_2sd": ["two", "one", "none"],
        "difference_low": ["none", "one", "two"],
    }.items():  # fmt: skip
        assert [line["model"] for _, line in leaderboard.ranked(ranking, key)] == models, key


def test_tensorboard_has_the_means_and_each_fold(study: Path, tmp_path: Path) -> None:
    place = leaderboard.write_tensorboard(rank_settings(read_study(study)), tmp_path)
    for model, accuracies in TWO_MODELS.items():
        events = events_of(place / model)
        assert [(e.step, e.value) for e in events.Scalars("test/each fold/accuracy")] == [
            *enumerate(accuracies)
        ]
        assert [e.value for e in events.Scalars("test/accuracy")] == [sum(accuracies) / 2]
