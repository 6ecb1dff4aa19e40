"""A network that learned nothing: every command that shows its accuracy says so."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, Result, run_command
from PIL import Image

SENTENCE = "No better than chance: "


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of images that no network can tell apart."""
    folder = tmp_path_factory.mktemp("data") / "grey"
    for name in ("A", "B", "C"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.full((32, 32, 3), 120 + number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def dead(grey: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of a run that learned nothing, and what its command said."""
    place = tmp_path_factory.mktemp("dead")
    words = [*QUICK, f"data.root={grey}", "trainer.max_epochs=1"]
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


def test_the_evaluation_says_so(dead: tuple[Path, Result], grey: Path, tmp_path: Path) -> None:
    words = [f"run={dead[0]}", "data=folder", f"data.root={grey}", f"out={tmp_path}"]
    result = run_command(tmp_path, *words, verb="evaluate")
    assert SENTENCE in result.err
    assert SENTENCE in (tmp_path / "report.html").read_text("utf-8")
    assert SENTENCE in str(json.loads((tmp_path / "metrics.json").read_text())["remarks"])


def test_the_export_and_its_card_say_so(dead: tuple[Path, Result], tmp_path: Path) -> None:
    result = run_command(tmp_path, f"run={dead[0]}", f"out={tmp_path / 'b'}", verb="export")
    assert result.code == 0, result.err
    assert SENTENCE in result.out
    assert SENTENCE in (tmp_path / "b" / "card.html").read_text("utf-8")
