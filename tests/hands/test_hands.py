"""hands=crop, landmarks and both from an image file to its probability, by every way there is."""

import csv
import hashlib
import io
import json
from pathlib import Path

import bundles
import httpx
import numpy as np
import pytest
from conftest import QUICK, run_command
from made_hands import FINGERS
from PIL import Image
from services import service

from signlang import api
from signlang.arrays import Pixels
from signlang.errors import BundleError, SettingError
from signlang.hands.hand_input import HandPoints
from signlang.hands.hand_networks import HandNetworks, find_networks
from signlang.inference.bundle import load_bundle, load_hands, load_signs
from signlang.server.schemas import ModelInfo, ModelList

POINTS = ("model=landmarks", "hands=landmarks", "image_size=8", "optimizer.lr=0.02",
          "model.network.dimensions=2")  # fmt: skip
CROP = ("hands=crop", "hands.mirror=true", "data.stored_size=48", "optimizer.lr=1e-3")
BOTH = ("model=fusion", "model.pretrained=false", "hands=both", "image_size=64",
        "data.stored_size=48", "trainer.max_epochs=3", "augment=digits")  # fmt: skip
WITHOUT = {"A/A4.png", "B/B4.png", "ß/ß4.png"}


def trained_with(place: Path, images: Path, *words: str) -> api.LoadedRun:
    return api.train([
        *QUICK, f"data.root={images}", f"runs_dir={place}/runs", "verbose=false", "folds=3",
        "trainer.max_epochs=12", "callbacks.early_stopping=null", *words,
    ])  # fmt: skip


@pytest.fixture(scope="module", params=[POINTS, CROP, BOTH], ids=["landmarks", "crop", "both"])
def run(
    request: pytest.FixtureRequest, made_cache: Path, some_without: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> api.LoadedRun:  # fmt: skip
    return trained_with(tmp_path_factory.mktemp("hands"), some_without, *request.param)


@pytest.fixture(scope="module")
def bundle(run: api.LoadedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "b"
    return api.export([f"run={run.path}", f"out={out}", "verbose=false"])


def test_a_run_says_where_no_hand_was_found(run: api.LoadedRun) -> None:
    with (run.path / "data.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["path"] for row in rows if row["hand"] == "not found"} == WITHOUT
    counts = run.metrics["hands"]["not_found_in"]
    assert sum(counts.values()) == 3
    for subset, count in counts.items():
        there = [row for row in rows if subset in row["subset"]]
        assert count == sum(row["hand"] == "not found" for row in there)
    assert run.record["settings"]["hands.networks"] == "d195da73"


def test_every_way_gives_the_same_probabilities(
    run: api.LoadedRun, bundle: Path, some_without: Path, tmp_path: Path
) -> None:
    names = list(run.predictions)[-3:]
    recorded = np.array([run.predictions[name] for name in names]).T
    files = [some_without / path for path in run.predictions["path"]]
    assert WITHOUT & set(run.predictions["path"]), "one without a hand is among them"
    again = run.network.predict_images(files).numpy()
    assert again == pytest.approx(recorded, abs=1e-4)
    predictor = api.load_bundle(bundle)
    classes = predictor.bundle.classes
    temperature = predictor.bundle.temperature
    wanted = recorded ** (1 / temperature)
    wanted /= wanted.sum(axis=1, keepdims=True)
    for file, row, prediction in zip(files, wanted, predictor.predict(files), strict=True):
        found = dict(prediction.top_k)
        assert [found[name] for name in classes] == pytest.approx(row.tolist(), abs=1e-4)
        assert prediction.hand is (file.relative_to(some_without).as_posix() not in WITHOUT)
    shown = run_command(
        tmp_path, f"bundle={bundle}", "format=csv", *map(str, files), verb="predict"
    )
    cells = list(csv.DictReader(io.StringIO(shown.out)))
    without = sum(path in WITHOUT for path in run.predictions["path"])
    assert [row["hand"] for row in cells].count("not found") == without
    assert f"no hand found in {without}" in shown.err
    table = run_command(tmp_path, f"bundle={bundle}", *map(str, files), verb="predict")
    assert table.code == 0, table.err
    lines = {line.split("  ")[0]: line.rstrip() for line in table.out.splitlines()}
    assert lines["path"].endswith("  hand")
    for file in files:
        is_found = file.relative_to(some_without).as_posix() not in WITHOUT
        assert lines[str(file)].endswith("  found" if is_found else "  not found")
    with service(tmp_path, f"bundle={bundle}") as running, running.client() as client:
        uploads = [("any", (file.name, file.read_bytes())) for file in files]
        answers = client.post("/v1/predict", files=uploads).json()["predictions"]
        (listed,) = ModelList.model_validate(client.get("/v1/models").json()).models
        check_networks(client, listed, bundle)
    assert listed.hands
    assert predictor.hands
    for file, row, answer in zip(files, wanted, answers, strict=True):
        shares = [answer["probabilities"][name] for name in classes]
        assert shares == pytest.approx(row.tolist(), abs=1e-4)
        assert answer["hand"] is (file.relative_to(some_without).as_posix() not in WITHOUT)
        _, hand = predictor.hands(Image.open(file))
        assert ("landmarks" in answer) is (hand is not None)
        if hand is not None:
            place = answer["landmarks"]
            assert place["box"] == pytest.approx(hand.box, abs=0.06)
            assert place["right"] == pytest.approx(hand.right, abs=1e-4)
            assert np.array(place["points"]) == pytest.approx(hand.points[:, :2], abs=0.06)
    for network in (f"run={run.path}", f"bundle={bundle}"):
        folder = api.evaluate([
            network, "data=folder", f"data.root={some_without}", "split=stratified", "folds=3",
            f"out={tmp_path / network[:3]}", "verbose=false",
        ])  # fmt: skip
        with (folder / "predictions.csv").open(newline="", encoding="utf-8") as stream:
            rows = {row["path"]: row for row in csv.DictReader(stream)}
        for path, row in zip(run.predictions["path"], recorded, strict=True):
            shares = [float(rows[path][name]) for name in names]
            assert shares == pytest.approx(row.tolist(), abs=1e-4)
        assert {path for path, row in rows.items() if row["hand"] == "not found"} == WITHOUT
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
        assert metrics["hands"]["not_found_in"] == 3
        assert "Hands: found in 33 of 36 images" in " ".join(metrics["remarks"])


def test_a_bundle_holds_the_mean_hand_of_each_class(bundle: Path) -> None:
    signs = load_signs(load_bundle(bundle))
    assert list(signs) == list("ABß")
    for name, tip in zip("ABß", FINGERS, strict=True):
        points = np.array(signs[name])
        assert points.shape == (21, 2)
        assert points[0].tolist() == [0, 0]
        assert min(FINGERS, key=lambda one: points[one, 1]) == tip  # which the colour makes long


def test_drawings_are_left_out_where_the_images_are_gone(
    run: api.LoadedRun, tmp_path: Path
) -> None:
    words = [f"run={run.path}", f"out={tmp_path}/b", "verify=generated", f"images={tmp_path}"]
    bundle = load_bundle(api.export([*words, "verbose=false"]))
    assert not load_signs(bundle)
    assert load_hands(bundle) is not None


@pytest.mark.parametrize("signs", ['{"A": [[0, 1]]}', '{"A": 1}', "[", '{"A": [[1e999, 0]]}'])
def test_drawings_that_cannot_be_drawn_are_refused(
    made_networks: HandNetworks, tmp_path: Path, signs: str
) -> None:
    bundles.write(tmp_path / "b", hands=HandPoints(made_networks), signs={})
    (tmp_path / "b" / "signs.json").write_text(signs, "utf-8")
    info = json.loads((tmp_path / "b" / "bundle.json").read_text("utf-8"))
    info["files"]["signs.json"] = hashlib.sha256(signs.encode()).hexdigest()
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(info), "utf-8")
    with pytest.raises(BundleError, match=r"signs\.json of"):
        load_signs(load_bundle(tmp_path / "b"))


def check_networks(client: httpx.Client, listed: ModelInfo, bundle: Path) -> None:
    """A browser gets what finds hands: once, compressed, and with the settings of the bundle."""
    info = json.loads((bundle / "bundle.json").read_text("utf-8"))
    browser_hands = listed.browser.hands
    assert browser_hands
    assert browser_hands.options == info["hands"]["options"]
    size = 0
    for name, address in (("palm", browser_hands.palm), ("landmarks", browser_hands.landmarks)):
        wanted = (bundle / "hands" / f"{name}.onnx").read_bytes()
        size += len(wanted)
        for accepted, encoding in (("gzip", "gzip"), ("identity", None)):
            got = client.get(address, headers={"accept-encoding": accepted})
            assert got.headers.get("content-encoding") == encoding
            assert got.content == wanted
            again = client.get(address, headers={"if-none-match": got.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
    assert browser_hands.bytes == size
    assert client.get(browser_hands.palm.replace("palm", "other")).status_code == 404


def test_the_points_tell_the_classes_apart(
    run: api.LoadedRun, request: pytest.FixtureRequest
) -> None:
    if "landmarks" not in request.node.callspec.id:
        pytest.skip("of landmarks only")
    right = [
        correct
        for path, correct in zip(run.predictions["path"], run.predictions["correct"], strict=True)
        if path not in WITHOUT
    ]
    assert all(right)
    assert run.metrics["cost"]["parameters"] < 25_000


def test_a_bundle_carries_the_networks_that_find_hands(bundle: Path, tmp_path: Path) -> None:
    info = json.loads((bundle / "bundle.json").read_text("utf-8"))
    assert info["format"] == 3
    assert {"hands/palm.onnx", "hands/landmarks.onnx", "hands/LICENSE"} <= set(info["files"])
    card = (bundle / "card.md").read_text("utf-8").replace("\n", " ")
    options = info["hands"]["options"]
    assert ("a square around the hand" in card) == ("margin" in options)
    assert ("the 21 points" in card) == (options["input"] != "HandCrop")
    assert ("written into its last row" in card) == (options["input"] == "HandBoth")
    info["hands"] = None
    (tmp_path / "b").mkdir()
    for file in bundle.rglob("*"):
        if file.is_file():
            target = tmp_path / "b" / file.relative_to(bundle)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(info), "utf-8")
    with pytest.raises(BundleError, match="format 3 is that of bundles which find hands"):
        load_bundle(tmp_path / "b")


def test_a_blank_image_stands_where_no_hand_is_found(
    made_cache: Path, some_without: Path, tmp_path: Path
) -> None:
    run = trained_with(tmp_path, some_without, "hands=crop", "hands.not_found=blank",
                  "trainer.max_epochs=1")  # fmt: skip
    dark, grey = some_without / "A/A4.png", Image.new("RGB", (8, 8), (128, 128, 128))
    with run_network(run) as network:
        (network_input,) = network(dark)
        assert np.array_equal(network_input, np.asarray(grey.resize((32, 32))))
    assert run.metrics["hands"]["not_found"] == "blank"


class run_network:
    """The images that the network of a run gets."""

    def __init__(self, run: api.LoadedRun) -> None:
        self.model = run.network

    def __enter__(self) -> "run_network":
        self.seen: list[Pixels] = []
        self.hook = self.model.register_forward_pre_hook(
            lambda _, inputs: self.seen.extend(inputs[0].numpy())
        )
        return self

    def __call__(self, file: Path) -> list[Pixels]:
        self.model.predict_images(file)
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def test_runs_without_hands_have_no_trace_of_them(trained: Path) -> None:
    record = json.loads((trained / "record.json").read_text("utf-8"))
    assert not [key for key in record["settings"] if key.startswith("hands")]
    assert "hand" not in (trained / "data.csv").read_text("utf-8").splitlines()[0]
    assert "hands" not in json.loads((trained / "metrics.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model=landmarks", "image_size=8"], "say hands=landmarks"),
        (["hands=landmarks"], "an image of 8 x 8; say model=landmarks and image_size=8"),
        (["model=landmarks", "hands=landmarks", "image_size=8", "augment=digits"],
         "cannot be transformed as images"),
        (["hands=both"], "which model=simple_cnn does not read: say model=fusion"),
        (["model=fusion", "image_size=64"], "model=fusion reads crop and points of the hand"),
        (["model=fusion", "hands=both", "image_size=63"], "hands=both needs at least 64"),
        (["model=fusion", "hands=both", "image_size=64", "hands.image_size=65"],
         "hands.image_size is the same; leave that out"),
        (["model=fusion", "hands=both", "image_size=64", "cutmix=1"], "which cannot be mixed"),
        (["hands=crop", "hands.not_found=maybe"], "full (the whole image) or blank (a grey one)"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(
    words: list[str], sentence: str, some_without: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError) as caught:
        trained_with(tmp_path, some_without, *words)
    assert sentence in str(caught.value)


def test_missing_networks_are_told_with_the_fix(some_without: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="signlang hands"):
        trained_with(tmp_path, some_without, *POINTS, f"cache_dir={tmp_path / 'empty'}")
    assert not (tmp_path / "runs").exists(), "before anything is begun"


def test_the_command_says_in_a_sentence_that_pip_brings_nothing(tmp_path: Path) -> None:
    there = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""}
    done = run_command(tmp_path, f"cache_dir={tmp_path / 'c'}", verb="hands", **there)
    assert done.code == 2
    assert "pip cannot fetch mediapipe==0.10.21" in done.err
    assert "hand_landmarker.task as hands.model=FILE" in done.err
    assert "Traceback" not in done.err
    assert not list((tmp_path / "c").rglob("*.onnx"))


def test_a_file_that_is_no_hand_landmarker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.task").write_bytes(b"PK no")
    done = run_command(tmp_path, "model=x.task", f"cache_dir={tmp_path}", verb="hands")
    assert done.code == 1
    assert "x.task is no hand landmarker of MediaPipe" in done.err


def test_the_networks_come_with_their_licence(made_cache: Path) -> None:
    assert find_networks(None, str(made_cache)).license == "made for a test\n"


def test_the_data_card_names_the_images_without_a_hand(
    made_cache: Path, some_without: Path, tmp_path: Path
) -> None:
    place = api.describe([
        "data=folder", f"data.root={some_without}", "hands=crop", "verbose=false", "samples=1",
        f"out={tmp_path}", "folds=3",
    ])  # fmt: skip
    with (place / "hands.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["path"] for row in csv.DictReader(stream)} == WITHOUT
    page = (place / "card.html").read_text("utf-8")
    assert "A hand is found in 33 of 36 images" in page
    assert (place / "figures" / "hands.png").is_file()
