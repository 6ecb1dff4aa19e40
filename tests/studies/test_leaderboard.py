"""All tables of a study read one table of columns: what it explains, sorts and writes."""

import csv
import json
import re
from pathlib import Path

import pytest
from test_report import ranking_of, write_two_models

from signlang import console
from signlang.studies import comparison, leaderboard
from signlang.studies.leaderboard_columns import (
    COLUMNS,
    EACH_FOLD,
    MARKDOWN,
    RANK,
    REPORT,
    TERMINAL,
    chosen,
    csv_columns,
)
from signlang.studies.study import read_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_two_models(tmp_path / "s")


def test_every_column_of_a_table_has_a_title_and_is_explained() -> None:
    for column in chosen({*MARKDOWN, *TERMINAL, *REPORT} - {RANK}):
        assert column.title, column.key
        assert column.meaning or column.key == "label", column.key
    assert len({column.title for column in COLUMNS.values() if column.title}) == sum(
        bool(column.title) for column in COLUMNS.values()
    )


def test_the_tables_have_the_titles_of_the_columns(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ranking_of(study)
    leaderboard.write_markdown(found, study)
    text = (study / "leaderboard.md").read_text("utf-8")
    (header,) = (line for line in text.splitlines() if "network and settings" in line)
    titles = [column.title for column in chosen(MARKDOWN)]
    titles[titles.index(COLUMNS["accuracy"].title)] = leaderboard.FOLDS_AND_MEAN
    assert header == f"| {' | '.join(titles)} |"
    assert f"- calibration error: {COLUMNS['calibration_error'].meaning}." in text
    shown: list[list[str]] = []
    monkeypatch.setattr(console, "show_columns", lambda _, header, *__, **___: shown.append(header))
    leaderboard.show_leaderboard(found)
    assert shown == [[column.heading for column in chosen(TERMINAL)]]
    page = comparison.report_page(found)
    explained = {row[0] for row in page.sections[-1].blocks[2].rows}  # type: ignore[union-attr]
    assert explained == {c.title for c in (*chosen(REPORT), EACH_FOLD)} - {"network and settings"}


def test_of_very_many_settings_the_screen_shows_the_first(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "verbose", lambda: True)
    leaderboard.show_leaderboard(ranking_of(study))
    assert "more: see leaderboard.md" not in capsys.readouterr().out
    monkeypatch.setattr(leaderboard, "MOST_SHOWN", 1)
    leaderboard.show_leaderboard(ranking_of(study), "model")
    shown = capsys.readouterr().out
    table = shown[: shown.index("and 1 more: see leaderboard.md")]
    assert re.search(r"^ *2 +one ", table, re.MULTILINE)
    assert not re.search(r"^ *1 +two ", table, re.MULTILINE)


def test_the_best_value_of_each_column_is_sorted_first(study: Path) -> None:
    found = ranking_of(study)
    for key, first in {
        "accuracy": "two", "accuracy_fold_0": "one", "accuracy_fold_1": "two",
        "accuracy_2sd": "two", "model": "one", RANK: "two",
    }.items():  # fmt: skip
        assert leaderboard.ranked(found, key)[0][1]["model"] == first, key


def test_the_file_has_all_columns_and_reads_back(study: Path) -> None:
    leaderboard.write_leaderboard(ranking_of(study), study)
    with (study / "leaderboard.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == list(csv_columns(read_study(study)))
    assert [row["accuracy"] for row in rows] == ["0.812500", "0.750000"]
    assert [row["accuracy_fold_1"] for row in rows] == ["0.875000", "0.500000"]
    assert [row["rank"] for row in rows] == ["1", "2"]


def test_a_time_that_was_taken_beside_other_jobs_is_marked(study: Path) -> None:
    column = COLUMNS["latency_ms"]
    assert [column.text(row) for row in ranking_of(study).rows] == ["3.00", "3.00"]
    file = study / "two" / "fold=1" / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["cost"]["latency_alone"] = False
    file.write_text(json.dumps(metrics))
    ranking = ranking_of(study)
    texts = {row.setting.name: column.text(row) for row in ranking.rows}
    assert texts == {"one": "3.00", "two": "3.00†"}
    assert "† means that other jobs" in column.meaning
    alone = {row.setting.name: COLUMNS["latency_alone"].value(row) for row in ranking.rows}
    assert alone == {"one": None, "two": "false"}
