"""int8: quantization of a network graph, and training that adapts a network to 8 bits.

In quantization-aware training, rounding is simulated in the forward pass, and the gradient passes
it unchanged (Jacob et al. 2018, arXiv 1712.05877). The adapted network learns the probabilities of
the trained one (distillation, Hinton et al. 2015, arXiv 1503.02531), so that images are enough: no
labels are needed. Pairs of images are mixed (Zhang et al. 2018, arXiv 1710.09412): of an image that
it was trained on, a network is too sure to teach much. Batch normalization keeps its statistics.
"""

import contextlib
import copy
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.optim.lr_scheduler import OneCycleLR

from signlang.arrays import Pixels
from signlang.console import log, track

BATCH: Final = 32
LEARNING_RATE: Final = 3e-5  # with 1e-4 a network forgets more than 8 bits cost it
MOMENTUM: Final = 0.05  # of the ranges of activations, from batch to batch
SMALLEST: Final = 1e-8  # of a range, and of a probability whose logarithm is taken
LAYERS: Final = ("Conv", "Gemm", "MatMul")
# what stands between layers and can stay in 8 bits; normalization and softmax are left in float
OPERATIONS: Final = (
    *LAYERS, "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip",
)  # fmt: skip


@dataclass(frozen=True)
class QuantizationRecipe:
    """One way to quantize.

    Attributes:
        text: For people.
        averaged: Ranges are averaged over images, so that one extreme does not coarsen all.
        keep_ends: The first and the last layer stay in float.
    """

    text: str
    averaged: bool = False
    keep_ends: bool = False


# from the fastest to the most careful. Depthwise convolutions in float between layers in 8 bits
# are none of them: onnxruntime would quantize them as it loads, with one scale for all channels
RECIPES: Final = (
    QuantizationRecipe("all layers"),
    QuantizationRecipe("all layers, ranges averaged over images", averaged=True),
    QuantizationRecipe("all layers but the first and the last", keep_ends=True),
)


@dataclass(frozen=True, order=True)
class Deviation:
    """How far a network with 8-bit numbers is from the float one, on images that choose.

    Networks are ordered by the divergence: of a few hundred images one or two change their class by
    chance.

    Attributes:
        divergence: Mean Kullback-Leibler divergence of its probabilities, in nats.
        changed: Share of the images that it takes for another class.
    """

    divergence: float
    changed: float


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A network graph with 8-bit numbers.

    Attributes:
        graph: With the inputs and outputs of the float one.
        layers: Which layers compute with 8 bits, for people.
        deviation: From the float one.
    """

    graph: onnx.ModelProto
    layers: str
    deviation: Deviation


def quantize_model(
    network: onnx.ModelProto, images: Pixels, deviation: Callable[[onnx.ModelProto], Deviation]
) -> QuantizedNetwork:
    """Quantize statically, weights by channel (Jacob et al. 2018, arXiv 1712.05877).

    The first of `RECIPES` that changes no guess is taken, otherwise the nearest to the network.
    Accuracies are not compared: a few hundred images cannot tell a loss of 0.002.

    Args:
        network: From `images`, uint8 (N, 3, size, size), to `probabilities`.
        images: (n, size, size, 3) training images, which show the ranges of the numbers.
        deviation: Measures that of a quantized network.
    """
    tried: list[QuantizedNetwork] = []
    with TemporaryDirectory() as folder, _quiet_quantizer():
        prepared = _prepared(network, Path(folder))
        for recipe in RECIPES:
            model = _quantized(prepared, images, recipe, Path(folder))
            quantized = QuantizedNetwork(model, recipe.text, deviation(model))
            log.info("int8, %s: %.2f %% of the guesses change on the images that choose",
                     recipe.text, 100 * quantized.deviation.changed)  # fmt: skip
            tried.append(quantized)
            if not quantized.deviation.changed:
                break
    return min(tried, key=lambda one: one.deviation)


def _prepared(network: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Fold batch normalization into convolutions, and infer shapes."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, model = folder / "source.onnx", folder / "prepared.onnx"
    onnx.save(network, source)
    quant_pre_process(str(source), str(model), skip_symbolic_shape=True)
    return onnx.load(model)


def _quantized(
    prepared: onnx.ModelProto, images: Pixels, recipe: QuantizationRecipe, folder: Path
) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    file = folder / "int8.onnx"
    quantize_static(
        onnx.ModelProto.FromString(prepared.SerializeToString()),  # it is changed in place
        str(file),
        _CalibrationReader(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(OPERATIONS),
        nodes_to_exclude=_float_operations(prepared, recipe),
        per_channel=True,
        reduce_range=False,  # weights of 7 bits would cost accuracy; see `bundle.session_options`
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"CalibMovingAverage": recipe.averaged},
    )
    model = onnx.load(file)
    model.producer_name, model.graph.name = "signlang", "signlang"
    return model


def _float_operations(network: onnx.ModelProto, recipe: QuantizationRecipe) -> list[str]:
    """Names of the operations that stay in float.

    Several networks in one graph have ends of their own each. The mean of their probabilities is
    never of 8 bits.
    """
    nodes = network.graph.node
    after = _connected_operations(nodes, LAYERS)
    before = _connected_operations(nodes, LAYERS, upwards=True)
    layers = [node for node in nodes if node.op_type in LAYERS]
    in_float = _connected_operations(nodes, ("Softmax",)) - before
    if recipe.keep_ends:
        in_float |= {node.name for node in layers if not {node.name} <= after & before}
    return sorted(in_float)


def _connected_operations(
    nodes: Sequence[onnx.NodeProto], kinds: Sequence[str], *, upwards: bool = False
) -> set[str]:
    """Names of the operations that use the output of some kinds; upwards: those that these use.

    Args:
        nodes: Of a graph, each after those that it uses.
        kinds: Of operations.
        upwards: Against the direction of the graph.
    """
    names: set[str] = set()
    values: set[str] = set()
    for node in reversed(nodes) if upwards else nodes:
        incoming, outgoing = (node.output, node.input) if upwards else (node.input, node.output)
        is_connected = not values.isdisjoint(incoming)
        if is_connected:
            names.add(node.name)
        if is_connected or node.op_type in kinds:
            values |= {*outgoing} - {""}  # what is left out has no name
    return names


class _CalibrationReader:
    """What onnxruntime asks for images, one by one; it goes by the method's name."""

    def __init__(self, images: Pixels) -> None:
        self._remaining = iter(images)

    def get_next(self) -> dict[str, Pixels] | None:
        """The input of one image, None after the last."""
        image = next(self._remaining, None)
        return None if image is None else {"images": image[None].transpose(0, 3, 1, 2)}


@contextmanager
def _quiet_quantizer() -> Any:
    """Keep the quantizer's advice, which it prints and logs, off the screen."""
    root = logging.getLogger()
    root.addFilter(_is_ours)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name != "root"


class RoundedWeight(nn.Module):
    """Round weights to 8 bits, symmetric, with a scale for each output channel."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Map weights of any shape, output channels first, to the same shape."""
        largest = weight.detach().abs().flatten(1).amax(1).clamp_min(SMALLEST)
        zeros = torch.zeros_like(largest, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, largest / 127, zeros, 0, -127, 127)


class RoundedInput:
    """A hook that rounds the input of a layer to 8 bits, over the range that it has seen.

    The range always holds zero, as that of onnxruntime does.
    """

    def __init__(self) -> None:
        self.lower = self.upper = 0.0

    def __call__(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Round the first input of a layer, float of any shape."""
        values, *others = inputs
        lower, upper = (float(end) for end in torch.aminmax(values.detach()))
        first = self.lower == self.upper
        share = 1.0 if first else MOMENTUM
        self.lower += share * (min(lower, 0.0) - self.lower)
        self.upper += share * (max(upper, 0.0) - self.upper)
        scale = max(self.upper - self.lower, SMALLEST) / 255
        zero = min(max(round(-self.lower / scale), 0), 255)
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255), *others


def adapt_to_int8(
    module: nn.Module, images: Pixels, steps: int, coded_rows: int = 0, seed: int = 0
) -> nn.Module:
    """Train a copy of a network with rounded weights and activations.

    Args:
        module: From uint8 (N, 3, size, size) to probabilities (N, classes).
        images: (n, size, size, 3) training images.
        steps: Of AdamW, with 32 images each.
        coded_rows: Rows of pixels at the lower edge that hold numbers; they are not mixed.
        seed: Of the order of the images.

    Returns:
        The copy, in evaluation mode. Its weights are floats that suit 8 bits.
    """
    teacher, student = module.eval(), copy.deepcopy(module).eval()
    parameters = [parameter for parameter in student.parameters() if parameter.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    with _rounded(student):
        for batch in track(_batches(images, steps, coded_rows, seed), "training for int8", steps):
            with torch.no_grad():
                targets = teacher(batch)
            log_probabilities = student(batch).clamp_min(SMALLEST).log()
            optimizer.zero_grad(set_to_none=True)
            loss = F.kl_div(log_probabilities, targets, reduction="batchmean")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return student


def _batches(images: Pixels, steps: int, coded_rows: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield batches of (n, 3, size, size), each image mixed with another one of its batch."""
    rng, remaining = np.random.default_rng(seed), np.empty(0, np.int64)
    size = min(BATCH, len(images))
    for _ in range(steps):
        if len(remaining) < size:
            remaining = rng.permutation(len(images))
        rows, remaining = remaining[:size], remaining[size:]
        share = rng.uniform()
        batch, others = images[rows], images[rng.permutation(rows)]
        mixed = np.rint(share * batch + (1 - share) * others).astype(np.uint8)
        image_rows = images.shape[1] - coded_rows
        yield torch.from_numpy(
            np.concatenate([mixed[:, :image_rows], batch[:, image_rows:]], axis=1)
        ).permute(0, 3, 1, 2)


@contextmanager
def _rounded(network: nn.Module) -> Iterator[None]:
    """Round the weights and the inputs of all layers while the context lasts."""
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    hooks = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
        hooks.append(layer.register_forward_pre_hook(cast(Any, RoundedInput())))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
