"""Export of a trained classifier to ONNX and torch.export, and int8 quantization of the former."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from torch import nn

from signlang.arrays import Pixels
from signlang.console import log
from signlang.deploy.onnx_resize import resize_graph
from signlang.errors import SignlangError
from signlang.runs.trained_run import TrainedRun

OPSET: Final = 18  # what torch's exporter is written for; others are converted from it
PROGRAM: Final = "model.pt2"
SMALLEST: Final = 1e-30  # of a probability whose logarithm is taken
CHATTER: Final = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")
LAYERS: Final = ("Conv", "Gemm", "MatMul")
# what stands between layers and can stay in 8 bits; normalization and softmax are left in float
OPERATIONS: Final = (
    *LAYERS, "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip",
)  # fmt: skip


class InferenceModule(nn.Module):
    """Inference: normalize uint8 images, run the network, apply the temperature, softmax.

    Args:
        run: The run, or a member of an ensemble.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        model = run.classifier
        self.network = model.network.to(memory_format=torch.contiguous_format)
        self.register_buffer("mean", model.mean)
        self.register_buffer("scale", model.scale)
        self.temperature = run.calibration.temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 (N, 3, size, size) to probabilities (N, classes)."""
        normal = images.to(torch.float32).sub(self.mean).mul(self.scale)
        logits = self.network(normal)
        if self.temperature != 1:
            logits = logits / self.temperature
        return torch.softmax(logits, dim=1)


class EnsembleModule(nn.Module):
    """The mean of the probabilities of several networks, and a temperature of its own."""

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        self.members = nn.ModuleList(InferenceModule(member) for member in run.members)
        self.temperature = run.calibration.temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 (N, 3, size, size) to probabilities (N, classes)."""
        mean = torch.stack([member(images) for member in self.members]).mean(dim=0)
        if self.temperature != 1:
            return torch.softmax(mean.clamp_min(SMALLEST).log() / self.temperature, dim=1)
        return mean


def inference_module(run: TrainedRun) -> nn.Module:
    """What a bundle computes: uint8 (N, 3, size, size) to probabilities (N, classes)."""
    return InferenceModule(run) if len(run.members) == 1 else EnsembleModule(run)


class ProgramModule(nn.Module):
    """The same for images as training hands them out: uint8 (N, size, size, 3)."""

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        self.service = inference_module(run)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 (N, size, size, 3) to probabilities (N, classes)."""
        probabilities: torch.Tensor = self.service(images.permute(0, 3, 1, 2))
        return probabilities


def network_graph(run: TrainedRun, module: nn.Module | None = None) -> onnx.ModelProto:
    """The graph from `images`, uint8 (N, 3, size, size), to `probabilities` (N, classes).

    Args:
        run: The run.
        module: What its bundle computes; None: `inference_module(run)`.

    Raises:
        SignlangError: If torch cannot express the network in ONNX.
    """
    size = run.image_size
    with _quiet(), _exporting(run, "ONNX"):
        program = torch.onnx.export(
            (module or inference_module(run)).eval(),
            (torch.zeros(2, 3, size, size, dtype=torch.uint8),),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
    _without_traces(model)
    return model


def whole_graph(network: onnx.ModelProto, image_sizes: tuple[int, ...]) -> onnx.ModelProto:
    """Put the resizing in front: from `images`, uint8 (N, H, W, 3), to `probabilities`."""
    (opset,) = [entry.version for entry in network.opset_import if not entry.domain]
    before = resize_graph(image_sizes, opset, network.ir_version)
    named = onnx.compose.add_prefix(network, "network/", rename_outputs=False)
    (end,), (start,) = before.graph.output, named.graph.input
    whole = onnx.compose.merge_models(before, named, io_map=[(end.name, start.name)])
    onnx.checker.check_model(whole, full_check=True)
    return whole


def write_program(run: TrainedRun, file: Path) -> None:
    """Write a program for `torch.export.load`: uint8 (N, size, size, 3) to probabilities.

    Raises:
        SignlangError: If torch cannot express the network so.
    """
    size = run.image_size
    with _quiet(), _exporting(run, "a program of torch.export"):
        program = torch.export.export(
            ProgramModule(run).eval(),
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # contains local file names
        program.example_inputs = None  # they would be pickled; nothing of a bundle is
        torch.export.save(program, file)


def _without_traces(model: onnx.ModelProto) -> None:
    """Take out notes on where in whose files each operation was written."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.value_info, *graph.initializer,
                 *graph.input, *graph.output):  # fmt: skip
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    model.graph.name = "signlang"


@contextmanager
def _exporting(run: TrainedRun, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of many kinds, each with pages of advice
        first: Any = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise SignlangError(
            f"The network {run.metrics['model']} cannot be written as {what}: {first}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress off the screen; what goes wrong is raised anyway."""
    loggers = [logging.getLogger(name) for name in CHATTER]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
    with TemporaryDirectory() as place, _quiet_quantizer():
        prepared = _prepared(network, Path(place))
        for recipe in RECIPES:
            model = _quantized(prepared, images, recipe, Path(place))
            found = QuantizedNetwork(model, recipe.text, deviation(model))
            log.info("int8, %s: %.2f %% of the guesses change on the images that choose",
                     recipe.text, 100 * found.deviation.changed)  # fmt: skip
            tried.append(found)
            if not found.deviation.changed:
                break
    return min(tried, key=lambda one: one.deviation)


def _prepared(network: onnx.ModelProto, place: Path) -> onnx.ModelProto:
    """Fold batch normalization into convolutions, and infer shapes."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    given, model = place / "given.onnx", place / "prepared.onnx"
    onnx.save(network, given)
    quant_pre_process(str(given), str(model), skip_symbolic_shape=True)
    return onnx.load(model)


def _quantized(
    prepared: onnx.ModelProto, images: Pixels, recipe: QuantizationRecipe, place: Path
) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    file = place / "int8.onnx"
    quantize_static(
        onnx.ModelProto.FromString(prepared.SerializeToString()),  # it is changed in place
        str(file),
        _CalibrationReader(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(OPERATIONS),
        nodes_to_exclude=_kept(prepared, recipe),
        per_channel=True,
        reduce_range=False,  # weights of 7 bits would cost accuracy; see `bundle.session_options`
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"CalibMovingAverage": recipe.averaged},
    )
    model = onnx.load(file)
    model.producer_name, model.graph.name = "signlang", "signlang"
    return model


def _kept(network: onnx.ModelProto, recipe: QuantizationRecipe) -> list[str]:
    """Names of the operations that stay in float.

    Several networks in one graph have ends of their own each. The mean of their probabilities is
    never of 8 bits.
    """
    nodes = network.graph.node
    after, before = _beyond(nodes, LAYERS), _beyond(nodes, LAYERS, upwards=True)
    layers = [node for node in nodes if node.op_type in LAYERS]
    kept = _beyond(nodes, ("Softmax",)) - before
    if recipe.keep_ends:
        kept |= {node.name for node in layers if not {node.name} <= after & before}
    return sorted(kept)


def _beyond(
    nodes: Sequence[onnx.NodeProto], kinds: Sequence[str], *, upwards: bool = False
) -> set[str]:
    """Names of the operations that use what one of some kinds made; upwards: those that it uses.

    Args:
        nodes: Of a graph, each after those that it uses.
        kinds: Of operations.
        upwards: Against the direction of the graph.
    """
    names: set[str] = set()
    values: set[str] = set()
    for node in reversed(nodes) if upwards else nodes:
        ahead, behind = (node.output, node.input) if upwards else (node.input, node.output)
        beyond = not values.isdisjoint(ahead)
        if beyond:
            names.add(node.name)
        if beyond or node.op_type in kinds:
            values |= {*behind} - {""}  # what is left out has no name
    return names


class _CalibrationReader:
    """What onnxruntime asks for images, one by one; it goes by the method's name."""

    def __init__(self, images: Pixels) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, Pixels] | None:
        """The input of one image, None after the last."""
        image = next(self._left, None)
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
