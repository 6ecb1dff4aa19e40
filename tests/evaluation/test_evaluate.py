"""`signlang.evaluate` with runs, bundles and external weights, on folders of all kinds."""

import csv
import json
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
import torch
from conftest import QUICK, ROOT, Result, run_command
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score, f1_score, log_loss

from signlang.data.image_io import resize_image
from signlang.errors import DataError, RunError, SettingError, WeightsError
from signlang.evaluate import evaluate
from signlang.evaluation import class_mapping
from signlang.evaluation.class_mapping import map_classes
from signlang.files import data_set_name
from signlang.hydra_app import quoted
from signlang.metrics import classification
from signlang.metrics.significance import clustered_interval, wilson_interval
from signlang.models.classifier import Classifier
from signlang.models.networks import build_network

Rows = list[dict[str, str]]


def rows_of(file: Path) -> Rows:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def json_of(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, read-only."""
    place = tmp_path_factory.mktemp("evaluated")
    result = run_command(place, *QUICK, f"data.root={tiny}", "optimizer.lr=0.003")
    assert result.code == 0, result.err
    (folder,) = place.glob("runs/*/*/fold=0")
    assert json_of(folder / "metrics.json")["test"]["accuracy"] == 1  # tests below count on it
    return folder


@pytest.fixture
def again(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(run, tmp_path / "again" / run.parent.name / run.name))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(*words: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("evaluate", overrides=[quoted(word) for word in words])


def evaluated(place: Path, *words: str) -> dict[str, Any]:
    """Evaluate in this process and return metrics.json; other files are in `place / "out"`."""
    evaluate(settings(*words, f"out={place / 'out'}"))
    return json_of(place / "out" / "metrics.json")


def renamed(tiny: Path, place: Path, names: dict[str, str]) -> Path:
    """A copy of the tiny data with other names of classes, without signers."""
    folder = Path(shutil.copytree(tiny, place / "renamed"))
    (folder / "signers.csv").unlink()
    for old, new in names.items():
        (folder / old).rename(folder / f"{new}.")
        (folder / f"{new}.").rename(folder / new)
    return folder


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def same(run: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Evaluation of the run on its own data, by the public command."""
    place = tmp_path_factory.mktemp("same")
    result = run_command(place, f"run={run}", f"data.root={tiny}", verb="evaluate")
    assert result.code == 0, result.err
    return place / "evaluations" / f"{run.parent.name},fold=0-on-{data_set_name(str(tiny))}", result


def test_the_files_are_in_the_documented_places(same: tuple[Path, Result]) -> None:
    out, result = same
    assert {path.name for path in out.iterdir()} == {
        "metrics.json", "record.json", "predictions.csv", "per_class.csv", "per_signer.csv",
        "report.html", "figures",
    }  # fmt: skip
    for words in ("accuracy, over all 3 classes", "macro F1", "calibration error", "report.html",
                  "3 classes, the worst first", "the worst 5 of 6 signers"):  # fmt: skip
        assert words in result.out
    assert json_of(out / "record.json")["packages"]["torch"]


def test_images_that_were_trained_on_are_reported(same: tuple[Path, Result], run: Path) -> None:
    subsets = [row["subset"] for row in rows_of(run / "data.csv")]
    trained, validated = subsets.count("train"), subsets.count("validation")
    assert f"{trained} of these 36 images were trained on" in same[1].err
    assert f"{trained} of these 36 images were trained on" in (same[0] / "report.html").read_text()
    images = json_of(same[0] / "metrics.json")["images"]
    assert (images["trained_on"], images["validated_on"]) == (trained, validated)


def test_the_predictions_of_a_run_are_reproduced(same: tuple[Path, Result], run: Path) -> None:
    now = {row["path"]: row for row in rows_of(same[0] / "predictions.csv")}
    before = rows_of(run / "predictions.csv")
    assert before
    for row in before:
        for name, value in row.items():
            if name in {"path", "label", "predicted"}:
                assert now[row["path"]][name] == value
            else:
                assert float(now[row["path"]][name]) == pytest.approx(float(value), abs=2e-5)


def test_the_figures_are_those_of_scikit_learn(same: tuple[Path, Result]) -> None:
    rows, metrics = rows_of(same[0] / "predictions.csv"), json_of(same[0] / "metrics.json")
    labels, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    shares = [[float(row[f"p_{name}"]) for name in "ABß"] for row in rows]
    test = metrics["test"]
    assert test["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert test["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert test["loss"] == pytest.approx(log_loss(labels, shares), abs=1e-4)
    # without a mistake, a signer counts as one image
    assert test["interval"]["low"] == pytest.approx(wilson_interval(6, 6)[0], abs=1e-6)
    assert metrics["intervals_by"] == {"kind": "signer", "count": 6}
    assert "The intervals are by signer (6 signers)" in (same[0] / "report.html").read_text()


def test_unseen_images_alone_give_the_figures_of_the_run(
    run: Path, tiny: Path, place: Path
) -> None:
    metrics = evaluated(place, f"run={run}", f"data.root={tiny}", "unseen=true")
    tested = {row["path"] for row in rows_of(run / "data.csv") if row["subset"] == "test"}
    assert {row["path"] for row in rows_of(place / "out" / "predictions.csv")} == tested
    then = json_of(run / "metrics.json")["test"]
    for name in ("accuracy", "macro_f1", "loss", "calibration_error"):
        assert metrics["test"][name] == pytest.approx(then[name], abs=1e-5)
    expected = json_of(run / "calibration.json")["calibration_error"]["test"]
    assert metrics["calibration"]["calibration_error"] == pytest.approx(expected, abs=1e-5)
    assert not any("trained on" in remark for remark in metrics["remarks"])


def test_a_fold_of_other_data_can_be_asked_for(run: Path, tiny: Path, place: Path) -> None:
    words = ["split=signer", "folds=3"]
    paths: list[str] = []
    for fold in range(3):
        evaluated(place, f"run={run}", f"data.root={tiny}", f"fold={fold}", *words)
        rows = rows_of(place / "out" / "predictions.csv")
        assert len(rows) == 12
        paths += [row["path"] for row in rows]
    assert len(set(paths)) == 36


def test_names_that_differ_in_case_are_the_same_and_files_are_known_again(
    run: Path, tiny: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = renamed(tiny, place, {"A": "a", "B": "b"})
    metrics = evaluated(place, f"run={run}", f"data.root={data}")
    assert [(m["data"], m["network"], m["how"]) for m in metrics["classes"]] == [
        ("a", "A", "but for case"), ("b", "B", "but for case"), ("ß", "ß", "the same name"),
    ]  # fmt: skip
    assert metrics["test"]["accuracy"] == 1
    assert metrics["images"]["trained_on"] == 21  # by content, whatever they are called
    assert "21 of these 36 images were trained on" in caplog.text
    assert not (place / "out" / "per_signer.csv").exists()


def test_a_run_is_read_once(run: Path, tiny: Path, place: Path, opened: Counter[str]) -> None:
    opened.clear()
    evaluated(place, f"run={run}", f"data.root={tiny}", "wanted_precision=0.9")  # calibrated again
    names = (
        "metrics.json", "record.json", "data.csv", "classes.json", "history.csv",
        "calibration.json", "checkpoints/best.ckpt",
    )  # fmt: skip
    counts = {name: opened[str(run / name)] for name in names}
    assert counts.pop("checkpoints/best.ckpt") <= 3  # its archive has checksums of its own
    assert set(counts.values()) <= {1, 2}, counts  # once to be read, once for its checksum


@pytest.fixture
def unusual_data(tiny: Path, place: Path) -> Path:
    """A is half wrong (blue), B is right, ß is absent, and there is a class of other images."""
    data = renamed(tiny, place, {})
    shutil.rmtree(data / "A")
    shutil.copytree(tiny / "A", data / "A")
    for number in range(6):
        shutil.copy(tiny / "ß" / f"ß{number}.png", data / "A" / f"A{number}.png")
    shutil.rmtree(data / "ß")
    (data / "Ω").mkdir()
    for number, shade in enumerate((0, 90, 170, 250)):
        Image.new("RGB", (50, 70), (shade,) * 3).save(data / "Ω" / f"{number}.png")
    return data


def test_missing_and_unknown_classes_are_counted_apart(
    run: Path, unusual_data: Path, place: Path
) -> None:
    metrics = evaluated(place, f"run={run}", f"data.root={unusual_data}")
    assert metrics["images"]["evaluated"] == 28
    assert metrics["images"]["of_shared_classes"] == 24
    assert metrics["images"]["of_unknown_classes"] == 4
    assert metrics["test"]["accuracy"] == pytest.approx(18 / 24)
    rows = rows_of(place / "out" / "predictions.csv")
    known = [row for row in rows if row["label"] != "Ω"]
    assert len(rows) - len(known) == 4
    two = ["AB"[float(row["p_B"]) > float(row["p_A"])] for row in known]
    labels = [row["label"] for row in known]
    assert metrics["shared_classes_only"]["accuracy"] == pytest.approx(accuracy_score(labels, two))
    assert metrics["test"]["macro_f1"] == pytest.approx(
        f1_score(labels, [row["predicted"] for row in known], labels=["A", "B"], average="macro")
    )
    of_class = {row["class"]: row for row in rows_of(place / "out" / "per_class.csv")}
    assert list(of_class) == ["A", "B", "Ω"]  # the worst first, unknown ones last
    assert (of_class["A"]["recognised"], of_class["A"]["mistaken_for"]) == ("6", "ß")
    blocks = np.arange(12) * 10 // 12  # of two frames, but for some
    low, high = clustered_interval(np.arange(12) >= 6, blocks) or (0, 0)
    assert low < wilson_interval(6, 12)[0]
    assert [float(of_class["A"][end]) for end in ("low", "high")] == pytest.approx(
        [low, high], abs=1e-6
    )
    assert metrics["intervals_by"]["kind"] == "block"
    assert (of_class["Ω"]["matched"], of_class["Ω"]["accuracy"]) == ("not known", "")
    remarks = " ".join(metrics["remarks"])
    assert "4 images of 1 class that the network does not know (Ω)" in remarks
    assert "No image shows 1 class of the 3 that the network knows: ß" in remarks
    report = (place / "out" / "report.html").read_text()
    assert "Ω (unknown)" in report or "Classes that the network does not know" in report


def test_a_threshold_rejects_and_reports_its_precision(
    again: Path, unusual_data: Path, place: Path
) -> None:
    content = json_of(again / "calibration.json")
    rows: Rows = []
    for threshold in (0.0, 0.999999):
        content |= {"reject_threshold": threshold, "temperature": 3.0}
        (again / "calibration.json").write_text(json.dumps(content))
        metrics = evaluated(place, f"run={again}", f"data.root={unusual_data}")
        rows = rows_of(place / "out" / "predictions.csv")
        of_class = {row["class"]: row for row in rows_of(place / "out" / "per_class.csv")}
        calibration = metrics["calibration"]
        assert calibration["coverage"] == 1 - threshold.__ceil__()
        assert int(of_class["Ω"]["rejected"]) == 4 * threshold.__ceil__()
        assert metrics["unknown_classes_rejected"]["share"] == threshold.__ceil__()
        sentence = "fitted to a precision of 99.0 % of the accepted images; here it is 75.0"
        assert (sentence in " ".join(metrics["remarks"]).lower()) == (threshold == 0)
    assert calibration["precision"] is None
    assert {row["accepted"] for row in rows} == {"0"}
    for row in rows:
        scaled = np.array([float(row[f"p_{name}"]) for name in "ABß"]) ** (1 / 3)
        expected = scaled.max() / scaled.sum()
        assert float(row["calibrated_confidence"]) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_mapping_joins_other_names(suffix: str, run: Path, tiny: Path, place: Path) -> None:
    data = renamed(tiny, place, {"A": "rouge, vif", "B": "verde", "ß": "bleu"})
    shutil.copytree(data / "verde", data / "GRÜN")
    mapping = {"rouge, vif": "A", "verde": "B", "GRÜN": "B", "bleu": None}
    file = place / f"names{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(mapping))
    else:
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([("data", "network"), *mapping.items()])
    metrics = evaluated(place, f"run={run}", f"data.root={data}", f"mapping={file}")
    assert metrics["test"]["accuracy"] == 1
    assert metrics["images"]["of_shared_classes"] == 36
    assert metrics["images"]["of_unknown_classes"] == 12
    assert {m["data"]: m["how"] for m in metrics["classes"]} == {
        "GRÜN": "mapping", "bleu": "not known", "rouge, vif": "mapping", "verde": "mapping",
    }  # fmt: skip


def test_no_shared_class_is_a_sentence_with_both_lists(run: Path, tiny: Path, place: Path) -> None:
    data = renamed(tiny, place, {"A": "eins", "B": "zwei", "ß": "drei"})
    result = run_command(place, f"run={run}", f"data.root={data}", verb="evaluate")
    assert result.code == 1
    assert "share no class" in result.err
    assert "Traceback" not in result.err
    for name in ("eins", "zwei", "drei", "\n  A\n  B\n  ß\n", "mapping=FILE"):
        assert name in result.err
    assert not (place / "evaluations").exists()


def test_hostile_names_do_no_harm(run: Path, tiny: Path, place: Path) -> None:
    data = renamed(tiny, place, {})
    names = ["<img src=x onerror=alert(1)>", "[red]a", 'q"u,o\te', "$x_1$", "a\nb"]
    for number, name in enumerate([*names, os.fsdecode(b"\xff\xfe")]):
        (data / name).mkdir()
        Image.new("RGB", (40, 40), (number * 40, 0, 0)).save(data / name / "x.png")
    result = run_command(place, f"run={run}", f"data.root={data}", "out=out", verb="evaluate")
    assert result.code == 0, result.err
    classes = {row["class"] for row in rows_of(place / "out" / "per_class.csv")}
    assert classes == {"A", "B", "ß", *names, os.fsdecode(b"\xff\xfe")}
    report = (place / "out" / "report.html").read_text()
    assert "<img src=x" not in report
    assert "&lt;img src=x" in report
    assert json_of(place / "out" / "metrics.json")["images"]["of_unknown_classes"] == 6
    assert "[red]a" in result.out


def test_the_report_stands_by_itself(same: tuple[Path, Result]) -> None:
    report = (same[0] / "report.html").read_text()
    assert "http" not in report
    assert "url(" not in report
    assert report.count("data:image/") >= 3
    for title in ("Metrics", "Confusion", "Classes", "Signers", "Worst mistakes", "Class mapping"):
        assert f">{title}</h2>" in report


def test_other_sizes_are_resized_as_in_training(run: Path, place: Path) -> None:
    rng = np.random.default_rng(0)
    model = Classifier.load_from_checkpoint(
        run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True
    ).eval()
    expected = {}
    for name, size in {"A": (97, 41), "B": (32, 32), "ß": (20, 300)}.items():
        (place / "data" / name).mkdir(parents=True)
        pixels = rng.integers(0, 255, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "data" / name / "x.png")
        resized = resize_image(Image.fromarray(pixels), 32)[None]
        with torch.inference_mode():
            expected[f"{name}/x.png"] = (
                model(torch.from_numpy(resized.copy())).softmax(1)[0].numpy()
            )
    evaluated(place, f"run={run}", f"data.root={place / 'data'}")
    for row in rows_of(place / "out" / "predictions.csv"):
        outputs = [float(row[f"p_{name}"]) for name in "ABß"]
        np.testing.assert_allclose(outputs, expected[row["path"]], atol=2e-6)


# --- its calibration -----------------------------------------------------------------------------


def test_an_older_run_is_calibrated_and_its_folder_stays(
    again: Path, tiny: Path, place: Path
) -> None:
    before = json_of(again / "calibration.json")
    (again / "calibration.json").unlink()
    words = [f"run={again}", f"data.root={tiny}", "unseen=true"]
    metrics = evaluated(place, *words)
    assert not (again / "calibration.json").exists()
    assert metrics["calibration"]["temperature"] == pytest.approx(before["temperature"], rel=1e-3)
    evaluated(place, *words, "calibrate=true")
    after = json_of(again / "calibration.json")
    for part in ("validation", "test"):
        assert after["calibration_error"][part] == pytest.approx(
            before["calibration_error"][part], abs=1e-4
        )
    assert after["images"] == before["images"] == 3
    assert after["reject_threshold"] is None
    evaluated(place, *words, "calibrate=true", "wanted_precision=0.6")
    after = json_of(again / "calibration.json")
    assert after["wanted_precision"] == 0.6
    assert 0 < after["reject_threshold"] < 1
    assert after["coverage"]["validation"] == after["precision"]["validation"] == 1


def test_a_run_without_its_images_is_judged_uncalibrated(
    run: Path, tiny: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(run, place / "runs" / "x" / "fold=0"))
    (copy / "calibration.json").unlink()
    config = (copy / ".hydra" / "config.yaml").read_text()
    (copy / ".hydra" / "config.yaml").write_text(config.replace(str(tiny), str(place / "gone")))
    data = renamed(tiny, place, {"A": "a"})
    metrics = evaluated(place, f"run={copy}", f"data.root={data}")
    assert metrics["calibration"]["temperature"] == 1
    assert "not calibrated: " in caplog.text
    assert any("are not there to compare" in remark for remark in metrics["remarks"])
    with pytest.raises(DataError, match="there is no such folder"):
        evaluated(place, f"run={copy}", f"data.root={data}", "calibrate=true")
    with pytest.raises(DataError, match="unseen=true cannot be"):
        evaluated(place, f"run={copy}", f"data.root={data}", "unseen=true")


def test_changed_images_do_not_calibrate(again: Path, tiny: Path, place: Path) -> None:
    data = renamed(tiny, place, {})
    config = (again / ".hydra" / "config.yaml").read_text()
    (again / ".hydra" / "config.yaml").write_text(config.replace(str(tiny), str(data)))
    for file in data.rglob("*.png"):
        Image.new("RGB", (32, 32), (200, 60, 60)).save(file)
    with pytest.raises(DataError, match="they have changed"):
        evaluated(place, f"run={again}", f"data.root={tiny}", "calibrate=true")


# --- external weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are bright above or on the left: exchanging the axes exchanges the classes."""
    folder, rng = tmp_path_factory.mktemp("halves"), np.random.default_rng(0)
    for name in ("left", "up"):
        (folder / name).mkdir()
        for number in range(16):
            pixels = rng.integers(0, 60, size=(30, 30, 3), dtype=np.uint8)
            bright = pixels[:15] if name == "up" else pixels[:, :15]
            bright += 150
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def external_weights(halves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, trained here in plain torch on images with exchanged axes, and their classes."""
    folder = tmp_path_factory.mktemp("external")
    torch.manual_seed(0)
    network = build_network("simple_cnn", 2, 30)
    files = sorted(halves.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]).transpose(0, 2, 1, 3)
    images = (torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3
    labels = torch.tensor([["left", "up"].index(file.parent.name) for file in files])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 25, "state_dict": state}, folder / "net.ckpt")
    save_file(network.state_dict(), folder / "net.safetensors")
    (folder / "names.txt").write_text("left\n\nup\n")
    (folder / "names.json").write_text('["left", "up"]')
    with torch.inference_mode():
        np.save(folder / "outputs.npy", network.eval()(images).softmax(1).numpy())
    return folder


EXTERNAL = ("model=simple_cnn", "size=30", "mean=[0.4,0.4,0.4]", "std=[0.3,0.3,0.3]")


@pytest.mark.parametrize(
    ("weights", "names"), [("net.ckpt", "names.txt"), ("net.safetensors", "names.json")]
)
def test_weights_with_exchanged_axes(
    weights: str, names: str, external_weights: Path, halves: Path, place: Path
) -> None:
    words = [f"model.weights={external_weights / weights}", f"classes={external_weights / names}"]
    words += [f"data.root={halves}", *EXTERNAL]
    metrics = evaluated(place, *words, "swap_axes=true")
    assert metrics["test"]["accuracy"] == 1
    outputs = [
        [float(r["p_left"]), float(r["p_up"])] for r in rows_of(place / "out/predictions.csv")
    ]
    np.testing.assert_allclose(outputs, np.load(external_weights / "outputs.npy"), atol=2e-6)
    assert metrics["network"]["mean"] == [0.4] * 3
    assert any("not calibrated" in remark for remark in metrics["remarks"])
    assert evaluated(place, *words)["test"]["accuracy"] < 0.1  # up is left, left is up


def test_external_weights_by_the_public_command(
    external_weights: Path, halves: Path, place: Path
) -> None:
    words = [
        f"model.weights={external_weights / 'net.ckpt'}",
        f"classes={external_weights / 'names.txt'}",
    ]
    result = run_command(
        place, *words, f"data.root={halves}", *EXTERNAL, "swap_axes=true", verb="evaluate"
    )
    assert result.code == 0, result.err
    assert "1.0000" in result.out
    assert (
        place / "evaluations" / f"simple_cnn-net-on-{data_set_name(str(halves))}" / "report.html"
    ).is_file()


def test_weights_that_do_not_fit_name_every_layer(
    external_weights: Path, halves: Path, place: Path
) -> None:
    (place / "three.txt").write_text("left\nup\nright\n")
    base = [f"data.root={halves}", *EXTERNAL]
    with pytest.raises(WeightsError, match=r"classifier\.weight: \(2, 256\) in the file, \(3, 256"):
        evaluated(
            place, *base, f"model.weights={external_weights / 'net.ckpt'}", "classes=three.txt"
        )
    state = build_network("simple_cnn", 2, 30).state_dict()
    state.pop("classifier.bias")
    torch.save({**state, "more": torch.zeros(1)}, place / "less.pt")
    words = [*base, f"classes={external_weights / 'names.txt'}"]
    with pytest.raises(WeightsError, match=r"classifier\.bias: not in the file") as error:
        evaluated(place, *words, "model.weights=less.pt")
    assert "more: not in the network" in str(error.value)
    (place / "evil.pt").write_bytes(pickle.dumps(print))
    with pytest.raises(WeightsError, match="no plain state dict"):
        evaluated(place, *words, "model.weights=evil.pt")


# --- a bundle ------------------------------------------------------------------------------------


def test_a_bundle_is_judged_before_and_after_its_temperature(place: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = {}
    for name, colour in list(bundles.COLOURS.items())[:4]:
        (place / "data" / name.lower()).mkdir(parents=True)
        for number in range(6):
            noisy = np.clip(np.array(colour) + rng.integers(-90, 90, 3), 0, 255).astype(np.uint8)
            file = f"{name.lower()}/{number}.png"
            pixels[file] = np.broadcast_to(noisy, (32, 32, 3))
            Image.fromarray(np.ascontiguousarray(pixels[file])).save(place / "data" / file)
    sharp, temperature = 8.0, 2.0  # the graph divides its logits by the temperature
    model = bundles.network(bundles.COLOURS, sharpness=sharp / temperature)
    folder = bundles.write(place / "bundle", model=model, threshold=0.5)
    info = json_of(folder / "bundle.json") | {"temperature": temperature}
    (folder / "bundle.json").write_text(json.dumps(info))
    metrics = evaluated(place, f"bundle={folder}", f"data.root={place / 'data'}")
    wanted = np.array(list(bundles.COLOURS.values())) / 255
    for row in rows_of(place / "out" / "predictions.csv"):
        mean = pixels[row["path"]][0, 0] / 255
        logits = torch.from_numpy(-sharp * ((mean - wanted) ** 2).sum(1))
        outputs = [float(row[f"p_{name}"]) for name in bundles.COLOURS]
        np.testing.assert_allclose(outputs, logits.softmax(0).numpy(), atol=1e-4)
        after = float((logits / temperature).softmax(0).max())
        assert float(row["calibrated_confidence"]) == pytest.approx(after, abs=1e-4)
        assert row["accepted"] == str(int(after >= 0.5))
    calibration = metrics["calibration"]
    assert (calibration["temperature"], calibration["reject_threshold"]) == (2.0, 0.5)
    assert calibration["calibration_error"]["before"] != calibration["calibration_error"]["after"]
    assert metrics["network"]["kind"] == "bundle"
    assert any(
        "its bundle does not list its training images" in remark for remark in metrics["remarks"]
    )


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Which network is to be evaluated?"),
        (["run=.", "bundle=."], "not run and bundle."),
        (["run=nowhere"], "run=nowhere: there is no such folder, and no run in runs: train"),
        (["run=.", "swap_axes=true"], "swap_axes=true is for model=NAME"),
        (["bundle=.", "calibrate=true"], "calibrate=true is for run=RUN"),
        (["model=squeezenet"], "model=squeezenet needs model.weights=FILE and classes=FILE"),
        (["run=.", "mapping=nowhere.csv"], "mapping=nowhere.csv: there is no such file"),
        (["run=.", "fold=5"], "fold=5: there are 5 folds"),
        (["run=.", "wanted_precision=1"], "wanted_precision=1: it must be a number between 0"),
        (["run=.", "unseen=perhaps"], "unseen=perhaps: it must be true or false."),
        (["model=squeezenet", "mean=[1,2]"], "mean=[1, 2]: it must be [R,G,B]"),
        (["model=squeezenet", "std=[0,1,1]"], "std[0]=0: it must be a number of at least 1e-06"),
    ],
)
def test_wrong_settings_are_one_sentence(words: list[str], sentence: str, place: Path) -> None:
    with pytest.raises(SettingError) as error:
        evaluate(settings(*words, "data.root=."))
    assert sentence in str(error.value)
    assert list(place.iterdir()) == []


def test_settings_are_refused_by_the_command_too(place: Path) -> None:
    result = run_command(place, "run=.", verb="evaluate")
    assert result.code == 2
    assert "data=folder needs data.root=DIR" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_what_is_no_finished_run_is_told(again: Path, tiny: Path, place: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        evaluated(place, f"run={tiny}", f"data.root={tiny}")
    for name, sentence in (
        ("record.json", r"record\.json, .* overrides is missing: .* Train this run again"),
        ("metrics.json", r"metrics\.json, .* status is missing: .* Train this run again"),
    ):
        whole = (again / name).read_text("utf-8")
        (again / name).write_text('{"format": 2}', "utf-8")
        with pytest.raises(RunError, match=sentence):
            evaluated(place, f"run={again}", f"data.root={tiny}")
        (again / name).write_text(whole, "utf-8")
    checkpoint = again / "checkpoints" / "best.ckpt"
    network = checkpoint.read_bytes()
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(RunError, match="cannot be loaded"):
        evaluated(place, f"run={again}", f"data.root={tiny}")
    checkpoint.write_bytes(network)
    # it lists the images that were trained on
    (again / "data.csv").write_text("")
    with pytest.raises(RunError, match=r"data\.csv is missing or damaged"):
        evaluated(place, f"run={again}", f"data.root={tiny}")
    (again / "metrics.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        evaluated(place, f"run={again}", f"data.root={tiny}")


def test_empty_folders_and_bad_images_are_reported(run: Path, tiny: Path, place: Path) -> None:
    (place / "empty").mkdir()
    with pytest.raises(DataError, match="has no folders in it"):
        evaluated(place, f"run={run}", f"data.root={place / 'empty'}")
    data = renamed(tiny, place, {})
    (data / "A" / "A0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"A/A0\.png: empty"):
        evaluated(place, f"run={run}", f"data.root={data}")
    metrics = evaluated(place, f"run={run}", f"data.root={data}", "data.on_bad_image=exclude")
    assert metrics["images"]["excluded"] == 1
    assert rows_of(place / "out" / "files.csv")[0]["path"] == "A/A0.png"


def test_a_run_folder_is_never_overwritten(again: Path, tiny: Path) -> None:
    before = (again / "metrics.json").read_bytes()
    with pytest.raises(SettingError, match="must not be changed"):
        evaluate(settings(f"run={again}", f"data.root={tiny}", f"out={again}"))
    assert (again / "metrics.json").read_bytes() == before


# --- class names and metrics, as functions -------------------------------------------------------


def test_names_match_exactly_before_they_match_but_for_case() -> None:
    matches = map_classes(["a", "del", "X"], ["A", "a", "DEL"])
    assert [(m.network, m.how) for m in matches] == [
        ("a", "the same name"), ("DEL", "but for case"), (None, "not known"),
    ]  # fmt: skip
    mapped = map_classes(["A", "B"], ["A", "B"], {"A": "B", "B": None})
    assert [m.network for m in mapped] == ["B", None]


@pytest.mark.parametrize(
    ("data", "network", "names"),
    [
        (["Del"], ["DEL", "del"], ["DEL", "del"]),
        (["A", "a"], ["A"], ["A and a"]),
        (["Del", "DEL"], ["del", "x"], ["Del and DEL"]),
    ],
)
def test_ambiguous_names_are_errors(data: list[str], network: list[str], names: list[str]) -> None:
    with pytest.raises(DataError) as error:
        map_classes(data, network)
    assert all(name in str(error.value) for name in [*names, "mapping=FILE"])
    assert map_classes(data, network, dict.fromkeys(data, network[0]))  # a mapping decides


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("m.csv", "x,y\na,A\n", "its first line must be data,network"),
        ("m.csv", "", "its first line must be data,network"),
        ("m.csv", "data,network\na,Q\n", "the network has no class Q"),
        ("m.csv", "data,network\na,A\na,B\n", "names a twice"),
        ("m.json", "[1]", "no JSON object of names"),
        ("m.json", "{", "is no JSON"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(
    name: str, text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingError, match=sentence):
        class_mapping.read_mapping(tmp_path / name, ["A", "B"])


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("c.txt", "A\n", "names 1 classes"),
        ("c.txt", "A\nB\nA\n", "names A twice"),
        ("c.json", '{"A": 0}', "holds no list of names"),
        ("c.json", "A\nB", "is no JSON"),
    ],
)
def test_classes_that_make_no_sense_are_refused(
    name: str, text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingError, match=sentence):
        class_mapping.read_classes(tmp_path / name)


def test_metrics_of_some_classes_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(6), size=300)
    labels = rng.choice([0, 2, 5], size=300)
    metrics = classification.classification_metrics(shares, labels)
    best = shares.argmax(1)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, best))
    expected = f1_score(labels, best, labels=[0, 2, 5], average="macro")
    assert metrics["macro_f1"] == pytest.approx(expected)
    assert metrics["loss"] == pytest.approx(log_loss(labels, shares, labels=range(6)))
    three = classification.restrict_to_classes(shares, [0, 2, 5])
    logits = torch.from_numpy(np.log(shares))[:, [0, 2, 5]]
    np.testing.assert_allclose(three, logits.softmax(1).numpy(), atol=1e-12)


# --- real images -------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_digits_and_letters_of_other_signers(shared: Path, tmp_path: Path) -> None:
    def done(*words: str, verb: str = "train") -> None:
        result = run_command(tmp_path, *words, verb=verb)
        assert result.code == 0, result.err

    digits, letters = shared / "data/digits/Dataset", shared / "data/hand_reader/images"
    words = ["data=digits", f"data.root={digits}", "model=simple_cnn", "image_size=48"]
    words += ["split=signer", "trainer.max_epochs=6", "trainer.accelerator=cpu"]
    done(*words, "wanted_precision=0.95")
    (run,) = tmp_path.glob("runs/digits/*/fold=0")
    calibration = json_of(run / "calibration.json")
    assert calibration["images"] > 100
    assert calibration["wanted_precision"] == 0.95
    assert "wanted_precision" not in run.parent.name
    done(f"run={run}", "data=digits", f"data.root={digits}",
                      "unseen=true", "out=same", verb="evaluate")  # fmt: skip
    now, then = json_of(tmp_path / "same/metrics.json"), json_of(run / "metrics.json")
    assert now["test"]["accuracy"] == pytest.approx(then["test"]["accuracy"], abs=1e-6)
    assert now["test"]["loss"] == pytest.approx(then["test"]["loss"], abs=1e-4)
    assert now["calibration"]["coverage"] == pytest.approx(
        calibration["coverage"]["test"], abs=0.005
    )
    assert len(rows_of(tmp_path / "same/per_signer.csv")) > 30

    words = [f"run={run}", f"data.root={letters}", "out=others"]
    refused = run_command(tmp_path, *words, verb="evaluate")
    assert "share no class" in refused.err
    (tmp_path / "names.csv").write_text("data,network\nV,2\nI,1\n")
    done(*words, "mapping=names.csv", verb="evaluate")
    metrics = json_of(tmp_path / "others/metrics.json")
    assert metrics["images"]["of_shared_classes"] == 100
    assert metrics["images"]["of_unknown_classes"] == 400
    assert metrics["images"]["trained_on"] == 0
    assert metrics["shared_classes_only"]["accuracy"] >= metrics["test"]["accuracy"]
