"""experiment=strangers: points of several data sets, each tested by what the others teach."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import run_command

SHORT = ("data.classes=[A,B]", "trainer.max_epochs=6", "batch_size=8", "trainer.accelerator=cpu",
         "verbose=false")  # fmt: skip


@pytest.fixture(scope="module")
def sets(
    made_cache: Path, some_without: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sets")
    names = ("asl_alphabet", "second", "third")
    return {name: Path(shutil.copytree(some_without, place / name)) for name in names}


def of(sets: dict[str, Path], *names: str) -> str:
    places = ", ".join(f"{name}: {{root: {sets[name]}, boxes: none}}" for name in names)
    return f"data.sets={{{places}}}"


@pytest.mark.slow
def test_each_set_is_read_by_points_of_the_others_and_calibrates_them(
    sets: dict[str, Path], tmp_path: Path
) -> None:
    words = ["-m", "experiment=strangers", of(sets, "second", "third"), *SHORT]
    result = run_command(tmp_path, *words)
    assert result.code == 0, result.err
    runs = sorted(tmp_path.glob("runs/strangers/*/fold=*/metrics.json"))
    assert [file.parent.name for file in runs] == ["fold=0", "fold=1"]
    for file, tested in zip(runs, ("second", "third"), strict=True):
        metrics = json.loads(file.read_text())
        assert metrics["test"]["accuracy"] > 0.6
        assert metrics["hands"]["not_found_in"]["test"] == 2
        lines = (file.parent / "predictions.csv").read_text().splitlines()[1:]
        assert lines
        assert all(line.startswith(tested) for line in lines)
    result = run_command(tmp_path, "studies=runs/strangers", verb="compare")
    assert result.code == 0, result.err
    (setting,) = json.loads((tmp_path / "runs/strangers/calibration.json").read_text())[
        "settings"
    ].values()
    assert (setting["wanted_precision"], set(setting["folds"])) == (0.95, {"0", "1"})


@pytest.mark.slow
def test_one_set_alone_can_be_what_is_trained_on(sets: dict[str, Path], tmp_path: Path) -> None:
    words = ["-m", "experiment=strangers_asl_only", of(sets, "asl_alphabet", "second", "third")]
    result = run_command(tmp_path, *words, *SHORT)
    assert result.code == 0, result.err
    for fold in (1, 2):
        (file,) = tmp_path.glob(f"runs/strangers_asl_only/*/fold={fold}/data.csv")
        trained = [line for line in file.read_text().splitlines()[1:] if ",train" in line]
        assert trained
        assert all(line.startswith("asl_alphabet/") for line in trained)
    result = run_command(tmp_path, *words[1:], *SHORT)  # fold 0 tests what alone is trained on
    assert result.code == 2
    assert "asl_alphabet is the set that is tested: choose another fold" in result.err
