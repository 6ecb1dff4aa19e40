"""Sections of the report of small studies: their sentences, tables and names of figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import write_run

from signlang.reporting.page import ImageBlock, Section, Table, Text
from signlang.studies import comparison, sections
from signlang.studies import plots as study_plots
from signlang.studies.ranking import Ranking, rank_settings
from signlang.studies.study import read_study


def ranking(study: Path) -> Ranking:
    return rank_settings(read_study(study))


def texts(section: Section | None) -> str:
    assert section is not None
    return "\n".join(block.text for block in section.blocks if isinstance(block, Text))


def tables(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


def figures(section: Section | None) -> list[ImageBlock]:
    assert section is not None
    return [block for block in section.blocks if isinstance(block, ImageBlock)]


@pytest.fixture
def one(tmp_path: Path) -> Ranking:
    """One network with two folds."""
    for fold, accuracy in enumerate((0.75, 1.0)):
        write_run(tmp_path / "one", {"model": "cnn"}, fold, accuracy=accuracy)
    return ranking(tmp_path / "one")


@pytest.fixture
def two(tmp_path: Path) -> Ranking:
    """Two networks, each with random folds and with those that keep signers apart."""
    for model, accuracy in (("a", 0.875), ("b", 0.75)):
        for split, less in (("stratified", 0.0), ("signer", 0.25)):
            for fold in range(2):
                words = {"model": model, "split": split}
                write_run(tmp_path / "two", words, fold, accuracy=accuracy - less)
    return ranking(tmp_path / "two")


def test_what_was_compared_is_a_line_for_each_fold_assignment(one: Ranking, two: Ranking) -> None:
    section = sections.compared(one.study)
    (table,) = tables(section)
    name = "split stratified, test fold untouched, 2 folds"
    assert table.rows == [[name, "signs", 40, 2, 20, 1, 2, "0"]]
    assert texts(section) == ""
    section = sections.compared(two.study)
    assert [row[0] for row in tables(section)[0].rows] == [
        name,
        name.replace("stratified", "signer"),
    ]
    assert [row[5:7] for row in tables(section)[0].rows] == [[2, 4], [2, 4]]
    assert texts(section).startswith("The settings differ in model, split, and in what comes with ")


def test_equal_names_of_fold_assignments_get_numbers(tmp_path: Path) -> None:
    for model, seed in (("a", "1"), ("b", "2"), ("c", "1")):
        write_run(tmp_path / "s", {"model": model, "split.seed": seed}, folds=1)
    name = "split stratified, test fold untouched, 1 fold"
    names = sections.fold_assignments(read_study(tmp_path / "s").settings)
    assert list(names.values()) == [name, f"{name} (2)"]


def test_fold_assignments_are_a_column_where_there_are_several(one: Ranking, two: Ranking) -> None:
    section = sections.leaderboard(one)
    (table,) = tables(section)
    assert "fold assignment" not in table.header
    assert "listed together" not in texts(section)
    assert [len(row) for row in table.rows] == [len(table.header)]
    section = sections.leaderboard(two)
    (table,) = tables(section)
    assert table.header[1] == "fold assignment"
    assert "Settings with the same fold assignment are listed together" in texts(section)
    assert [row[0] for row in table.rows] == [
        "a, split stratified", "b, split stratified", "a, split signer", "b, split signer",
    ]  # fmt: skip
    p = table.header.index("p")
    assert [row[p] == "best" for row in table.rows] == [True, False, True, False]
    low, high = two.rows[1].accuracy.interval or (0, 0)
    assert table.rows[1][table.header.index("95 % interval")] == f"{low:.4f} to {high:.4f}"


def test_the_chart_of_costs_says_what_is_in_it(one: Ranking, two: Ranking) -> None:
    section = sections.cost(one)
    assert texts(section).endswith("accuracies further up and further left are better.")
    assert figures(section)[0].alt.endswith("The most accurate is cnn with 0.8750.")
    section = sections.cost(two)
    assert "Each fold assignment has its colour: compare within one colour." in texts(section)
    assert figures(section)[0].alt.startswith("Accuracy of 4 networks against parameters, FLOPs")
    assert figures(section)[0].alt.endswith("is a, split stratified with 0.8750.")


def test_bias_of_random_folds_is_a_line_for_each_network(one: Ranking, two: Ranking) -> None:
    assert sections.splits(one.pairs) is None
    section = sections.splits(two.pairs)
    assert section is not None
    assert [row[:6] for row in tables(section)[0].rows] == [
        ["a", "stratified", "0.8750", "signer", "0.6250", "+0.2500"],
        ["b", "stratified", "0.7500", "signer", "0.5000", "+0.2500"],
    ]


def test_curves_have_the_names_of_their_settings(two: Ranking) -> None:
    section = sections.curves(two)
    assert [(block.name, block.caption) for block in figures(section)] == [
        ("curves", "a, split stratified"), ("curves-2", "b, split stratified"),
        ("curves-3", "a, split signer"), ("curves-4", "b, split signer"),
    ]  # fmt: skip
    assert texts(section) == ""


def test_at_most_six_settings_have_curves_each_network_first(tmp_path: Path) -> None:
    for number in range(7):
        words = {"model": "many", "optimizer.lr": f"0.{number + 1}"}
        write_run(tmp_path / "s", words, folds=1, accuracy=1.0 - number / 16)
    write_run(tmp_path / "s", {"model": "other", "optimizer.lr": "1"}, folds=1, accuracy=0.25)
    found = ranking(tmp_path / "s")
    chosen = sections.selected(found)
    assert [s.choice("optimizer.lr") for s in chosen] == ["0.1", "0.2", "0.3", "0.4", "0.5", "1"]
    assert texts(sections.curves(found)).startswith("Shown are 6 of 8 settings: ")


def test_recall_of_each_class_is_listed_the_worst_first(tmp_path: Path) -> None:
    write_run(tmp_path / "s", {"model": "cnn"}, folds=1, accuracy=0.75)
    section = sections.confusion(ranking(tmp_path / "s"))
    pairs, recalls = tables(section)
    assert pairs.rows == [["A", "B", 2, "25.0%"], ["B", "A", 2, "25.0%"]]
    assert [[*row[:2], *row[3:]] for row in recalls.rows] == [
        ["A", "0.7500", 6, 8], ["B", "0.7500", 6, 8],
    ]  # fmt: skip
    assert recalls.caption == "Accuracy of each class of cnn, the worst first"
    assert figures(section)[0].alt == (
        "Confusion matrix of cnn: 2 classes, 4 of 16 images predicted wrongly."
    )


def test_mistakes_are_named_with_their_signers_where_they_are_known(tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / "images" / name).mkdir(parents=True)
    run = write_run(tmp_path / "s", {"model": "cnn"}, folds=1, root=tmp_path / "images")
    section = sections.mistakes(ranking(tmp_path / "s"))
    (table,) = tables(section)
    assert table.header[-1] == "signer"
    assert table.rows[0] == ["0/0-6.png", "A", "B", "84.0 %", "0", "s6"]
    assert len(table.rows) == 4
    gone = f"The images of cnn cannot be shown: they are not in {tmp_path / 'images'} any more."
    assert gone in texts(section)
    assert not figures(section)
    text = (run / "data.csv").read_text("utf-8")
    (run / "data.csv").write_text(text.replace(",s7,", ",,"), "utf-8")
    (table,) = tables(sections.mistakes(ranking(tmp_path / "s")))
    assert table.header[-1] == "fold"
    assert table.rows[0] == ["0/0-6.png", "A", "B", "84.0 %", "0"]


def test_each_environment_is_named_once(one: Ranking) -> None:
    run = one.study.settings[0].runs[1].path
    record = json.loads((run / "record.json").read_text())
    record |= {"device": "GPU", "started": "2026-02-03T00:00:00", "packages": None}
    (run / "record.json").write_text(json.dumps(record))
    (table,) = tables(sections.provenance_rows(read_study(run.parent.parent)))
    found = {row[0]: row[1] for row in table.rows}
    assert found["device"] == "CPU; GPU"
    assert found["git commit"] == "abc123"
    assert found["torch"] == "2.6; unknown"
    assert found["numpy"] == "unknown"
    assert found["started"] == "2026-01-02 to 2026-02-03"


def test_each_fold_assignment_has_details_of_its_best(two: Ranking) -> None:
    assert [row.label for row in sections.bests(two)] == ["a, split stratified", "a, split signer"]
    section = sections.reliability(two)
    assert [block.name for block in figures(section)] == ["reliability", "reliability-2"]


def test_effects_of_two_factors_are_those_of_their_levels(two: Ranking, one: Ranking) -> None:
    assert comparison.effects(one) is None
    section = comparison.effects(two)
    assert section is not None
    (table,) = tables(section)
    assert [row[:3] for row in table.rows] == [
        ["model", "a", "0.7500 ± 0.2887"], ["model", "b", "0.6250 ± 0.2887"],
        ["split", "signer", "0.5625 ± 0.1443"], ["split", "stratified", "0.8125 ± 0.1443"],
    ]  # fmt: skip
    assert [row[3] for row in table.rows] == [4, 4, 4, 4]
    assert figures(section)[0].alt.endswith("Best levels: model a, split stratified.")


def test_the_key_of_the_chart_of_costs_has_the_fold_assignments_in_it(
    two: Ranking, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[Any] = []
    chart = study_plots.cost_chart

    def recorded(points: Any, groups: Any, chance: Any) -> Any:
        keys.append(groups)
        return chart(points, groups, chance)

    monkeypatch.setattr(study_plots, "cost_chart", recorded)
    sections.cost(two)
    monkeypatch.setattr(sections, "NETWORKS", 1)
    assert "The 1 most accurate of 4 networks are shown." in texts(sections.cost(two))
    names = list(sections.fold_assignments(row.setting for row in two.rows).values())
    assert keys == [names, names[:1]]
