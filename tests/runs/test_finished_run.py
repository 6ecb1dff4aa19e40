"""A run that was trained in this process: each figure is that of its checkpoint and its images."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, write_tiny
from sklearn.metrics import accuracy_score, f1_score, log_loss

from signlang import api
from signlang.callbacks.checkpointing import standard_error
from signlang.errors import RunError
from signlang.files import read_csv
from signlang.metrics.classification import classification_metrics
from signlang.runs.folder import RunFolder
from signlang.runs.results import read_run
from signlang.runs.trained_run import load_trained_run
from signlang.runs.training import resume_checkpoint
from signlang.system import choose_precision


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="module")
def words(place: Path) -> list[str]:
    """Of a run that resizes twice, smooths labels and chooses its checkpoint by validation."""
    root = write_tiny(place / "signs", per_class=18)
    for number in range(5):  # wrong labels: some mistakes are certain
        one, other = root / "A" / f"A{number}.png", root / "B" / f"B{number}.png"
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    return [
        *QUICK, f"data.root={root}", f"runs_dir={place / 'runs'}", f"cache_dir={place / 'cache'}",
        "data.stored_size=40", "label_smoothing=0.1", "optimizer.lr=0.002", "split.validation=0.25",
        "trainer.max_epochs=4", "callbacks.early_stopping=null", "verbose=false", "seed=3",
        "callbacks.images=null", "fold=1", "model.normalization=training",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(words: list[str]) -> api.LoadedRun:
    return api.train(words)


def subset_of(run: api.LoadedRun, name: str) -> tuple[list[Path], list[int]]:
    root = run.path.parents[3] / "signs"
    rows = RunFolder(run.path).subset(name, run.network.classes)
    return [root / path for path, _ in rows], [label for _, label in rows]


@pytest.mark.parametrize("subset", ["validation", "test"])
def test_metrics_are_those_of_the_best_checkpoint_on_the_images(
    run: api.LoadedRun, subset: str
) -> None:
    files, labels = subset_of(run, subset)
    probabilities = run.network.predict_images(files).double().numpy()
    probabilities /= probabilities.sum(1, keepdims=True)  # of 32 bits
    found = run.metrics[subset]
    assert 0 < found["accuracy"] < 1
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(1)))
    macro = f1_score(labels, probabilities.argmax(1), average="macro")
    assert found["macro_f1"] == pytest.approx(macro)
    assert found["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-3)
    error = classification_metrics(probabilities, np.array(labels))["calibration_error"]
    assert found["calibration_error"] == pytest.approx(error, abs=1e-3)


def test_predictions_are_those_of_the_test_fold(run: api.LoadedRun) -> None:
    files, labels = subset_of(run, "test")
    table = run.predictions
    assert [file.name for file in files] == [Path(path).name for path in table["path"]]
    assert [run.network.classes[label] for label in labels] == table["label"]
    probabilities = run.network.predict_images(files).numpy()
    written = np.stack([table[f"p_{name}"] for name in run.network.classes], axis=1)
    np.testing.assert_allclose(written, probabilities, atol=1e-4)
    per_class = run.metrics["test"]["per_class_accuracy"]
    for name, accuracy in per_class.items():
        right = [p == name for p, true in zip(table["predicted"], table["label"], strict=True)
                 if true == name]  # fmt: skip
        assert accuracy == pytest.approx(np.mean(right), abs=1e-6)
    assert list(per_class) == list(run.network.classes)


def test_the_checkpoint_is_that_of_the_latest_epoch_that_is_as_good_as_the_best(
    run: api.LoadedRun,
) -> None:
    content = torch.load(RunFolder(run.path).best, map_location="cpu", weights_only=True)
    accuracies = np.array(run.history["validation/accuracy"])
    best, images = accuracies.max(), len(RunFolder(run.path).images_of("validation"))
    good = accuracies >= best - 2 * standard_error(best, images)
    assert content["epoch"] == np.flatnonzero(good)[-1]
    last = torch.load(RunFolder(run.path).last, map_location="cpu", weights_only=True)
    assert last["epoch"] == 3


def test_sums_over_epochs(run: api.LoadedRun) -> None:
    history = read_csv(run.path / "history.csv")
    assert run.metrics["epochs"] == len(history) == 4
    seconds = [float(row["seconds"]) for row in history]
    assert run.metrics["seconds"] == pytest.approx(sum(seconds), abs=1e-3)
    speeds = sorted(float(row["images_per_second"]) for row in history)
    assert run.metrics["images_per_second"] == pytest.approx(speeds[2], abs=0.05)
    assert run.metrics["cost"]["parameters"] == sum(
        weight.numel() for weight in run.network.network.parameters()
    )


def test_a_run_says_what_it_is(run: api.LoadedRun) -> None:
    expected = {
        "status": "finished", "model": "simple_cnn", "data": "signs", "split": "stratified",
        "protocol": "test fold untouched", "fold": 1, "folds": 3, "seed": 3,
    }  # fmt: skip
    assert {key: run.metrics[key] for key in expected} == expected
    assert run.metrics["fingerprint"] == run.record["fingerprint"]
    data = run.record["data"]
    assert (data["images"], data["classes"], data["excluded"]) == (54, 3, 0)
    subsets = [data[name] for name in ("train", "validation", "test")]
    assert subsets == [len(subset_of(run, name)[0]) for name in ("train", "validation", "test")]
    assert sum(subsets) == 54
    assert data["test"] == 18
    assert run.record["settings"]["label_smoothing"] == 0.1


def test_images_are_normalized_by_the_training_subset(run: api.LoadedRun) -> None:
    from PIL import Image

    from signlang.data.image_io import resize_image

    files, _ = subset_of(run, "train")
    pixels = np.stack([resize_image(Image.open(file), 40) for file in files]) / 255
    hparams: Any = run.network.hparams
    np.testing.assert_allclose(hparams["mean"], pixels.reshape(-1, 3).mean(0), atol=1e-6)
    np.testing.assert_allclose(hparams["std"], pixels.reshape(-1, 3).std(0), atol=1e-6)


def test_a_trained_run_knows_its_sizes_and_images(run: api.LoadedRun) -> None:
    loaded = load_trained_run(run.path)
    assert loaded.image_sizes == (40, 32)
    assert loaded.image_size == 32
    assert loaded.signers == 6
    assert loaded.classes == ("A", "B", "ß")
    assert len(loaded.subset("test")) == 18
    stored = json.loads((run.path / "calibration.json").read_text("utf-8"))
    assert loaded.calibration.temperature == stored["temperature"]
    assert loaded.calibration.test_error == stored["calibration_error"]["test"]
    with pytest.raises(RunError, match=r"holds several runs: give one of fold=1\."):
        load_trained_run(run.path.parent)
    with pytest.raises(RunError, match="is no run folder"):
        load_trained_run(run.path / "checkpoints")


def test_a_finished_run_is_read_and_not_trained_again(run: api.LoadedRun, words: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    again = api.train(words)
    assert again.metrics == run.metrics
    after = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    assert {
        path for path in before if path.name != ".lock" and before[path] != after.get(path)
    } == set()


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda m, r: m.pop("epochs"), "epochs"),
        (lambda m, r: m.update(status="started"), "status"),
        (lambda m, r: m["test"].update(accuracy="high"), r"test\.accuracy"),
        (lambda m, r: m["test"].update(accuracy=1.1), r"test\.accuracy"),
        (lambda m, r: m["test"].update(macro_f1=-0.1), r"test\.macro_f1"),
        (lambda m, r: m["cost"].update(flops=True), r"cost\.flops"),
        (lambda m, r: m.update(validation=3), "validation=3"),
        (lambda m, r: r.update(overrides="x"), "overrides"),
        (lambda m, r: r["data"].pop("test"), r"data\.test"),
        (lambda m, r: m.update(fingerprint="other"), "are of different runs"),
    ],
)
def test_a_damaged_run_is_refused_by_what_it_lacks(
    run: api.LoadedRun, tmp_path: Path, change: Any, lacking: str
) -> None:
    metrics, record = (json.loads(json.dumps(one)) for one in (run.metrics, run.record))
    for content, name in ((metrics, "metrics.json"), (record, "record.json")):
        (tmp_path / name).write_text(json.dumps(content))
    assert read_run(tmp_path) is not None
    change(metrics, record)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=lacking):
        read_run(tmp_path)


def test_training_resumes_from_the_last_checkpoint_if_it_is_sound(
    run: api.LoadedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        last = RunFolder(run.path).last
        assert resume_checkpoint(RunFolder(run.path)) == str(last)
    assert f"resuming after epoch 4, from {last}" in caplog.text
    folder = RunFolder(tmp_path)
    assert resume_checkpoint(folder) is None
    folder.last.parent.mkdir()
    folder.last.write_bytes(b"cut")
    assert resume_checkpoint(folder) is None
    assert "is damaged" in caplog.text


@pytest.mark.parametrize(
    ("given", "accelerator", "gpu", "capable", "chosen"),
    [
        ("auto", "cpu", False, True, "bf16-mixed"),
        ("auto", "cpu", False, False, "32-true"),
        ("auto", "auto", False, True, "bf16-mixed"),
        ("auto", "auto", True, True, "bf16-mixed"),
        ("auto", "gpu", True, False, "32-true"),
        ("auto", "cuda", True, True, "bf16-mixed"),
        ("32-true", "cpu", False, True, "32-true"),
        ("64-true", "auto", True, True, "64-true"),
    ],
)
def test_precision_is_what_the_device_multiplies_in_hardware(
    given: str, accelerator: str, gpu: bool, capable: bool, chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: capable or including_emulation
    )
    monkeypatch.setattr(
        torch.cpu,
        "get_capabilities",
        lambda: {"amx_bf16": capable and not gpu, "avx512_bf16": True},
    )
    assert choose_precision(given, accelerator) == chosen
