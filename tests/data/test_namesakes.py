"""Two folders of one name: what belongs to the one is not given to the other without a word."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import QUICK, run_command, write_tiny


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Other images in a folder of the same name as the tiny ones."""
    return write_tiny(tmp_path_factory.mktemp("other") / tiny.name, size=16)


def test_a_study_is_of_one_folder(tmp_path: Path, trained: Path, tiny: Path, other: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(trained.parents[2], runs)
    words = [*QUICK, "trainer.max_epochs=1", "verbose=false", f"runs_dir={runs}"]
    refused = run_command(tmp_path, *words, f"data.root={other}")
    assert refused.code == 1
    name = trained.parents[1].name
    assert f"has the runs of another folder of that name, {tiny}" in refused.err
    assert f"e.g. study={other.parent.name}_{name}, or say study={name}" in refused.err
    assert len(list(runs.glob("*/*/*"))) == 1  # nothing was begun


def test_a_card_and_an_evaluation_are_of_one_folder(
    tmp_path: Path, trained: Path, tiny: Path, other: Path
) -> None:
    cards, evaluations = tmp_path / "cards", tmp_path / "evaluations"
    name = trained.parents[1].name
    for file, content in (
        (cards / name / "data.json", {"root": str(tiny), "fingerprint": "another"}),
        (
            evaluations / f"{trained.parent.name},fold=0-on-{name}" / "record.json",
            {"data": {"root": str(tiny), "fingerprint": "another"}},
        ),
    ):
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content), "utf-8")
    for verb, words in (
        ("describe", [f"cards_dir={cards}"]),
        ("evaluate", [f"run={trained}", f"evaluations_dir={evaluations}"]),
    ):
        result = run_command(tmp_path, "data=folder", f"data.root={other}", *words, verb=verb)
        assert result.code == 2, result.out
        assert f"another folder of that name, {tiny}" in result.err
        assert f"e.g. data.name={other.parent.name}_{name}" in result.err
    assert json.loads((cards / name / "data.json").read_text("utf-8"))["fingerprint"] == "another"
    assert not list(tmp_path.glob("*/*/*.html"))
