"""bundle.json is read as it is, or refused in a sentence."""

import json
import math
import resource
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from signlang.errors import BundleError
from signlang.inference import onnx_model
from signlang.inference.bundle import FORMAT, load_bundle, parse_manifest
from signlang.inference.onnx_model import OnnxModel

MANIFEST: dict[str, Any] = {
    "format": FORMAT,
    "signlang": "0.1",
    "name": "digits",
    "classes": ["A", "B"],
    "image_size": 32,
    "temperature": 1.5,
    "reject_threshold": None,
    "models": {"fp32": "model.onnx"},
    "files": {"model.onnx": "0" * 64},
}


def parsed(**changes: Any) -> dict[str, Any]:
    return parse_manifest(json.dumps(MANIFEST | changes).encode(), "B")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classes": []}, "classes=[]: it must be a list of at least 1."),
        ({"classes": ["A", "A"]}, "classes=[A, A]: each name must be there once."),
        ({"classes": ["A", 1]}, "classes[1]=1: it must be a text."),
        ({"image_size": True}, "image_size=true: it must be a whole number from 1 to 4096."),
        ({"temperature": 0}, "temperature=0: it must be a number above 0."),
        ({"temperature": math.nan}, "temperature=nan: it must be a number above 0."),
        ({"reject_threshold": 2}, "reject_threshold=2: it must be a number from 0 to 1 or null."),
        ({"models": {}}, "models.fp32 is missing: it must be the name of an ONNX file."),
        ({"models": {"fp32": "m"}}, "it has no checksum of m."),
        ({"files": {"../m": "0"}}, "it names a file outside of the bundle, '../m'."),
        ({"name": "\udcff"}, "name=\udcff: it must be text, which can be written as UTF-8."),
        (
            {"classes": ["A", "\udcff"]},
            "classes[1]=\udcff: it must be text, which can be written as UTF-8.",
        ),
        ({"models": {"fp32": "\udcff"}}, r"'it has no checksum of \udcff.': that is not UTF-8."),
        ({"preprocessing": 1}, "preprocessing=1: it must be a mapping of keys to values."),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BundleError) as refused:
        parsed(**changes)
    whole = f"bundle.json of B: {sentence} Copy it again, or export the run again."
    assert str(refused.value) == whole


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{", "bundle.json of B is damaged"),
        (b"[" * 100_000, "bundle.json of B is damaged"),
        (b'{"\xed\xa5\x8a": 1}', "bundle.json of B is damaged"),
        (b'{"\\ud94a": 1}', "bundle.json of B is damaged (it holds half of a character)"),
        (b"[]", "it has no format"),
        (b'{"format": "1"}', "it has no format"),
        (
            b'{"format": 1}',
            "this one reads formats 2 and 3: export its run again",
        ),
        (b'{"format": 99, "signlang": "9.0"}', "B has format 99, written by signlang 9.0;"),
        (b'{"format": 2}', "bundle.json of B: name is missing: it must be a text. classes is"),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(BundleError) as refused:
        parse_manifest(data, "B")
    assert sentence in str(refused.value)


def test_a_manifest_may_have_more_keys() -> None:
    assert parsed(energy=5)["energy"] == 5


def saved(folder: Path, model: bytes, **changes: Any) -> Path:
    """A bundle with another network or manifest, whose checksums fit."""
    bundles.write(folder, model=model) if model else bundles.write(folder)
    file = folder / "bundle.json"
    info = json.loads(file.read_text("utf-8")) | changes
    file.write_text(json.dumps(info), "utf-8")
    return folder


def graph(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """A network of uint8 images whose mean, (1, 1), is `mean`; ends with `probabilities`."""
    mean = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["scalar"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["scalar", "one"], ["mean"]),
    ]
    values = {"one": np.array([1]), **constants}
    made = helper.make_graph(
        [*mean, *nodes], "hostile",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 7])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def load(folder: Path) -> OnnxModel:
    return OnnxModel.from_bundle(load_bundle(folder))


IMAGES = np.zeros((1, 8, 8, 3), np.uint8)
SEVEN = np.full((1, 7), 1 / 7, np.float32)


def test_external_data_of_a_network_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a network from memory looks for its data there
    (tmp_path / "secret.bin").write_bytes(SEVEN.tobytes())
    plain = graph(
        helper.make_node("Mul", ["mean", "zero"], ["none"]),
        helper.make_node("Add", ["none", "seven"], ["probabilities"]),
        zero=np.float32(0), seven=SEVEN,
    )  # fmt: skip
    assert load(saved(tmp_path / "plain", plain.SerializeToString()))(IMAGES).shape == (1, 7)
    for number, place in enumerate(("secret.bin", str(tmp_path / "secret.bin"))):
        tensor = next(t for t in plain.graph.initializer if t.name == "seven")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in {"location": place, "offset": "0", "length": "28"}.items():
            tensor.external_data.add(key=key, value=value)
        with pytest.raises(BundleError, match="External data path"):
            load(saved(tmp_path / f"external{number}", plain.SerializeToString()))


def test_an_endless_network_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "PROBE_S", 1.0)
    scalar = helper.make_tensor_value_info
    row: list[str | int | None] = ["n", 7]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [scalar("i", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, []),
         scalar("v", TensorProto.FLOAT, row)],
        [scalar("on", TensorProto.BOOL, []), scalar("w", TensorProto.FLOAT, row)],
    )  # fmt: skip
    start = {"images": "mean", "constants alone": "zeros"}
    for name, first in start.items():  # of constants it is computed while it is optimised
        endless = graph(
            helper.make_node("Add", [first, "seven"], ["v0"]),
            helper.make_node("Loop", ["often", "yes", "v0"], ["probabilities"], body=body),
            seven=SEVEN, often=np.array(2**60), yes=np.array(True), zeros=0 * SEVEN[:, :1],
        )  # fmt: skip
        with pytest.raises(BundleError, match=r"more than 1 seconds for one image"):
            load(saved(tmp_path / name, endless.SerializeToString()))


def test_a_huge_network_is_refused(tmp_path: Path) -> None:
    huge = graph(
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "mean"], ["none"]),
        helper.make_node("Add", ["none", "seven"], ["probabilities"]),
        shape=np.array([2**31]), seven=SEVEN,
    )  # fmt: skip
    with pytest.raises(BundleError, match="cannot be used by onnxruntime"):
        load(saved(tmp_path / "huge", huge.SerializeToString()))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 6 * 2**20  # KiB


@pytest.mark.parametrize("values", [[float("nan")] * 7, [5000.0] * 7, [-1.0, 2, 0, 0, 0, 0, 0]])
def test_what_is_no_probability_is_refused(values: list[float], tmp_path: Path) -> None:
    odd = graph(
        helper.make_node("Mul", ["mean", "zero"], ["none"]),
        helper.make_node("Add", ["none", "values"], ["probabilities"]),
        zero=np.float32(0), values=np.array([values], np.float32),
    )  # fmt: skip
    with pytest.raises(BundleError, match="makes no probabilities"):
        load(saved(tmp_path / "odd", odd.SerializeToString()))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 10**12, "preprocessing": {}}, "image_size=1000000000000: it must be"),
        ({"preprocessing": {"image_sizes": [10**12]}}, "must be a whole number from 1 to 4096"),
        ({"preprocessing": {"image_sizes": [8, 16]}}, "image_sizes end with 16"),
        ({"preprocessing": None}, "preprocessing"),
        ({"preprocessing": {"image_sizes": "x"}}, "preprocessing.image_sizes"),
        ({"classes": [*"ABCDEFG"]}, "classes.json of"),
    ],
)
def test_the_manifest_fits_itself_and_its_files(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError) as refused:
        load_bundle(saved(tmp_path / "odd", b"", **changes))
    assert sentence in str(refused.value)


def test_links_in_a_bundle_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "linked", b"")
    (tmp_path / "name").symlink_to(folder)
    assert load_bundle(tmp_path / "name").classes  # its folder may be one
    (folder / "model.onnx").rename(tmp_path / "model.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="is a link"):
        load_bundle(folder)
