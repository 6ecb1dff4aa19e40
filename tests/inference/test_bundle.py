"""bundle.json is read as it is, or refused in a sentence."""

import json
import math
from typing import Any

import pytest

from signlang.errors import BundleError
from signlang.inference.bundle import FORMAT, parse_manifest

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
        ({"image_size": True}, "image_size=true: it must be a whole number of at least 1."),
        ({"temperature": 0}, "temperature=0: it must be a number above 0."),
        ({"temperature": math.nan}, "temperature=nan: it must be a number above 0."),
        ({"reject_threshold": 2}, "reject_threshold=2: it must be a number from 0 to 1 or null."),
        ({"models": {}}, "models.fp32 is missing: it must be the name of an ONNX file."),
        ({"models": {"fp32": "m"}}, "it has no checksum of m."),
        ({"files": {"../m": "0"}}, "it names a file outside of the bundle, '../m'."),
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
