"""Networks that stand where MediaPipe's stand, as small as they can be: real ONNX, real pipeline.

The detector sees a palm in the middle of every image that is not dark; the fingers of the hand are
as long as the image is red, green and blue, so that hands can be told apart by their points.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from signlang.hands.hand_networks import DEFAULT_KEY, LANDMARKS, LICENSE, PALM

Array = npt.NDArray[Any]
DARK = 30.0  # mean of the pixels below which there is no hand
ANCHOR = 1152 + 6 * (12 * 6 + 6)  # of the coarse grid, half a cell beyond the middle
FINGERS = {8: 0, 12: 1, 16: 2}  # fingertip -> channel that makes it long


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array],
    size: int,
    outputs: dict[str, list[int | str]],
) -> bytes:
    image_info = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])
    output_infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in outputs.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["pixels"], to=1), *nodes],
        "made", [image_info], output_infos,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def palm_network() -> bytes:
    """The detector: one palm of a quarter of the image, fingers upwards."""
    boxes = np.zeros((1, 2016, 18), np.float32)
    boxes[..., 2:4] = 48
    boxes[..., 4:6] = (0, 20)  # wrist
    boxes[..., 8:10] = (0, -20)  # beginning of the middle finger
    scores = np.full((1, 2016, 1), -1000, np.float32)
    scores[0, ANCHOR] = -DARK
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["mean"], ["level"], axes=[1], keepdims=1),
        helper.make_node("Unsqueeze", ["level", "last"], ["levels"]),
        helper.make_node("Add", ["levels", "floor"], ["scores"]),
        helper.make_node("Mul", ["levels", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "fixed"], ["boxes"]),
    ]
    constants: dict[str, Array] = {
        "last": np.array([2], np.int64), "floor": scores, "fixed": boxes,
        "zero": np.zeros(1, np.float32),
    }  # fmt: skip
    return _model(nodes, constants, 192, {"boxes": ["N", 2016, 18], "scores": ["N", 2016, 1]})


def landmark_network() -> bytes:
    """The points: a hand in the middle of the crop, whose fingertips rise with the colours."""
    points = np.zeros((21, 3), np.float32)
    points[:, :2] = 112
    points[0, :2] = (112, 176)
    for finger in range(5):
        for joint in range(4):
            points[1 + 4 * finger + joint, :2] = (76 + 18 * finger, 120 - 6 * joint)
    rise = np.zeros((3, 63), np.float32)
    for tip, channel in FINGERS.items():
        rise[channel, 3 * tip + 1] = -0.2  # pixels of the crop for each level
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["colour"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["colour", "rise"], ["risen"]),
        helper.make_node("Add", ["risen", "hand"], ["points"]),
        helper.make_node("MatMul", ["colour", "none"], ["zero"]),
        helper.make_node("Add", ["zero", "sure"], ["presence"]),
        helper.make_node("Add", ["zero", "sure"], ["handedness"]),
    ]
    constants: dict[str, Array] = {
        "rise": rise, "hand": points.reshape(1, 63), "none": np.zeros((3, 1), np.float32),
        "sure": np.full((1, 1), 0.9, np.float32),
    }  # fmt: skip
    outputs: dict[str, list[int | str]] = {
        "points": ["N", 63], "presence": ["N", 1], "handedness": ["N", 1],
    }  # fmt: skip
    return _model(nodes, constants, 224, outputs)


def write_networks(cache_dir: Path) -> Path:
    """Put both where `signlang hands` would put MediaPipe's."""
    folder = cache_dir / "hands" / DEFAULT_KEY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PALM).write_bytes(palm_network())
    (folder / LANDMARKS).write_bytes(landmark_network())
    (folder / LICENSE).write_text("made for a test\n", "utf-8")
    return folder
