"""`export ensemble=folds|seeds` and `export run=[A,B]`: one bundle, the mean of its members."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import QUICK
from PIL import Image

from signlang import api
from signlang.arrays import Floats
from signlang.data.image_io import decode, resize_image
from signlang.deploy import quantization
from signlang.deploy.ensemble import pooled
from signlang.errors import RunError, SettingError
from signlang.files import read_csv
from signlang.hands.hand_input import prepared
from signlang.inference.bundle import load_bundle, load_hands
from signlang.inference.onnx_model import OnnxModel
from signlang.metrics.calibration import apply_temperature
from signlang.runs import trained_run
from signlang.runs.results import require_run
from signlang.studies.ranking import choose_members

LANDMARKS = ("model=landmarks", "hands=landmarks", "image_size=8", "optimizer.lr=0.02")
REJECTS = "model.network.reject_empty=true"
VIEWS = "hands.views=2"
CROP = ("hands=crop", "hands.mirror=true", "data.stored_size=48", "optimizer.lr=1e-3")
BOTH = ("model=fusion", "model.pretrained=false", "hands=both", "image_size=64", "augment=digits")


def member(place: Path, images: Path, *words: str) -> Path:
    """A quick run of three folds by signer that does not depend on the seed."""
    run = api.train([
        *QUICK, f"data.root={images}", f"runs_dir={place}/runs", "verbose=false", "study=signs",
        "split=signer", "split.seed=0", "callbacks.early_stopping=null", "wanted_precision=0.8",
        "callbacks.checkpoint.monitor=null", *words,
    ])  # fmt: skip
    return run.path


@pytest.fixture(scope="module")
def folds(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three folds of a setting, and fold 0 with another seed."""
    place = tmp_path_factory.mktemp("folds")
    words = ["optimizer.lr=3e-3", "trainer.max_epochs=2"]
    runs = [member(place, tiny, *words, f"fold={fold}") for fold in range(3)]
    return [*runs, member(place, tiny, *words, "seed=1")]


def export(runs: list[Path], out: Path, *words: str) -> Path:
    named = ",".join(f"'{run}'" for run in runs)
    return api.export([f"run=[{named}]", f"out={out}", "verbose=false", *words])


@pytest.fixture(scope="module")
def of_folds(folds: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Named by the folder of the setting, in which lie its folds."""
    out = tmp_path_factory.mktemp("ensemble") / "b"
    return export([folds[0].parent], out, "ensemble=folds", "quantize=true", "int8_loss=0.5")


def mean_of(runs: list[Path], files: list[bytes]) -> Floats:
    """(files, classes) mean of the softmax of the runs' own networks, one after another."""
    loaded = [trained_run.load_trained_run(run) for run in runs]
    sums = 0.0
    for run in loaded:
        seen = [prepared(decode(data), run.hand_input()) for data in files]
        for size in run.image_sizes:
            seen = [Image.fromarray(resize_image(image, size)) for image in seen]
        batch = np.stack([np.asarray(image) for image in seen])
        with torch.inference_mode():
            sums = sums + run.classifier(torch.from_numpy(batch)).double().softmax(1).numpy()
    return np.asarray(sums) / len(loaded)


def files_of(images: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(images.rglob("*.png"))]


def predicted(bundle: Path, images: Path) -> Floats:
    loaded = api.load_bundle(bundle)
    return np.array([
        [dict(one.top_k)[name] for name in loaded.bundle.classes]
        for one in loaded.predict(sorted(images.rglob("*.png")))
    ])  # fmt: skip


def test_an_ensemble_is_the_mean_of_its_folds(
    of_folds: Path, folds: list[Path], tiny: Path
) -> None:
    bundle = load_bundle(of_folds)
    expected = apply_temperature(mean_of(folds[:3], files_of(tiny)), bundle.temperature)
    outputs = predicted(of_folds, tiny)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    alone = mean_of(folds[:1], files_of(tiny))
    assert np.abs(alone - expected).max() > 0.01  # the members differ enough to tell


def test_what_nobody_can_know_of_folds_is_not_told(of_folds: Path, folds: list[Path]) -> None:
    info, card = load_bundle(of_folds).info, (of_folds / "card.md").read_text("utf-8")
    metrics = [json.loads((run / "metrics.json").read_text("utf-8")) for run in folds[:3]]
    accuracies = [one["test"]["accuracy"] for one in metrics]
    assert info["name"] == "signs-simple_cnn-ensemble3"
    assert info["ensemble"]["accuracies"] == accuracies
    assert not {"fp32", "int8", "interval"} & info["accuracy"].keys()
    assert info["accuracy"]["run"] == pytest.approx(np.mean(accuracies), abs=1e-6)  # equal folds
    assert info["accuracy"]["of"] == "each image by the member that was not trained on it, of 3"
    assert info["verified"]["images"] == 12
    assert "accuracy of their mean on new images has not been measured" in card
    assert f"they reach {np.mean(accuracies):.4f} on average" in card
    assert f"{3 * metrics[0]['cost']['parameters']:,} parameters of 3 members" in card
    assert "| fold | 2 of 3, split signer |" in card
    assert len(json.loads((of_folds / "record.json").read_text("utf-8"))["members"]) == 3
    assert str(folds[0].parents[3]) not in (of_folds / "metrics.json").read_text("utf-8")


def test_int8_of_an_ensemble_leaves_the_mean_in_float(
    of_folds: Path, folds: list[Path], tiny: Path
) -> None:
    bundle = load_bundle(of_folds)
    assert len(bundle.read("model.int8.onnx")) < 0.5 * len(bundle.read("model.onnx"))
    graph = onnx.load(of_folds / "model.int8.onnx").graph
    softmax = [number for number, node in enumerate(graph.node) if node.op_type == "Softmax"]
    assert len(softmax) >= 3
    after = quantization._connected_operations(graph.node, ("Softmax",))
    assert not [n for n in graph.node if n.name in after and n.op_type == "QuantizeLinear"]
    outputs = OnnxModel.from_bundle(bundle, "int8")(
        np.stack([np.asarray(decode(data)) for data in files_of(tiny)])
    )
    assert np.abs(outputs - predicted(of_folds, tiny)).max() < 0.2


def test_each_network_keeps_its_ends(of_folds: Path) -> None:
    network = onnx.load(of_folds / "model.onnx")
    recipe = quantization.RECIPES[2]
    kept = set(quantization._float_operations(network, recipe))
    layers = [node.name for node in network.graph.node if node.op_type in quantization.LAYERS]
    inside = [name for name in layers if name.startswith("network/")]
    assert len(kept & set(inside)) == 6  # the first and the last layer of each of three
    assert len(inside) > 6


def test_seeds_of_one_fold_have_an_accuracy_of_their_own(folds: list[Path], tmp_path: Path) -> None:
    """No member was trained on the test fold: the mean can be measured there."""
    out = export([folds[0]], tmp_path / "b", "ensemble=seeds", "calibration=run")
    info = load_bundle(out).info
    first, second = (read_csv(run / "predictions.csv") for run in (folds[0], folds[3]))
    right = 0
    for one, other in zip(first, second, strict=True):
        assert one["path"] == other["path"]
        sums = {name: float(one[f"p_{name}"]) + float(other[f"p_{name}"]) for name in "ABß"}
        right += max(sums, key=lambda name: sums[name]) == one["label"]
    assert info["accuracy"]["fp32"] == pytest.approx(right / len(first), abs=1e-6)
    assert info["accuracy"]["of"] == "images that none of its 2 members was trained on"
    assert info["calibration"]["source"] == "the validation subset of each member"
    assert "has not been measured" not in (out / "card.md").read_text("utf-8")


def test_the_study_calibrates_the_mean(folds: list[Path], of_folds: Path) -> None:
    info = load_bundle(of_folds).info
    assert info["calibration"]["source"].startswith("the test folds of the study")
    assert info["calibration"]["images"] == 36
    assert "Each image was predicted by one network, of which the bundle holds 3" in (
        of_folds / "card.md"
    ).read_text("utf-8")
    with pytest.raises(RunError, match=r"calibration=study cannot .* not all folds are finished"):
        export([folds[0], folds[3]], of_folds.parent / "c", "calibration=study")


def test_seeds_of_a_setting_are_found(folds: list[Path]) -> None:
    study, runs_dir = folds[0].parents[1], folds[0].parents[2]
    assert set(choose_members(str(folds[0].parent), runs_dir, seeds=True)) == set(folds)
    assert set(choose_members(str(folds[3]), runs_dir, seeds=True)) == {folds[0], folds[3]}
    assert choose_members(str(folds[1]), runs_dir, seeds=True) == [folds[1]]
    assert len(choose_members(str(study), runs_dir)) in {1, 3}  # those of the better seed


def test_predictions_are_pooled_by_image(folds: list[Path]) -> None:
    runs = [require_run(run) for run in folds]
    every = pooled(runs)
    assert len(every.paths) == len(set(every.paths)) == 36
    rows = {path: row for row, path in enumerate(every.paths)}
    both = [runs[0].predictions, runs[3].predictions]
    for place, path in enumerate(both[0].paths):
        mean = (both[0].probabilities[place] + both[1].probabilities[place]) / 2
        np.testing.assert_allclose(every.probabilities[rows[path]], mean)
    path = runs[2].predictions.paths[5]
    np.testing.assert_array_equal(
        every.probabilities[rows[path]], runs[2].predictions.probabilities[5]
    )
    assert every.labels[rows[path]] == runs[2].predictions.labels[5]
    assert every.signers is not None
    assert every.signers[rows[path]] == runs[2].predictions.signers[5]  # type: ignore[index]


def test_members_that_differ_are_refused(
    folds: list[Path], tiny: Path, made_cache: Path, tmp_path: Path
) -> None:
    larger = member(tmp_path, tiny, "image_size=40", "data.image_size=40", "trainer.max_epochs=1")
    with pytest.raises(SettingError, match=r"they differ in image size \(32; 40\)"):
        export([folds[0], larger], tmp_path / "b")
    points = member(tmp_path, tiny, *LANDMARKS, "trainer.max_epochs=1")
    with pytest.raises(SettingError, match=r"differ in image size .*, hands \(none; hands="):
        export([folds[0], points], tmp_path / "b")
    with pytest.raises(SettingError, match="must be named once"):
        export([folds[0], folds[0]], tmp_path / "b")
    with pytest.raises(RunError, match=r"is one run\. Name a study, the folder of"):
        export([folds[0]], tmp_path / "b", "ensemble=folds")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param((*LANDMARKS, REJECTS, VIEWS), id="landmarks"),
        pytest.param(CROP, id="crop", marks=pytest.mark.slow),
        pytest.param((*BOTH, REJECTS, VIEWS), id="both", marks=pytest.mark.slow),
    ],
)
def test_an_ensemble_finds_the_hand_as_its_members_do(
    kind: tuple[str, ...], some_without: Path, made_cache: Path, tmp_path: Path
) -> None:
    words = [*kind, "trainer.max_epochs=6"]
    runs = [member(tmp_path, some_without, *words, f"fold={fold}") for fold in (0, 1)]
    out = export(runs, tmp_path / "b")
    bundle = load_bundle(out)
    assert load_hands(bundle) is not None
    assert bundle.info["format"] == 3
    assert bundle.info["hands"]["networks"].endswith("-2views") is (VIEWS in kind)
    assert (out / "signs.json").is_file()
    expected = apply_temperature(mean_of(runs, files_of(some_without)), bundle.temperature)
    np.testing.assert_allclose(predicted(out, some_without), expected, atol=1e-4)
    loaded = api.load_bundle(out)
    for one in loaded.predict(sorted(some_without.rglob("*4.png"))):
        assert one.hand is False
        if REJECTS not in kind:
            continue
        assert one.unknown
        np.testing.assert_allclose([share for _, share in one.top_k], 1 / 3, atol=1e-6)
