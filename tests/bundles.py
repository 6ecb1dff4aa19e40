"""Bundles whose network is a dozen numbers: an image is the sign whose colour is the nearest.

The format is that of `signlang.export`; the network is real ONNX, of uint8 images of any size.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import made_hands
import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from signlang.deploy.onnx_resize import resize_graph
from signlang.hands.finder import POINTS
from signlang.hands.hand_input import HandCrop, HandInput
from signlang.hands.hand_networks import HandNetworks
from signlang.inference.bundle import FORMAT, HAND_FILES, HANDS_FORMAT, SIGNS

COLOURS = {
    "A": (220, 40, 40), "B": (40, 200, 40), "C": (40, 60, 220), "L": (220, 200, 30),
    "nothing": (120, 120, 120), "space": (250, 250, 250), "del": (10, 10, 10),
}  # fmt: skip
CARD = b"<!doctype html><html lang=en><title>Card</title><style>p{color:red}</style><p>A card</p>"


def network(
    colours: Mapping[str, tuple[int, int, int]] = COLOURS,
    sharpness: float = 40.0,
    columns: int = 2**31 - 1,
) -> bytes:
    """Logits are minus the squared distance of the mean colour: linear, up to a constant.

    Args:
        colours: Of the signs.
        sharpness: How much the distance counts.
        columns: How many are looked at, from the left.
    """
    wanted = np.array(list(colours.values()), dtype=np.float32) / 255
    weights = (2 * sharpness * wanted.T).astype(np.float32)
    bias = (-sharpness * (wanted**2).sum(axis=1)).astype(np.float32)
    constants = {
        "scale": np.array(1 / 255, np.float32), "axes": np.array([1, 2], np.int64),
        "weights": weights, "bias": bias,
        "begin": np.array([0], np.int64), "end": np.array([columns], np.int64),
        "along": np.array([2], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["images", "begin", "end", "along"], ["part"]),
        helper.make_node("Cast", ["part"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    return _model(nodes, constants, len(colours))


def _model(nodes: list[onnx.NodeProto], constants: Mapping[str, Any], classes: int) -> bytes:
    graph = helper.make_graph(
        nodes, "made",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def resizing(network: bytes, size: int = 32) -> bytes:
    """A network that resizes to size x size pixels first, as exported ones do."""
    before = resize_graph([size], opset=18, ir_version=9)
    before.graph.node.append(
        helper.make_node("Transpose", ["resized"], ["upright"], perm=[0, 2, 3, 1])
    )
    before.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("upright", TensorProto.UINT8, ["n", size, size, 3])
    )
    after = onnx.compose.add_prefix(
        onnx.load_from_string(network), "network/", rename_outputs=False
    )
    whole = onnx.compose.merge_models(before, after, io_map=[("upright", "network/images")])
    return bytes(whole.SerializeToString())


def points_network(*, in_row: bool = False) -> bytes:
    """Any classifier of the points in images of `HandPoints`, which looks at each of them.

    Args:
        in_row: The points are in the last row, as in images of `HandBoth`.
    """
    rng = np.random.default_rng(0)
    constants = {
        "begin": np.array([-1 if in_row else 0, 0], np.int64),
        "end": np.array([2**31 - 1, 64] if in_row else [8, 8], np.int64),
        "along": np.array([1, 2], np.int64),
        "bytes": np.array([256, 1, 0], np.float32).reshape(3, 1) / 65535,
        "flat": np.array([-1, 64], np.int64),
        "weights": rng.normal(0, 1, (64, len(COLOURS))).astype(np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["images", "begin", "end", "along"], ["part"]),
        helper.make_node("Cast", ["part"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "bytes"], ["numbers"]),
        helper.make_node("Reshape", ["numbers", "flat"], ["points"]),
        helper.make_node("MatMul", ["points", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    return _model(nodes, constants, len(COLOURS))


def write(
    folder: Path,
    name: str = "colours",
    colours: Mapping[str, tuple[int, int, int]] = COLOURS,
    model: bytes | None = None,
    threshold: float | None = 0.6,
    card: bytes = CARD,
    hands: HandInput | None = None,
    signs: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle, by default of seven signs, with two models and a card."""
    data = model or network(colours)
    files = {
        "model.onnx": data,
        "model.int8.onnx": data,
        "classes.json": json.dumps(list(colours)).encode(),
    }
    if card:
        files["card.html"] = card
    if hands:
        own = hands.networks
        contents = (own.palm, own.landmarks, own.license.encode())
        files |= dict(zip(HAND_FILES, contents, strict=True))
    if signs is not None:
        files[SIGNS] = json.dumps(signs).encode()
    info: dict[str, Any] = {
        "format": HANDS_FORMAT if hands else FORMAT,
        "name": name,
        "classes": list(colours),
        "image_size": (hands and hands.fixed_size) or 32,
        "temperature": 1.0,
        "reject_threshold": threshold,
        "models": {"fp32": "model.onnx", "int8": "model.int8.onnx"},
        "files": {key: hashlib.sha256(value).hexdigest() for key, value in files.items()},
    }
    if hands:
        info["hands"] = {"networks": hands.networks.key, "options": hands.options}
        (folder / "hands").mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    for key, value in files.items():
        (folder / key).write_bytes(value)
    (folder / "bundle.json").write_text(json.dumps(info, indent=2))
    return folder


def write_full(folder: Path) -> Path:
    """Write a bundle with all kinds of files: it finds hands, and has drawings of two signs."""
    networks = HandNetworks(
        "made", made_hands.palm_network(), made_hands.landmark_network(), "free for all"
    )
    hand = [[round(0.1 * number, 1), 0.5] for number in range(POINTS)]
    return write(folder, hands=HandCrop(networks), signs={"A": hand, "L": hand})


def image(sign: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A plain image of a sign's colour."""
    return Image.new("RGB", size, COLOURS[sign])
