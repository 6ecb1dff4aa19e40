"""int8: how far from float it is, and what training for it does."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_export import classifier, export_config, untrained
from torch import nn

from signlang.arrays import Pixels
from signlang.deploy import pipeline
from signlang.deploy.onnx_export import inference_module, network_graph
from signlang.deploy.quantization import (
    Deviation,
    RoundedInput,
    RoundedWeight,
    adapt_to_int8,
    quantize_model,
)  # fmt: skip
from signlang.runs import trained_run

SIZE = 32


def images_of(count: int, seed: int) -> Pixels:
    """Patches of one colour, so that activations are as uneven as those of photographs."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return patches.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)


def test_deviation_is_the_divergence_of_probabilities() -> None:
    expected = np.array([[0.5, 0.5 - 1e-6, 1e-6], [0.9, 0.1, 0.0]], np.float32)
    given = np.array([[0.25, 0.75 - 1e-6, 1e-6], [0.9, 0.1, 0.0]], np.float32)
    found = pipeline._deviation(expected, given)
    assert found.changed == 0.5
    assert found.divergence == pytest.approx(
        0.5 * (0.5 * np.log(2) + 0.5 * np.log(2 / 3)), abs=1e-4
    )
    assert pipeline._deviation(given, given) == Deviation(0, 0)


def test_training_for_int8_rounds_as_the_bundle_does() -> None:
    run = untrained(classifier("simple_cnn", SIZE))
    images = images_of(64, 0)
    graph = quantize_model(
        network_graph(run), images, lambda _: Deviation(0, 0)
    ).graph  # fmt: skip
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
    stored = [
        values[name] * values[name.replace("_quantized", "_scale")].reshape(-1, 1, 1, 1)
        for name in values
        if name.endswith("weight_quantized") and values[name].ndim == 4
    ]
    convolutions = [one for one in run.classifier.network.modules() if isinstance(one, nn.Conv2d)]
    assert len(stored) == len(convolutions) == 3
    for layer, weight in zip(convolutions, stored, strict=True):
        rounded = RoundedWeight()(layer.weight).detach().numpy()
        np.testing.assert_allclose(rounded, weight, atol=1e-6)


@pytest.mark.parametrize(
    ("lower", "upper", "step"), [(0.0, 5.1, 0.02), (-1.0, 4.1, 0.02), (2.0, 5.1, 0.02)]
)
def test_inputs_are_rounded_to_256_steps_of_their_range(
    lower: float, upper: float, step: float
) -> None:
    values = torch.linspace(lower, upper, 1000)
    (rounded,) = RoundedInput()(nn.Identity(), (values,))
    assert (rounded - values).abs().max() <= step / 2 + 1e-6
    steps = rounded / step
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    (zero,) = RoundedInput()(nn.Identity(), (torch.tensor([lower, 0.0, upper]),))
    assert zero[1] == 0


def test_training_for_int8_leaves_the_network_alone() -> None:
    module = inference_module(untrained(classifier("simple_cnn", SIZE))).eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    adapted = adapt_to_int8(module, images_of(64, 1), 3).state_dict()
    assert adapted.keys() == before.keys()
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
        is_statistic = "running" in key or "num_batches" in key or key in {"mean", "scale"}
        assert torch.equal(adapted[key], value) == is_statistic, key


def test_rows_that_hold_numbers_are_not_mixed() -> None:
    shown = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            shown.append(images)
            return torch.softmax(self.layer(images.float().mean((2, 3))), dim=1)

    images = np.zeros((8, 6, 6, 3), np.uint8)
    images += np.arange(8, dtype=np.uint8)[:, None, None, None] * 32
    adapt_to_int8(Watched(), images, 2, coded_rows=2)
    for batch in shown:
        numbers, mixed = batch[:, :, 4:], batch[:, :, :4]
        assert set(numbers.flatten().tolist()) == set(range(0, 256, 32))
        assert not torch.equal(mixed[:, 0, 0, 0], numbers[:, 0, 0, 0])


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize(
    ("steps", "found", "trained_for_int8"),
    [
        (2, [0.1, 0.1, 0.1, 0.0], True),
        (2, [0.0], False),
        (0, [0.1] * 3, False),
    ],
)
def test_a_network_is_trained_for_int8_where_guesses_change(
    monkeypatch: pytest.MonkeyPatch, trained: Path, steps: int, found: list[float],
    trained_for_int8: bool,
) -> None:  # fmt: skip
    left = [Deviation(1.0, changed) for changed in found]
    monkeypatch.setattr(pipeline, "_deviation", lambda *_: left.pop(0))
    run = trained_run.load_trained_run(trained)
    images = trained_run.find_images(run, None)
    cfg = export_config(trained, f"int8_training={steps}", "calibration_images=2")
    _, layers = pipeline.quantize(cfg, run, images, network_graph(run))
    assert not left
    assert layers.endswith("trained for 8 bits") == trained_for_int8
