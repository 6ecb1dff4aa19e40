"""Static int8 quantization of an ONNX model, choosing the fastest accurate recipe."""

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx

from signlang.arrays import Pixels
from signlang.console import log

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
        keep_depthwise: Convolutions of single channels stay in float.
    """

    text: str
    averaged: bool = False
    keep_ends: bool = False
    keep_depthwise: bool = False


# from the fastest to the most careful; depthwise convolutions have few, widely different weights
RECIPES: Final = (
    QuantizationRecipe("all layers"),
    QuantizationRecipe("all layers, ranges averaged over images", averaged=True),
    QuantizationRecipe("all layers but the first and the last", keep_ends=True),
    QuantizationRecipe("all layers but the first, the last and depthwise ones", keep_ends=True,
        keep_depthwise=True),
)  # fmt: skip


def quantize_model(
    network: onnx.ModelProto, images: Pixels, loss: Callable[[onnx.ModelProto], float]
) -> tuple[onnx.ModelProto, str]:
    """Quantize statically, weights by channel (Jacob et al. 2018, arXiv 1712.05877).

    The first of `RECIPES` that loses nothing is taken, otherwise the one that loses least.

    Args:
        network: From `images`, uint8 (N, 3, size, size), to `probabilities`.
        images: (n, size, size, 3) training images, which show the ranges of the numbers.
        loss: What a quantized network loses on images that choose, negative if it gains.

    Returns:
        The network, with the same inputs and outputs, and the way that was taken.
    """
    tried = []
    with TemporaryDirectory() as place, _quiet():
        prepared = _prepared(network, Path(place))
        for recipe in RECIPES:
            if recipe.keep_depthwise and not any(map(_is_depthwise, prepared.graph.node)):
                continue
            model = _quantized(prepared, images, recipe, Path(place))
            accuracy_loss = loss(model)
            log.info("int8, %s: accuracy on the images that choose falls by %.4f",
                     recipe.text, accuracy_loss)  # fmt: skip
            tried.append((accuracy_loss, model, recipe.text))
            if accuracy_loss <= 0:
                break
    _, best, text = min(tried, key=lambda one: one[0])
    return best, text


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
    """Names of the operations that stay in float."""
    layers = [node for node in network.graph.node if node.op_type in LAYERS]
    kept: Sequence[onnx.NodeProto] = [layers[0], layers[-1]] if recipe.keep_ends else []
    depthwise = [node for node in layers if recipe.keep_depthwise and _is_depthwise(node)]
    return sorted({node.name for node in [*kept, *depthwise]})


def _is_depthwise(node: onnx.NodeProto) -> bool:
    return any(found.name == "group" and found.i > 1 for found in node.attribute)


class _CalibrationReader:
    """What onnxruntime asks for images, one by one; it goes by the method's name."""

    def __init__(self, images: Pixels) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, Pixels] | None:
        """The input of one image, None after the last."""
        image = next(self._left, None)
        return None if image is None else {"images": image[None].transpose(0, 3, 1, 2)}


@contextlib.contextmanager
def _quiet() -> Any:
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
