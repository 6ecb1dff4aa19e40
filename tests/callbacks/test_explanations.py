"""`callbacks=explain`: Grad-CAM of images and the weight of each point."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from boards import events_of
from conftest import QUICK
from PIL import Image

from signlang import api
from signlang.callbacks.explanations import chosen_rows, finest_layer, grad_cam, point_weights
from signlang.hands.finder import Hand
from signlang.hands.hand_input import HandPoints
from signlang.hands.hand_networks import HandNetworks
from signlang.models.classifier import Classifier

NETWORKS = "signlang.models.networks"


def explained(place: Path, data: Path, *words: str) -> api.LoadedRun:
    return api.train([
        *QUICK, f"data.root={data}", f"runs_dir={place}/runs", "verbose=false",
        "callbacks=explain", *words,
    ])  # fmt: skip


def classifier(name: str, classes: Sequence[str], size: int) -> Classifier:
    torch.manual_seed(0)
    network = {"_target_": f"{NETWORKS}.{name}"}
    adamw = {"_target_": "torch.optim.AdamW"}
    return Classifier(network, classes, size, [0, 0, 0], [1, 1, 1], optimizer=adamw).eval()


def test_a_run_shows_where_it_looks(tiny: Path, tmp_path: Path) -> None:
    run = explained(tmp_path, tiny)
    sheet = Image.open(run.path / "explanations.png")
    assert sheet.width > 600
    assert "test/where it looks" in events_of(run.path).Tags()["images"]
    without = {key for key in run.record["settings"] if "explanations" in key}
    assert without == set(), "a picture more is not another run"
    study = run.path.parent.parent
    api.compare(study, allow_incomplete=True)
    assert "Where the networks look</h2>" in (study / "report.html").read_text("utf-8")
    assert (study / "figures" / "explanations.png").is_file()
    (run.path / "explanations.png").write_bytes(b"no image")
    api.compare(study, allow_incomplete=True)
    assert "cannot be shown: not an image" in (study / "report.html").read_text("utf-8")


def test_points_are_drawn_as_a_hand(some_without: Path, made_cache: Path, tmp_path: Path) -> None:
    words = ["model=landmarks", "hands=landmarks", "image_size=8", "optimizer.lr=0.02"]
    run = explained(tmp_path, some_without, *words)
    sheet = Image.open(run.path / "explanations.png")
    assert sheet.size == (648, 648)
    pixels = np.asarray(sheet.convert("RGB"), np.int64)
    blue = (pixels[..., 2] > pixels[..., 0] + 60).sum()
    assert blue > 500


@pytest.mark.parametrize(
    ("name", "size", "places"),
    [("simple_cnn", 100, 11), ("squeezenet", 128, 7), ("mobilenetv2", 64, 8), ("resnet18", 224, 7)],
)
def test_the_layer_is_the_last_one_worth_a_look(name: str, size: int, places: int) -> None:
    model = classifier(name, "AB", size)
    layer, shapes = finest_layer(model), []
    assert layer is not None
    layer.register_forward_hook(lambda *given: shapes.append(given[2].shape[2:]))
    model(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    assert [tuple(shape) for shape in shapes] == [(places, places)]


def test_the_map_is_where_the_class_is() -> None:
    """A network that sees bright pixels as class B, and nothing else."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 1, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(1, 2),
    )  # fmt: skip
    state = {"0.weight": torch.ones(1, 3, 1, 1), "0.bias": torch.zeros(1),
             "4.weight": torch.tensor([[0.0], [5.0]]), "4.bias": torch.zeros(2)}  # fmt: skip
    network.load_state_dict(state)
    network.requires_grad_(requires_grad=False)  # frozen layers are explained too
    model = classifier("simple_cnn", "AB", 32)
    model.network = network
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 4:12, 20:28] = 255
    layer = finest_layer(model)
    assert layer is network[1]
    (heat,) = grad_cam(model, layer, image)
    assert heat[4:12, 20:28].min() == pytest.approx(1, abs=1e-3)
    assert heat.sum() == pytest.approx(64, abs=1)


def test_a_network_of_tokens_has_no_map_of_places() -> None:
    model = classifier("simple_cnn", "AB", 32)
    model.network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Flatten(2), torch.nn.Linear(64, 2),
        torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten(),
    )  # fmt: skip
    assert finest_layer(model) is None


def test_mistakes_come_first_then_every_class() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    probabilities = np.array([
        [0.9, 0.1, 0], [0.8, 0.2, 0], [0.4, 0.6, 0], [0.3, 0.7, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1],
    ])  # fmt: skip
    assert chosen_rows(labels, probabilities, 4) == [3, 2, 0, 4, 6, 1]
    assert chosen_rows(labels, probabilities, 1) == [3, 0]


def test_the_point_that_tells_the_classes_apart_weighs_most(made_networks: HandNetworks) -> None:
    """Only the tip of the index finger, point 8, differs between the classes."""
    rng, inputs = np.random.default_rng(0), HandPoints(made_networks)
    base = rng.uniform(20, 60, (21, 3)).astype(np.float32)
    labels = np.arange(60) % 2
    images = []
    for label in labels:
        points = base + rng.normal(0, 0.5, (21, 3)).astype(np.float32)
        points[8, 1] -= 25 * label
        hand = Hand(points, 1.0, 1.0)
        images.append(np.asarray(inputs.of_hand(Image.new("RGB", (8, 8)), hand)))
    pixels = np.stack(images)
    model = classifier("landmarks", "AB", 8).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.tensor(pixels)), torch.tensor(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weights = point_weights(model.eval(), pixels, labels)
    assert weights.argmax() == 8
    assert weights[8] > 0.3 > 3 * np.delete(weights, 8).max()
