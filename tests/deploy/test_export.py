"""`python -m signlang.export`: a bundle says what its run says, or it is not written."""

import hashlib
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import Result, run_command
from hydra import compose
from PIL import Image

from signlang import validation
from signlang.data.image_io import decode, read_image, resize_image
from signlang.deploy import bundle_writer, onnx_export, parity, pipeline
from signlang.deploy.onnx_resize import resize_graph
from signlang.errors import BundleError, DataError, RunError, SettingError, SignlangError
from signlang.export import export
from signlang.files import read_csv
from signlang.hydra_app import quoted
from signlang.inference.bundle import load_bundle
from signlang.inference.onnx_model import OnnxModel
from signlang.metrics.calibration import Calibration, apply_temperature
from signlang.metrics.significance import clustered_interval
from signlang.models.classifier import Classifier
from signlang.reporting.formatting import interval_text, intervals_sentence
from signlang.runs import trained_run
from signlang.runs.folder import RunFolder
from signlang.runs.results import read_predictions
from signlang.runs.trained_run import TrainedRun

FAMILIES = {
    "squeezenet": {}, "resnet18": {}, "mobilenetv2": {}, "simple_cnn": {}, "mobilenetv2_dense": {},
    "timm": {"architecture": "resnet10t"},
}  # fmt: skip


def export_config(run: Path, *words: str) -> Any:
    return compose("export", overrides=[quoted(word) for word in (f"run={run}", *words)])


ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-3}


def classifier(name: str, size: int, **options: Any) -> Classifier:
    torch.manual_seed(0)
    network = {"_target_": f"signlang.models.networks.{name}", **options}
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.2]
    return Classifier(network, ["A", "B", "C"], size, mean, std, ADAM).eval()


def untrained(model: Classifier, stored: int | None = None) -> TrainedRun:
    settings = {"settings": {"data.stored_size": stored}}
    return TrainedRun(Path(), {"model": "a network"}, settings, {}, model, Calibration(1.7))


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


# what the graph does


@pytest.mark.parametrize("image_sizes", [(32,), (41, 56), (100,), (40, 27)])
def test_the_graph_squeezes_bit_for_bit_as_training_does(image_sizes: tuple[int, ...]) -> None:
    resize = session(resize_graph(image_sizes, 18, 10))
    rng = np.random.default_rng(0)
    sizes = [
        (1, 1),
        (1, 300),
        (300, 1),
        (image_sizes[0], image_sizes[0]),
        (image_sizes[0], 90),
        (480, 640),
    ]
    sizes += [tuple(rng.integers(1, 400, 2).tolist()) for _ in range(25)]
    for height, width in sizes:
        images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        (output,) = resize.run(None, {"images": images})
        expected = list(images)
        for size in image_sizes:
            expected = [resize_image(Image.fromarray(image), size) for image in expected]
        np.testing.assert_array_equal(output.transpose(0, 2, 3, 1), np.stack(expected))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_network_says_the_same_as_a_graph(name: str) -> None:
    model = classifier(name, 32, **FAMILIES[name])
    run = untrained(model, stored=40 if name == "squeezenet" else None)
    graph = session(onnx_export.whole_graph(onnx_export.network_graph(run), run.image_sizes))
    for count, height, width in ((5, 32, 32), (1, 70, 45)):
        rng = np.random.default_rng(count)
        images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        resized_images = list(images)
        for size in run.image_sizes:
            resized_images = [
                resize_image(Image.fromarray(image), size) for image in resized_images
            ]
        with torch.inference_mode():
            expected = (model(torch.from_numpy(np.stack(resized_images))) / 1.7).softmax(1).numpy()
        (output,) = graph.run(None, {"images": images})
        np.testing.assert_allclose(output, expected, atol=1e-5)


# a bundle and its run


def test_a_bundle_says_what_the_run_recorded(
    exported: tuple[Path, Result], trained: Path, tiny: Path
) -> None:
    bundle = load_bundle(exported[0])
    network = OnnxModel.from_bundle(bundle)
    rows = read_csv(trained / "predictions.csv")
    assert bundle.classes == network.classes == ("A", "B", "ß")
    recorded = np.array([[float(row[f"p_{name}"]) for name in bundle.classes] for row in rows])
    files = [(tiny / row["path"]).read_bytes() for row in rows]
    outputs = network(np.stack([read_image(data) for data in files]))
    np.testing.assert_allclose(outputs, apply_temperature(recorded, bundle.temperature), atol=1e-4)
    assert [bundle.classes[k] for k in outputs.argmax(1)] == [row["predicted"] for row in rows]


def test_images_of_every_kind_are_judged_alike(
    exported: tuple[Path, Result], trained: Path
) -> None:
    network, run = (
        OnnxModel.from_bundle(load_bundle(exported[0])),
        trained_run.load_trained_run(trained),
    )
    for name, data in parity.synthetic_files(32, seed=7).items():
        resized = torch.from_numpy(resize_image(decode(data), 32)[None].copy())
        with torch.inference_mode():
            logits = run.classifier(resized) / run.calibration.temperature
        outputs = network(read_image(data)[None])
        np.testing.assert_allclose(outputs, logits.softmax(1), atol=1e-4, err_msg=name)


def test_a_bundle_is_complete_and_tells_no_paths(
    exported: tuple[Path, Result], trained: Path, tiny: Path
) -> None:
    folder, result = exported
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert set(files) == {
        "bundle.json", "model.onnx", "model.int8.onnx", "model.pt2", "classes.json", "record.json",
        "metrics.json", "card.md", "card.html", "figures/confusion.png",
    }  # fmt: skip
    info = json.loads(files["bundle.json"].read_text("utf-8"))
    assert set(info["files"]) == set(files) - {"bundle.json"}
    metrics = json.loads((trained / "metrics.json").read_text())
    assert info["accuracy"]["run"] == metrics["test"]["accuracy"]
    assert info["accuracy"]["fp32"] == pytest.approx(metrics["test"]["accuracy"], abs=1e-6)
    assert info["verified"]["images"] == len(read_csv(trained / "predictions.csv"))
    assert info["verified"]["largest_difference"] <= parity.TOLERANCE
    for name, file in files.items():
        data = file.read_bytes()
        assert str(tiny).encode() not in data, name
        assert str(trained.parents[3]).encode() not in data, name
        assert b"site-packages" not in data, name
        assert not data.startswith(b"\x80"), f"{name} is a pickle"
    with zipfile.ZipFile(files["model.pt2"]) as program:
        assert not [i.filename for i in program.infolist() if i.filename.endswith(".pt")
                    and i.file_size]  # fmt: skip
    assert "run and bundle agree on" in result.out
    card = files["card.md"].read_text("utf-8")
    assert "people not seen in training" in card
    predictions = read_predictions(RunFolder(trained), metrics["fold"])
    expected = clustered_interval(predictions.correct, predictions.signers)
    assert info["accuracy"]["interval"] == (
        None if expected is None else pytest.approx(expected, abs=1e-6)
    )
    assert f" | {interval_text(expected)} | {predictions.clusters} |" in card
    assert predictions.clusters is not None
    assert intervals_sentence(predictions.clusters) in card
    assert "| licence of the data | not stated |" in card
    assert "Signs that need movement are beyond it." in card


def test_the_graph_is_written_for_any_number_and_size(exported: tuple[Path, Result]) -> None:
    model = onnx.load(exported[0] / "model.onnx")
    (given,), (output,) = model.graph.input, model.graph.output
    shape = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert (given.name, shape) == ("images", ["N", "H", "W", 3])
    assert output.name == "probabilities"
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_the_torch_program_says_the_same(exported: tuple[Path, Result], trained: Path) -> None:
    run = trained_run.load_trained_run(trained)
    program: Any = torch.export.load(exported[0] / "model.pt2").module()
    images = torch.randint(0, 256, (7, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = (run.classifier(images) / run.calibration.temperature).softmax(1)
        torch.testing.assert_close(program(images), expected, atol=1e-5, rtol=0)


def test_int8_is_smaller_measured_and_close(
    exported: tuple[Path, Result], trained: Path, tiny: Path
) -> None:
    bundle = load_bundle(exported[0])
    assert len(bundle.read("model.int8.onnx")) < 0.4 * len(bundle.read("model.onnx"))
    accuracy = bundle.info["accuracy"]
    assert accuracy["fp32"] - accuracy["int8"] == pytest.approx(accuracy["int8_loss"], abs=1e-6)
    rows = read_csv(trained / "predictions.csv")
    images = np.stack([read_image((tiny / row["path"]).read_bytes()) for row in rows])
    outputs = OnnxModel.from_bundle(bundle, "int8")(images)
    right = [
        bundle.classes[k] == row["label"] for k, row in zip(outputs.argmax(1), rows, strict=True)
    ]
    assert np.mean(right) == pytest.approx(accuracy["int8"], abs=1e-6)
    assert np.abs(outputs - OnnxModel.from_bundle(bundle)(images)).max() < 0.2
    operations = {node.op_type for node in onnx.load(exported[0] / "model.int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operations


# what is refused


def altered(exported: Path, place: Path) -> Path:
    return Path(shutil.copytree(exported, place / "bundle"))


def resealed(folder: Path, **changes: Any) -> None:
    """Write the manifest anew, with the checksums of what is there now."""
    info = json.loads((folder / "bundle.json").read_text("utf-8")) | changes
    info["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in info["files"]
    }
    (folder / "bundle.json").write_text(json.dumps(info), "utf-8")


def test_damaged_bundles_are_refused_in_a_sentence(
    exported: tuple[Path, Result], tmp_path: Path
) -> None:
    bundle = altered(exported[0], tmp_path)
    model = bundle / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match="its checksum differs"):
        load_bundle(bundle)
    model.write_bytes(whole[: len(whole) // 2])
    resealed(bundle)
    with pytest.raises(BundleError, match="cannot be used by onnxruntime"):
        OnnxModel.from_bundle(load_bundle(bundle))
    model.unlink()
    with pytest.raises(BundleError, match=r"incomplete: model\.onnx is missing"):
        load_bundle(bundle)
    model.write_bytes(whole)
    resealed(bundle, format=99)
    with pytest.raises(BundleError, match="has format 99"):
        load_bundle(bundle)
    for key, value, sentence in (
        ("classes", ["A", "A"], r"classes=\[A, A\]: each name must be there once"),
        ("temperature", 0, "temperature=0: it must be a number above 0"),
        ("image_size", "x", "image_size=x: it must be a whole number from 1 to 4096"),
        (
            "preprocessing",
            {"image_sizes": [0]},
            r"preprocessing\.image_sizes\[0\]=0: it must be a whole",
        ),
        ("models", {"int8": "model.onnx"}, r"models\.fp32 is missing"),
    ):
        resealed(altered(exported[0], tmp_path / key), **{key: value})
        with pytest.raises(BundleError, match=rf"bundle\.json of .*{sentence}.* export the run"):
            load_bundle(tmp_path / key / "bundle")
    resealed(altered(exported[0], tmp_path / "fewer"), classes=["A", "B"])
    with pytest.raises(BundleError, match="names other classes than"):
        OnnxModel.from_bundle(load_bundle(tmp_path / "fewer" / "bundle"))
    (bundle / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="is damaged"):
        load_bundle(bundle)


def test_what_is_no_bundle_is_refused(
    exported: tuple[Path, Result], trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="no such folder or ZIP file"):
        load_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match="It is a run: export it first"):
        load_bundle(trained)
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(BundleError, match="neither a folder nor"):
        load_bundle(tmp_path / "text.zip")
    plain = load_bundle(exported[0])
    with pytest.raises(BundleError, match=r"has no \.\./secret"):
        plain.read("../secret")
    with pytest.raises(BundleError, match="has no fp16 model, only fp32, int8"):
        OnnxModel.from_bundle(plain, "fp16")
    with pytest.raises(SettingError, match="device=tpu"):
        OnnxModel.from_bundle(plain, device="tpu")


def zipped(folder: Path, file: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, inside + path.relative_to(folder).as_posix())
    return file


def test_zip_files_are_read_in_place_and_never_outside(
    exported: tuple[Path, Result], tmp_path: Path
) -> None:
    plain = load_bundle(exported[0])
    for name, inside in (("flat", ""), ("deep", "digits/")):
        bundle = load_bundle(zipped(exported[0], tmp_path / f"{name}.zip", inside))
        assert bundle.read("card.md") == plain.read("card.md")
        assert bundle.info == plain.info
    for odd in ("../outside", "/etc/outside", "a\\..\\b"):
        bad = shutil.copy(tmp_path / "flat.zip", tmp_path / "odd.zip")
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(odd, "x")
        with pytest.raises(BundleError, match="a file outside of itself"):
            load_bundle(Path(bad))
    cut = tmp_path / "cut.zip"
    cut.write_bytes((tmp_path / "flat.zip").read_bytes()[:5000])
    with pytest.raises(BundleError, match="no bundle"):
        load_bundle(cut)
    resealed(altered(exported[0], tmp_path), models={"fp32": "../../model.onnx"})
    with pytest.raises(BundleError, match="has no checksum"):
        load_bundle(tmp_path / "bundle")


def test_a_bundle_of_another_network_does_not_pass(
    exported: tuple[Path, Result], trained: Path
) -> None:
    run = trained_run.load_trained_run(trained)
    network: Any = run.classifier.network
    with torch.no_grad():
        network.classifier.bias.add_(torch.tensor([0.01, 0.0, 0.0]))
    with pytest.raises(BundleError, match="The run and the bundle disagree"):
        parity.verify_parity(
            run,
            OnnxModel.from_bundle(load_bundle(exported[0])),
            trained_run.find_images(run, None),
            500,
        )


@pytest.mark.usefixtures("configuration")
def test_int8_that_costs_too_much_is_refused(exported: tuple[Path, Result], trained: Path) -> None:
    run, other = trained_run.load_trained_run(trained), untrained(classifier("simple_cnn", 32))
    models = {
        "fp32": load_bundle(exported[0]).read("model.onnx"),
        "int8": pipeline.onnx_model(other, onnx_export.network_graph(other)),
    }
    cfg, images = export_config(trained), trained_run.find_images(run, None)
    with pytest.raises(BundleError, match=r"more than int8_loss=0\.01"):
        pipeline.measure(cfg, run, images, models, "all layers")
    cfg.int8_loss = 0.99
    assert pipeline.measure(cfg, run, images, models, "all layers").int8_loss > 0.01  # type: ignore[operator]


@pytest.fixture
def moved(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the run whose images are gone, and a place for bundles."""
    run = Path(shutil.copytree(trained, tmp_path / "runs" / "folder" / "cnn" / trained.name))
    config = run / ".hydra" / "config.yaml"
    lines = config.read_text("utf-8").splitlines()
    gone = [line.partition("root:")[0] + "root: /nowhere/images" if "root:" in line else line
            for line in lines]  # fmt: skip
    config.write_text("\n".join(gone), "utf-8")
    return run, tmp_path / "out"


def test_without_the_images_it_says_what_can_be_done(moved: tuple[Path, Path]) -> None:
    run, out = moved
    result = run_command(out.parent, f"run={run}", f"out={out / 'b'}", verb="export")
    assert result.code == 1
    assert "images=DIR" in result.err
    assert "verify=generated" in result.err
    assert "Traceback" not in result.err
    assert not out.exists()


@pytest.mark.usefixtures("configuration")
def test_drawn_images_or_moved_ones_will_do(
    moved: tuple[Path, Path], tiny: Path, tmp_path: Path
) -> None:
    run, out = moved
    export(export_config(run, f"out={out / 'b'}", "verify=generated", "zip=true", "name=sign 1"))
    bundle = load_bundle(out / "b.zip")
    assert bundle.name == "sign 1"
    assert bundle.info["verified"]["images"] == 0
    assert "fp32" not in bundle.info["accuracy"]
    export(export_config(run, f"out={out / 'b'}", f"images={tiny}", "verify=5"))
    assert load_bundle(out / "b").info["verified"]["images"] == 5
    assert load_bundle(out / "b").read("model.onnx") == bundle.read("model.onnx")
    assert sorted(path.name for path in out.iterdir()) == ["b", "b.zip"]
    # nothing is replaced in silence, and nothing that is no bundle at all
    with pytest.raises(BundleError, match="overwrite=true"):
        export(export_config(run, f"out={out / 'b'}", f"images={tiny}"))
    (out / "c").mkdir()
    (out / "c" / "thesis.txt").write_text("text")
    with pytest.raises(BundleError, match="no bundle: choose another place"):
        export(export_config(run, f"out={out / 'c'}", f"images={tiny}", "overwrite=true"))
    # other images under the same names: no bundle, nothing half written, the old one stays
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    for file, twin in zip(sorted(tiny.glob("A/*.png")), sorted(tiny.glob("B/*.png")), strict=True):
        shutil.copy(twin, other / "A" / file.name)
    with pytest.raises(DataError, match="they have changed"):
        export(export_config(run, f"out={out / 'b'}", f"images={other}", "overwrite=true"))
    assert load_bundle(out / "b").info["verified"]["images"] == 5
    export(export_config(run, f"out={out / 'b'}", f"images={tiny}", "verify=4", "overwrite=true"))
    assert load_bundle(out / "b").info["verified"]["images"] == 4
    assert sorted(path.name for path in out.iterdir()) == ["b", "b.zip", "c"]


@pytest.mark.usefixtures("configuration")
def test_a_run_is_read_once_and_a_bundle_sealed_and_loaded_once(
    trained: Path, tmp_path: Path, opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed: list[Path] = []
    write_manifest = bundle_writer.write_manifest

    def seal(folder: Path, info: Mapping[str, Any]) -> None:
        sealed.append(folder)
        write_manifest(folder, info)

    monkeypatch.setattr(bundle_writer, "write_manifest", seal)
    opened.clear()
    export(
        export_config(
            trained, f"out={tmp_path / 'b'}", "quantize=true", "int8_loss=0.9", "verify=5"
        )
    )
    names = (
        "metrics.json", "record.json", "predictions.csv", "data.csv", "classes.json",
        "history.csv", "calibration.json", "checkpoints/best.ckpt",
    )  # fmt: skip
    counts = {name: opened[str(trained / name)] for name in names}
    assert counts.pop("checkpoints/best.ckpt") <= 3  # its archive has checksums of its own
    assert set(counts.values()) <= {1, 2}, counts  # once to be read, once for its checksum
    (folder,) = sealed
    assert opened[str(folder / "bundle.json")] == 1
    # once for its checksum, once when the bundle is loaded as a service will
    assert opened[str(folder / "model.onnx")] == opened[str(folder / "model.int8.onnx")] == 2


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("predictions.csv", r"fold=0/predictions\.csv cannot be read \(No such file"),
        ("data.csv", r"fold=0/data\.csv is missing or damaged\. Train this run again"),
    ],
)
def test_what_the_run_said_must_be_known(
    moved: tuple[Path, Path], tiny: Path, name: str, sentence: str
) -> None:
    run, out = moved
    (run / name).unlink()
    with pytest.raises(RunError, match=sentence):
        export(export_config(run, f"out={out / 'b'}", f"images={tiny}", "quantize=true"))
    assert not out.exists()


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("formats=[onnx,coreml]", r"formats\[1\]=coreml: it must be onnx or torch_export"),
        ("formats=[torch_export]", "onnx must be among them"),
        ("verify=0", "verify=0"),
        ("int8_loss=2", "int8_loss=2"),
        ("calibration_images=0", "calibration_images=0"),
        ("quantize=maybe", "quantize=maybe"),
        ("name=a/b", "name=a/b"),
        ("images=/nowhere", "images=/nowhere: there is no such file or folder"),
    ],
)
def test_wrong_settings_are_refused_at_once(trained: Path, word: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        validation.check_export_config(export_config(trained, word))
    with pytest.raises(SettingError, match="quantize=true needs the run's images"):
        validation.check_export_config(export_config(trained, "quantize=true", "verify=generated"))


def test_what_is_no_finished_run_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(SignlangError, match="holds several runs: give one of fold=0"):
        trained_run.load_trained_run(trained.parent)
    with pytest.raises(SignlangError, match="is no run folder"):
        trained_run.load_trained_run(tmp_path)
    unfinished = tmp_path / "begun"
    unfinished.mkdir()
    shutil.copy(trained / "record.json", unfinished)
    with pytest.raises(SignlangError, match="is a run that is not finished"):
        trained_run.load_trained_run(unfinished)
    shutil.copy(trained / "metrics.json", unfinished)
    with pytest.raises(SignlangError, match=r"best\.ckpt cannot be loaded"):
        trained_run.load_trained_run(unfinished)


@pytest.mark.slow
def test_a_real_network_with_two_squeezes_and_int8(shared: Path, tmp_path: Path) -> None:
    frames = shared / "data" / "asl_alphabet" / "asl_alphabet_train" / "asl_alphabet_train"
    for name in "ABL":
        (tmp_path / "asl" / name).mkdir(parents=True)
        for file in sorted((frames / name).glob("*.jpg"))[::8]:
            (tmp_path / "asl" / name / file.name).symlink_to(file)
    weights = shared / "weights" / "squeezenet1_0.in1k.safetensors"
    trained = run_command(
        tmp_path, "data=folder", "data.root=asl", "data.stored_size=200", "image_size=224",
        f"model.weights={weights}", "trainer.max_epochs=3", "optimizer.lr=3e-4",
        "trainer.accelerator=cpu", "folds=3",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    (run,) = tmp_path.glob("runs/*/*/fold=0")
    # what is measured is measured here: how well so short a training quantizes is not the point
    words = [f"run={run}", "out=bundle", "quantize=true", "int8_loss=0.2"]
    result = run_command(tmp_path, *words, verb="export")
    assert result.code == 0, result.err
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.image_sizes == (200, 224)
    network = OnnxModel.from_bundle(bundle)
    for row in read_csv(run / "predictions.csv"):
        outputs = network(read_image((tmp_path / "asl" / row["path"]).read_bytes())[None])[0]
        recorded = np.array([[float(row[f"p_{name}"]) for name in bundle.classes]])
        np.testing.assert_allclose(
            outputs, apply_temperature(recorded, bundle.temperature)[0], atol=1e-4
        )
