"""Export of a trained classifier to ONNX and torch.export."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import onnx
import torch
from torch import nn

from signlang.deploy.onnx_resize import resize_graph
from signlang.errors import SignlangError, first_line
from signlang.runs.trained_run import TrainedRun

OPSET: Final = 18  # what torch's exporter is written for; others are converted from it
PROGRAM: Final = "model.pt2"
SMALLEST: Final = 1e-30  # of a probability whose logarithm is taken
LOGGERS: Final = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")


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
        normalized = images.to(torch.float32).sub(self.mean).mul(self.scale)
        logits = self.network(normalized)
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
    _remove_traces(model)
    return model


def whole_graph(network: onnx.ModelProto, image_sizes: tuple[int, ...]) -> onnx.ModelProto:
    """Put the resizing in front: from `images`, uint8 (N, H, W, 3), to `probabilities`."""
    (opset,) = [entry.version for entry in network.opset_import if not entry.domain]
    resizing = resize_graph(image_sizes, opset, network.ir_version)
    prefixed = onnx.compose.add_prefix(network, "network/", rename_outputs=False)
    (output,), (images,) = resizing.graph.output, prefixed.graph.input
    merged = onnx.compose.merge_models(resizing, prefixed, io_map=[(output.name, images.name)])
    onnx.checker.check_model(merged, full_check=True)
    return merged


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


def _remove_traces(model: onnx.ModelProto) -> None:
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
        raise SignlangError(
            f"The network {run.metrics['model']} cannot be written as {what}: "
            f"{first_line(error, 300)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress off the screen; what goes wrong is raised anyway."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
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
