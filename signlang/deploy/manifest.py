"""The content of `bundle.json` comes in as bytes, and goes out as checked facts."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from signlang.errors import BundleError

FORMAT: Final = 1  # raise it when an older program would misread what is written


def is_plain(name: str) -> bool:
    """Whether a name stays inside the folder that it is looked up in.

    >>> is_plain("figures/confusion.png"), is_plain("../x"), is_plain("/x"), is_plain("a" + chr(92))
    (True, False, False, False)
    """
    parts = PurePosixPath(name).parts
    odd = set(name) & {"\\", ":", "\0"}
    return bool(parts) and not odd and not name.startswith("/") and ".." not in parts


def parsed(data: bytes, where: str) -> dict[str, Any]:
    """Read `bundle.json`.

    Args:
        data: Its bytes.
        where: The bundle, for errors.

    Raises:
        BundleError: If it is no JSON, of a newer format, or a key is missing or senseless.
    """
    try:
        info = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle.json of {where} is damaged ({error}).") from None
    if not isinstance(info, dict) or not isinstance(info.get("format"), int):
        raise BundleError(f"bundle.json of {where} is not that of a bundle: it has no format.")
    if info["format"] > FORMAT:
        raise BundleError(
            f"{where} has format {info['format']}, written by signlang "
            f"{info.get('signlang', 'unknown')}; this one reads up to {FORMAT}: update it."
        )
    for key, holds in RULES.items():
        if key not in info or not holds(info[key]):
            raise BundleError(f"bundle.json of {where} has no usable {key}: export the run again.")
    lacking = [name for name in info["models"].values() if name not in info["files"]]
    if lacking:
        raise BundleError(f"bundle.json of {where} has no checksum of {lacking[0]}.")
    return info


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_classes(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return texts and len(value) > 0 and len(set(value)) == len(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


RULES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "name": lambda value: isinstance(value, str),
    "classes": _are_classes,
    "image_size": lambda value: isinstance(value, int) and value > 0,
    "temperature": lambda value: _is_number(value) and value > 0,
    "reject_threshold": lambda value: value is None or (_is_number(value) and 0 <= value <= 1),
    "models": lambda value: _are_texts(value) and "fp32" in value,
    "files": lambda value: _are_texts(value) and all(map(is_plain, value)),
}
