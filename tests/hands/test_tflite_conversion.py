"""A TFLite file that is written here, converted, against torch with TensorFlow's padding."""

from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from signlang.errors import DataError
from signlang.hands.tflite_conversion import to_onnx

FLOAT32, FLOAT16 = 0, 1
Array = npt.NDArray[Any]
ADD, CONV, DEPTHWISE, DEQUANTIZE, PRELU = 0, 3, 4, 6, 54


class Writer:
    """Writes the tables of TensorFlow's schema.fbs that a small model needs."""

    def __init__(self) -> None:
        self.b = flatbuffers.Builder(0)
        self.buffers = [self._buffer(b"")]
        self.tensors: list[int] = []
        self.operators: list[int] = []
        self.codes: list[int] = []

    def _buffer(self, data: bytes) -> int:
        vector = self.b.CreateByteVector(data) if data else 0
        self.b.StartObject(3)
        if vector:
            self.b.PrependUOffsetTRelativeSlot(0, vector, 0)
        return int(self.b.EndObject())

    def _numbers(self, values: list[int]) -> int:
        self.b.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.b.PrependInt32(value)
        return int(self.b.EndVector())

    def _list(self, offsets: list[int]) -> int:
        self.b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.b.PrependUOffsetTRelative(offset)
        return int(self.b.EndVector())

    def tensor(self, shape: list[int], values: Array | None = None) -> int:
        place = 0
        if values is not None:
            self.buffers.append(self._buffer(values.tobytes()))
            place = len(self.buffers) - 1
        numbers = self._numbers(shape)
        self.b.StartObject(10)
        self.b.PrependUOffsetTRelativeSlot(0, numbers, 0)
        half = values is not None and values.dtype == np.float16
        self.b.PrependInt8Slot(1, FLOAT16 if half else FLOAT32, 0)
        self.b.PrependUint32Slot(2, place, 0)
        self.tensors.append(int(self.b.EndObject()))
        return len(self.tensors) - 1

    def operator(
        self, code: int, inputs: list[int], output: int, options: dict[int, tuple[str, int]]
    ) -> None:
        input_vector, output_vector = self._numbers(inputs), self._numbers([output])
        self.b.StartObject(8)
        for field, (kind, value) in options.items():
            slot = self.b.PrependInt8Slot if kind == "b" else self.b.PrependInt32Slot
            slot(field, value, 0)
        options_table = self.b.EndObject()
        if code not in self.codes:
            self.codes.append(code)
        self.b.StartObject(13)
        self.b.PrependUint32Slot(0, self.codes.index(code), 0)
        self.b.PrependUOffsetTRelativeSlot(1, input_vector, 0)
        self.b.PrependUOffsetTRelativeSlot(2, output_vector, 0)
        self.b.PrependUOffsetTRelativeSlot(4, options_table, 0)
        self.operators.append(int(self.b.EndObject()))

    def finish(self, image: int, output: int) -> bytes:
        vectors = [self._list(self.tensors), self._numbers([image]), self._numbers([output]),
                   self._list(self.operators)]  # fmt: skip
        self.b.StartObject(6)
        for field, offset in enumerate(vectors):
            self.b.PrependUOffsetTRelativeSlot(field, offset, 0)
        graph = self.b.EndObject()
        codes = []
        for code in self.codes:
            self.b.StartObject(4)
            self.b.PrependInt8Slot(0, code, 0)
            self.b.PrependInt32Slot(3, code, 0)
            codes.append(int(self.b.EndObject()))
        tables = {1: self._list(codes), 2: self._list([graph]), 4: self._list(self.buffers)}
        self.b.StartObject(8)
        for field, offset in tables.items():
            self.b.PrependUOffsetTRelativeSlot(field, offset, 0)
        self.b.Finish(self.b.EndObject(), file_identifier=b"TFL3")
        return bytes(self.b.Output())


def small_network(
    rng: np.random.Generator, code: int = ADD
) -> tuple[bytes, dict[str, torch.Tensor]]:
    """Two convolutions with SAME padding, the first strided, their sum, and a PReLU."""
    kernel = rng.normal(0, 2, (4, 5, 5, 3)).astype(np.float16)
    deep = rng.normal(0, 0.5, (1, 3, 3, 4)).astype(np.float32)
    bias = rng.normal(0, 1, 4).astype(np.float32)
    model = Writer()
    image = model.tensor([1, 10, 10, 3])
    half, kernel_ = model.tensor([4, 5, 5, 3], kernel), model.tensor([4, 5, 5, 3])
    bias_ = model.tensor([4], bias)
    first, second = model.tensor([1, 5, 5, 4]), model.tensor([1, 5, 5, 4])
    deep_, total = model.tensor([1, 3, 3, 4], deep), model.tensor([1, 5, 5, 4])
    strides = {1: ("i", 2), 2: ("i", 2)}
    model.operator(DEQUANTIZE, [half], kernel_, {})
    model.operator(CONV, [image, kernel_, bias_], first, {**strides, 3: ("b", 3)})  # ReLU6
    single = {1: ("i", 1), 2: ("i", 1), 3: ("i", 1)}
    model.operator(DEPTHWISE, [first, deep_, bias_], second, single)
    model.operator(code, [first, second], total, {})
    slopes = rng.uniform(-0.5, 1.5, (1, 1, 4)).astype(np.float16)
    half_slopes, slopes_ = model.tensor([1, 1, 4], slopes), model.tensor([1, 1, 4])
    bent = model.tensor([1, 5, 5, 4])
    model.operator(DEQUANTIZE, [half_slopes], slopes_, {})
    model.operator(PRELU, [total, slopes_], bent, {})
    arrays: dict[str, Array] = {"kernel": kernel, "deep": deep, "bias": bias, "slopes": slopes}
    return model.finish(image, bent), {
        name: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()
    }


def test_a_converted_network_computes_what_tensorflow_defines() -> None:
    rng = np.random.default_rng(0)
    data, weights = small_network(rng)
    session = onnxruntime.InferenceSession(to_onnx(data, {"sum": 0}))
    images = rng.integers(0, 256, (3, 10, 10, 3), dtype=np.uint8)
    (outputs,) = session.run(["sum"], {"images": images})
    planes = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    # SAME: 5 places of stride 2 over 10 pixels want 3 more, one before and two behind
    first = F.conv2d(F.pad(planes, (1, 2, 1, 2)), weights["kernel"].permute(0, 3, 1, 2),
                     weights["bias"], stride=2).clamp(0, 6)  # fmt: skip
    second = F.conv2d(first, weights["deep"].permute(3, 0, 1, 2), weights["bias"], padding=1,
                      groups=4)  # fmt: skip
    bent = F.prelu(first + second, weights["slopes"].flatten())
    assert (first == 6).any()
    assert outputs == pytest.approx(bent.numpy(), abs=1e-4)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(DataError, match="no TFLite file"):
        to_onnx(b"no flat buffer at all", {})
    data, _ = small_network(np.random.default_rng(0), code=77)
    with pytest.raises(DataError, match="77"):
        to_onnx(data, {"sum": 0})
