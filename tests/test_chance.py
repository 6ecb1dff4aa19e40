"""A network that learned nothing: every command that shows its accuracy says so."""

import json
from pathlib import Path

import pytest
from conftest import QUICK, Result, run_command

SENTENCE = "No better than chance: "


@pytest.fixture(scope="module")
def dead(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of a run that changed no weight, and what its command said."""
    place = tmp_path_factory.mktemp("dead")
    words = [*QUICK, f"data.root={tiny}", "trainer.max_epochs=1", "optimizer.lr=1e-12"]
    result = run_command(place, *words)
    assert result.code == 0, result.err
    return next(place.glob("runs/*/*/fold=0")), result


def test_the_table_of_the_run_says_so(dead: tuple[Path, Result]) -> None:
    run, result = dead
    (remark,) = json.loads((run / "metrics.json").read_text())["remarks"]
    assert remark.startswith(SENTENCE)
    assert SENTENCE in result.out


def test_the_comparison_says_so(dead: tuple[Path, Result], tmp_path: Path) -> None:
    words = [str(dead[0].parents[1]), "allow_incomplete=true", f"out={tmp_path}"]
    result = run_command(tmp_path, *words, verb="compare")
    assert SENTENCE in result.err
    for name in ("leaderboard.md", "report.html"):
        assert SENTENCE in (tmp_path / name).read_text("utf-8")


def test_the_evaluation_says_so(dead: tuple[Path, Result], tiny: Path, tmp_path: Path) -> None:
    words = [f"run={dead[0]}", "data=folder", f"data.root={tiny}", f"out={tmp_path}"]
    result = run_command(tmp_path, *words, verb="evaluate")
    assert SENTENCE in result.err
    assert SENTENCE in (tmp_path / "report.html").read_text("utf-8")
    assert SENTENCE in str(json.loads((tmp_path / "metrics.json").read_text())["remarks"])


def test_the_export_and_its_card_say_so(dead: tuple[Path, Result], tmp_path: Path) -> None:
    result = run_command(tmp_path, f"run={dead[0]}", f"out={tmp_path / 'b'}", verb="export")
    assert result.code == 0, result.err
    assert SENTENCE in result.out
    assert SENTENCE in (tmp_path / "b" / "card.html").read_text("utf-8")
