"""The Python API: what a notebook does, without a command line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, Result
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import signlang
from signlang import api
from signlang.data.image_io import resize_image
from signlang.errors import RunError, SettingError
from signlang.hydra_app import CONF


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, json, signlang; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "numpy", "hydra", "omegaconf", "signlang.api", "PIL"}
    for name in signlang.__all__:
        assert hasattr(signlang, name)
    with pytest.raises(AttributeError, match="load_runs"):
        signlang.load_runs  # noqa: B018


def test_a_run_is_read_back_as_a_table(trained: Path) -> None:
    run = signlang.load_run(trained)
    written = json.loads((trained / "metrics.json").read_text("utf-8"))
    assert run.metrics == written
    table = run.predictions
    assert {len(column) for column in table.values()} == {len(table["path"])}
    accuracy = np.mean(np.array(table["label"]) == np.array(table["predicted"]))
    assert accuracy == pytest.approx(written["test"]["accuracy"])
    names = [key.removeprefix("p_") for key in table if key.startswith("p_")]
    best = np.array([table[f"p_{name}"] for name in names]).argmax(0)
    assert [names[row] for row in best] == table["predicted"]
    assert set(table["signer"]) <= {f"s{number}" for number in range(6)}
    assert len(run.history["epoch"]) == written["epochs"]
    assert not run.network.training


def test_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the folder of a finished run"):
        signlang.load_run(tmp_path)


def test_verbs_run_twice_in_one_process_and_leave_hydra_alone(tiny: Path, tmp_path: Path) -> None:
    words = [*QUICK, f"data.root={tiny}", f"runs_dir={tmp_path / 'runs'}", "study=two"]
    words += ["verbose=false", "trainer.max_epochs=1", "folds=2"]
    with initialize_config_dir(str(CONF), version_base="1.3"):  # somebody's own Hydra
        runs = [api.train([*words, f"fold={fold}"]) for fold in (0, 1)]
        assert GlobalHydra.instance().is_initialized()
        assert compose("train").fold == 0
    assert [run.metrics["fold"] for run in runs] == [0, 1]
    assert api.train([*words, "fold=0"]).record == runs[0].record  # read, not trained again

    study = api.compare(tmp_path / "runs" / "two")
    assert study.leaderboard["setting"] == [runs[0].path.parent.name]
    both = [run.metrics["test"]["accuracy"] for run in runs]
    assert study.leaderboard["accuracy"] == pytest.approx([np.mean(both)])
    assert (tmp_path / "runs" / "two" / "report.html").is_file()
    assert not study.incomplete
    assert any("accuracy" in sentence for sentence in study.verdicts)
    assert {run.path for run in signlang.load_study(study.path).runs} == {run.path for run in runs}

    card = api.describe(["data=folder", f"data.root={tiny}", f"cards_dir={tmp_path / 'cards'}"])
    assert (card / "card.html").is_file()
    found = api.evaluate([f"run={runs[0].path}", f"data.root={tiny}", f"out={tmp_path / 'out'}"])
    assert json.loads((found / "metrics.json").read_text("utf-8"))


def test_settings_that_cannot_work_are_said_as_on_the_command_line() -> None:
    with pytest.raises(SettingError, match=r"no setting modle\.name; did you mean model\.name"):
        api.train(["modle.name=squeezenet"])
    with pytest.raises(SettingError, match=r"a list of words"):
        api.train("model=squeezenet")
    assert not GlobalHydra.instance().is_initialized()


FORMS: dict[str, Callable[[list[Path]], Any]] = {
    "paths": lambda files: files,
    "words": lambda files: [str(file) for file in files],
    "bytes": lambda files: [file.read_bytes() for file in files],
    "PIL": lambda files: [Image.open(file) for file in files],
    "uint8 NHWC": lambda files: pixels_of(files),
    "uint8 HWC each": lambda files: list(pixels_of(files)),
    "float NCHW": lambda files: (pixels_of(files) / 255).transpose(0, 3, 1, 2),
    "float tensor": lambda files: torch.tensor(pixels_of(files)).permute(0, 3, 1, 2) / 255,
    "uint8 tensor": lambda files: torch.tensor(pixels_of(files)),
}


def pixels_of(files: list[Path]) -> Any:
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.parametrize("form", FORMS)
def test_run_and_bundle_predict_images_in_every_form(
    form: str, trained: Path, exported: tuple[Path, Result], tiny: Path
) -> None:
    files = [tiny / name / f"{name}{number}.png" for name in ("A", "B", "ß") for number in (0, 1)]
    run, predictor = signlang.load_run(trained), signlang.load_bundle(exported[0])
    probabilities = run.network.predict_images(FORMS[form](files))
    assert probabilities.shape == (6, 3)
    np.testing.assert_allclose(probabilities.sum(1), np.ones(6), rtol=1e-5)
    by_network = [run.network.classes[row] for row in probabilities.argmax(1).tolist()]
    predictions = predictor.predict(FORMS[form](files))
    assert by_network == [one.guess for one in predictions]
    table = dict(zip(run.predictions["path"], run.predictions["predicted"], strict=True))
    for file, guess in zip(files, by_network, strict=True):
        name = file.relative_to(tiny).as_posix()
        assert table.get(name, guess) == guess
    for one in predictions:
        assert one.label == ("unknown" if one.unknown else one.guess)
        assert one.confidence == one.top_k[0][1]
        assert one.unknown == (one.confidence < predictor.threshold)


def test_a_run_predicts_images_by_way_of_the_size_they_were_stored_in(
    trained: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "fold=0"))
    record = json.loads((run / "record.json").read_text("utf-8"))
    record["settings"]["data.stored_size"] = 9
    (run / "record.json").write_text(json.dumps(record), "utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    small = resize_image(Image.fromarray(pixels), 9)
    by_way, direct = (signlang.load_run(place).network for place in (run, trained))
    assert torch.equal(by_way.predict_images(pixels), direct.predict_images(small))
    assert not torch.equal(by_way.predict_images(pixels), direct.predict_images(pixels))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((3, 32, 32), np.uint8), r"uint8 of shape \(3, 32, 32\).*channels last"),
        (np.zeros((32, 32, 3), np.float32), r"float32 of shape \(32, 32, 3\).*channels first"),
        (np.full((3, 8, 8), 255.0), "between 0 and 1, without normalization; these between 255"),
        (np.full((3, 8, 8), np.nan), "between 0 and 1"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\) is no image"),
        (7, "int is no image"),
    ],
)
def test_a_wrong_form_is_told_the_right_one(
    images: Any, words: str, trained: Path, exported: tuple[Path, Result]
) -> None:
    with pytest.raises(ValueError, match=words):
        signlang.load_run(trained).network.predict_images(images)
    with pytest.raises(ValueError, match=words):
        signlang.load_bundle(exported[0]).predict(images)


def test_a_bundle_predicts(exported: tuple[Path, Result], tiny: Path) -> None:
    predictor: Any = signlang.load_bundle(exported[0])
    images = sorted((tiny / "A").iterdir())[:3]
    assert [result.label for result in predictor.predict(images)] == ["A", "A", "A"]
