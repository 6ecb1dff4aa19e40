"""Conversion of MediaPipe's two hand networks from TensorFlow Lite to ONNX.

A TFLite file is a FlatBuffer: tables with numbered fields, read here with `struct` alone. Only the
operators of the two networks are known; anything else is refused. Field numbers and operator codes
are those of TensorFlow's `schema.fbs` (3c); padding is that of TensorFlow's `SAME`.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.errors import DataError

Array = npt.NDArray[Any]
OPSET: Final = 17
OPERATORS: Final = {
    0: "ADD", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE",
    9: "FULLY_CONNECTED", 14: "LOGISTIC", 17: "MAX_POOL_2D", 22: "RESHAPE", 23: "RESIZE_BILINEAR",
    34: "PAD", 40: "MEAN", 54: "PRELU",
}  # fmt: skip
TYPES: Final[Mapping[int, str]] = {0: "<f4", 1: "<f2", 2: "<i4"}
SAME: Final = 0
RELU6: Final = 3


class Table:
    """A table of a FlatBuffer.

    Args:
        data: The whole buffer.
        position: Where the table starts.
    """

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position
        self._fields = position - struct.unpack_from("<i", data, position)[0]

    @classmethod
    def root(cls, data: bytes) -> "Table":
        """The outermost table."""
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def scalar(self, field: int, kind: str, default: int = 0) -> int:
        """An integer field; `kind` is its letter in `struct`."""
        position = self._field(field)
        return int(struct.unpack_from(f"<{kind}", self.data, position)[0]) if position else default

    def table(self, field: int) -> "Table | None":
        """A table inside this one; None if it is not set."""
        position = self._field(field)
        return Table(self.data, self._follow(position)) if position else None

    def tables(self, field: int) -> "list[Table]":
        """A vector of tables."""
        start, count = self._vector(field)
        return [Table(self.data, self._follow(start + 4 * number)) for number in range(count)]

    def array(self, field: int, kind: str) -> Array:
        """A vector of numbers of a dtype."""
        start, count = self._vector(field)
        return np.frombuffer(self.data, kind, count, start) if count else np.zeros(0, kind)

    def _field(self, field: int) -> int:
        """Where a field lies; 0 if it is not set."""
        size = struct.unpack_from("<H", self.data, self._fields)[0]
        at = 4 + 2 * field
        offset = struct.unpack_from("<H", self.data, self._fields + at)[0] if at < size else 0
        return self.position + offset if offset else 0

    def _follow(self, position: int) -> int:
        return position + int(struct.unpack_from("<I", self.data, position)[0])

    def _vector(self, field: int) -> tuple[int, int]:
        position = self._field(field)
        if not position:
            return 0, 0
        start = self._follow(position)
        return start + 4, int(struct.unpack_from("<I", self.data, start)[0])


class TFLiteModel:
    """The graph of a TFLite file.

    Args:
        data: Content of the file.

    Attributes:
        shapes: Of each tensor, channels last.
        constants: Of the tensors that have one, float32 or int32.
        operators: Name, options, inputs and outputs of each operator, in order.
        inputs: Numbers of the tensors that go in.
        outputs: Numbers of the tensors that come out.

    Raises:
        DataError: If it is no such file, or has operators that are not known here.
    """

    def __init__(self, data: bytes) -> None:
        if data[4:8] != b"TFL3":
            raise DataError("It is no TFLite file: its mark TFL3 is missing.")
        model = Table.root(data)
        codes = [max(code.scalar(0, "b"), code.scalar(3, "i")) for code in model.tables(1)]
        unknown = sorted(set(codes) - set(OPERATORS))
        if unknown:
            raise DataError(f"It has TFLite operators that are not known here: {unknown}.")
        graph, buffers = model.tables(2)[0], model.tables(4)
        tensors = graph.tables(0)
        self.shapes = [tuple(tensor.array(0, "<i4").tolist()) for tensor in tensors]
        self.constants: dict[int, Array] = {}
        for number, tensor in enumerate(tensors):
            raw = buffers[tensor.scalar(2, "I")].array(0, "u1")
            if len(raw):
                kind = TYPES[tensor.scalar(1, "b")]
                self.constants[number] = raw.view(kind).reshape(self.shapes[number])
        self.operators = [
            (
                OPERATORS[codes[operator.scalar(0, "I")]],
                operator.table(4),
                operator.array(1, "<i4").tolist(),
                operator.array(2, "<i4").tolist(),
            )
            for operator in graph.tables(3)
        ]
        self.inputs: list[int] = graph.array(1, "<i4").tolist()
        self.outputs: list[int] = graph.array(2, "<i4").tolist()


def to_onnx(data: bytes, outputs: Mapping[str, int]) -> bytes:
    """Convert a network of images to ONNX; weights stay of half precision, as they are.

    Args:
        data: Content of the TFLite file.
        outputs: Which of its outputs to keep, by their places, under which names.

    Returns:
        An ONNX file; `images` (N, H, W, 3) uint8 RGB goes in, and is divided by 255.

    Raises:
        DataError: If it cannot be converted.
    """
    import onnx
    from onnx import helper

    model = TFLiteModel(data)
    builder = _Builder(model)
    for name, options, inputs, results in model.operators:
        builder.add(name, options, inputs, results)
    results_info = []
    for name, position in outputs.items():
        number = model.outputs[position]
        builder.node("Identity", [builder.names[number]], name)
        shape = ["N", *model.shapes[number][1:]]
        results_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    shape = ["N", *model.shapes[model.inputs[0]][1:]]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, shape)
    graph = helper.make_graph(builder.nodes, "hands", [images], results_info, builder.weights)
    opset = helper.make_opsetid("", OPSET)
    onnx_model = helper.make_model(
        graph, opset_imports=[opset], ir_version=8, producer_name="signlang"
    )
    onnx.checker.check_model(onnx_model)
    return bytes(onnx_model.SerializeToString())


class _Builder:
    """Collects nodes and weights of an ONNX graph; images lie channels first in it."""

    def __init__(self, model: TFLiteModel) -> None:
        self.model, self.nodes, self.weights = model, list[Any](), list[Any]()
        self.names: dict[int, str] = {}
        pixels = self.node("Cast", ["images"], "pixels", to=1)
        planes = self.node("Transpose", [pixels], "planes", perm=[0, 3, 1, 2])
        scale = self.weight("scale", np.array(255, np.float32))
        self.names[model.inputs[0]] = self.node("Div", [planes, scale], "scaled")

    def node(self, kind: str, inputs: Sequence[str], output: str, **options: Any) -> str:
        """Append a node of one output, and return the name of that."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], **options))
        return output

    def weight(self, name: str, values: Array) -> str:
        """Append a constant; of half precision, it is converted in the graph."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return (
            self.node("Cast", [name], f"{name}_f32", to=1) if values.dtype == np.float16 else name
        )

    def add(self, name: str, options: Table | None, inputs: list[int], results: list[int]) -> None:
        """Append an operator of the TFLite graph."""
        output = f"t{results[0]}"
        if name == "DEQUANTIZE":  # a weight of half precision
            self.model.constants[results[0]] = self.model.constants[inputs[0]]
            return
        operators: dict[str, Callable[..., str]] = {
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._depthwise,
            "FULLY_CONNECTED": self._dense,
            "MAX_POOL_2D": self._pool,
        }
        converter = operators.get(name)
        if name == "RESHAPE":
            self.names[results[0]] = self._reshape(inputs[0], results[0], output)
        elif converter:
            self.names[results[0]] = converter(options, inputs, output)
        else:
            self.names[results[0]] = self._convert_plain(name, options, inputs, output)

    def _constant(self, number: int) -> Array:
        if number not in self.model.constants:
            raise DataError("Its weights are computed, which is not known here.")
        return self.model.constants[number]

    def _convolution(self, options: Table, inputs: list[int], output: str) -> str:
        kernel = self._constant(inputs[1]).transpose(0, 3, 1, 2)
        return self._convolve(options, inputs, output, kernel, 1, options.scalar(3, "b"))

    def _depthwise(self, options: Table, inputs: list[int], output: str) -> str:
        kernel = self._constant(inputs[1]).transpose(3, 0, 1, 2)
        return self._convolve(options, inputs, output, kernel, len(kernel), options.scalar(4, "b"))

    def _convolve(
        self,
        options: Table,
        inputs: list[int],
        output: str,
        kernel: Array,
        group: int,
        activation: int,
    ) -> str:
        strides, size = _strides(options), kernel.shape[2:]
        convolved = self.node(
            "Conv",
            [
                self.names[inputs[0]],
                self.weight(f"{output}_w", kernel),
                self.weight(f"{output}_b", self._constant(inputs[2])),
            ],
            output,
            strides=strides,
            group=group,
            pads=self._padding(options, inputs[0], size, strides),
        )
        return self._activate(convolved, activation)

    def _padding(
        self, options: Table, tensor: int, kernel_size: Sequence[int], strides: Sequence[int]
    ) -> list[int]:
        if options.scalar(0, "b") != SAME:
            return [0, 0, 0, 0]
        before, after = [], []
        for length, window, stride in zip(
            self.model.shapes[tensor][1:3], kernel_size, strides, strict=True
        ):
            total = max((-(-length // stride) - 1) * stride + window - length, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return [*before, *after]

    def _activate(self, name: str, activation: int) -> str:
        if activation == 0:
            return name
        if activation != RELU6:
            raise DataError(f"It has a fused activation that is not known here: {activation}.")
        low = self.weight(f"{name}_low", np.array(0, np.float32))
        high = self.weight(f"{name}_high", np.array(6, np.float32))
        return self.node("Clip", [name, low, high], f"{name}_a")

    def _dense(self, options: Table, inputs: list[int], output: str) -> str:
        weight = self.weight(f"{output}_w", self._constant(inputs[1]))
        bias = self.weight(f"{output}_b", self._constant(inputs[2]))
        product = self.node("Gemm", [self.names[inputs[0]], weight, bias], output, transB=1)
        return self._activate(product, options.scalar(0, "b"))

    def _pool(self, options: Table, inputs: list[int], output: str) -> str:
        kernel_size, strides = [options.scalar(4, "i"), options.scalar(3, "i")], _strides(options)
        pads = self._padding(options, inputs[0], kernel_size, strides)
        name = self.names[inputs[0]]
        return self.node(
            "MaxPool", [name], output, kernel_shape=kernel_size, strides=strides, pads=pads
        )

    def _reshape(self, image: int, result: int, output: str) -> str:
        """Append a reshape, whose order is that of channels last."""
        last = self.node("Transpose", [self.names[image]], f"{output}_t", perm=[0, 2, 3, 1])
        shape = np.array([-1, *self.model.shapes[result][1:]], np.int64)
        return self.node("Reshape", [last, self.weight(f"{output}_n", shape)], output)

    def _convert_plain(
        self, name: str, options: Table | None, inputs: list[int], output: str
    ) -> str:
        """Append an operator that is one node of ONNX, or two."""
        first = self.names[inputs[0]]
        if name == "ADD":
            return self.node("Add", [first, self.names[inputs[1]]], output)
        if name == "LOGISTIC":
            return self.node("Sigmoid", [first], output)
        if name == "PRELU":
            return self._prelu(first, self._constant(inputs[1]).ravel(), output)
        if name == "MEAN":  # over the image
            return self.node("ReduceMean", [first], output, axes=[2, 3], keepdims=0)
        if name == "CONCATENATION":  # of boxes, which lie as in TFLite
            names = [self.names[number] for number in inputs]
            return self.node("Concat", names, output, axis=1)
        return self._convert_spatial(name, options, inputs, output)

    def _prelu(self, values: str, slopes: Array, output: str) -> str:
        """Compute slope * x + (1 - slope) * relu(x) by two depthwise convolutions of one pixel.

        onnxruntime computes a `PRelu` outside of its layout for convolutions: with these the
        detector takes a third of the time (`experiments/hands`).
        """
        kernel_slopes = slopes.astype(np.float32).reshape(-1, 1, 1, 1)
        terms = []
        for image, kernel, suffix in (
            (values, kernel_slopes, "a"),
            (self.node("Relu", [values], f"{output}_r"), 1 - kernel_slopes, "b"),
        ):
            weight = self.weight(f"{output}_{suffix}w", kernel)
            terms.append(
                self.node("Conv", [image, weight], f"{output}_{suffix}", group=len(slopes))
            )
        return self.node("Add", terms, output)

    def _convert_spatial(
        self, name: str, options: Table | None, inputs: list[int], output: str
    ) -> str:
        images = self.names[inputs[0]]
        if name == "PAD":
            before, after = self._constant(inputs[1])[[0, 3, 1, 2]].T
            pads = self.weight(f"{output}_p", np.concatenate([before, after]).astype(np.int64))
            return self.node("Pad", [images, pads], output)
        if options is None or options.scalar(2, "b") or not options.scalar(3, "b"):
            raise DataError("It resizes by other rules than those known here.")
        old, new = self.model.shapes[inputs[0]][1:3], self._constant(inputs[1])
        scales = self.weight(f"{output}_z", np.array([1, 1, *(new / old)], np.float32))
        return self.node(
            "Resize", [images, "", scales], output,
            mode="linear", coordinate_transformation_mode="half_pixel",
        )  # fmt: skip


def _strides(options: Table) -> list[int]:
    return [options.scalar(2, "i", 1), options.scalar(1, "i", 1)]
