"""Validated configuration of the inference server, and its required packages."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from signlang.errors import ServiceError, SettingError
from signlang.system import cpu_count

MIB: Final = 2**20
METRICS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when imported


@dataclass(frozen=True)
class ServeConfig:
    """The settings of `conf/serve.yaml`, which says what each is for.

    Units are in the names: `_s` seconds, `_ms` milliseconds, `_mb` MiB.
    """

    bundle: tuple[str, ...]
    default: str | None = None
    precision: str = "fp32"
    device: str = "cpu"
    reject_threshold: float | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    workers: int = 1
    runners: int | None = None
    threads: int = 1
    max_batch: int | None = None
    wait_ms: float = 0.0
    queue: int = 128
    queue_mb: float = 256
    max_images: int = 64
    max_body_mb: float = 16
    max_pixels: int = 25_000_000
    body_s: float = 10.0
    timeout_s: float = 30.0
    grace_s: float = 30.0
    connections: int = 1000

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the bundles are."""
        return tuple(Path(place).expanduser() for place in self.bundle)

    @property
    def side_by_side(self) -> int:
        """How many batches are computed at the same time in one process."""
        if self.runners is not None:
            return self.runners
        if self.device != "cpu":
            return 1
        return max(1, cpu_count() // (self.workers * self.threads))


def _one_of(*words: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in words, " or ".join(words)


def _whole(least: int, most: int = 2**31) -> tuple[Callable[[Any], bool], str]:
    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return holds, f"a whole number from {least}" + (f" to {most}" if most < 2**31 else "")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _above_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


_ABOVE: Final = (_above_zero, "a number above 0")
_TEXT: Final = (lambda value: value is None or _is_text(value), "a text or null")
RULES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "default": _TEXT,
    "precision": _one_of("fp32", "int8"),
    "device": _one_of("cpu", "cuda"),
    "reject_threshold": (
        lambda value: value is None or (_above_zero(value) and value <= 1) or value == 0,
        "a number from 0 to 1, or null",
    ),
    "host": (lambda value: _is_text(value), "an address, e.g. 127.0.0.1"),
    "port": _whole(0, 65535),
    "api_key": (
        lambda value: value is None or (isinstance(value, str) and len(value) >= 16),
        "at least 16 characters, or null",
    ),
    "workers": _whole(1, 256),
    "runners": (lambda value: value is None or _whole(1, 256)[0](value), "a whole number or null"),
    "threads": _whole(1, 256),
    "max_batch": (
        lambda value: value is None or _whole(1)[0](value),
        "a whole number from 1, or null",
    ),
    "wait_ms": (lambda value: value == 0 or _above_zero(value), "0 or more milliseconds"),
    "queue": _whole(1),
    "queue_mb": _ABOVE,
    "max_images": _whole(1),
    "max_body_mb": _ABOVE,
    "max_pixels": _whole(1, 100_000_000),
    "body_s": _ABOVE,
    "timeout_s": _ABOVE,
    "grace_s": _ABOVE,
    "connections": _whole(1),
}


def checked_config(settings: Mapping[str, Any]) -> ServeConfig:
    """Turn a configuration into settings that can work.

    Raises:
        SettingError: If one cannot; the sentence holds the mend.

    >>> checked_config({"bundle": "a.zip", "port": 8080}).bundle
    ('a.zip',)
    """
    known = {field.name for field in fields(ServeConfig)}
    given = {key: value for key, value in settings.items() if key in known}
    key = given.get("api_key")
    given["api_key"] = None if key in {None, ""} else str(key)  # digits alone come as a number
    for key in ("bundle", "cors"):
        value = given.get(key) or []
        given[key] = (value,) if isinstance(value, str | int) else tuple(map(str, value))
    given["bundle"] = tuple(map(str, given["bundle"]))
    if not given["bundle"]:
        raise SettingError("Name what to serve: bundle=B, which signlang.export wrote.")
    for key, (holds, wanted) in RULES.items():
        if key in given and not holds(given[key]):
            shown = "this value" if key == "api_key" else f"{given[key]!r}"
            raise SettingError(f"{key} cannot be {shown}: it is {wanted}.")
    options = ServeConfig(**given)
    if options.max_images > options.queue:
        raise SettingError(
            f"max_images={options.max_images} of one request do not fit into "
            f"queue={options.queue}: make the queue at least as long."
        )
    if options.max_body_mb > options.queue_mb:
        raise SettingError(
            f"max_body_mb={options.max_body_mb:g} of one request does not fit into "
            f"queue_mb={options.queue_mb:g}: make that at least as large."
        )
    return options


NEEDED: Final = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "onnxruntime")


def check_packages() -> None:
    """Look for what `pip install "signlang[serve]"` brings.

    Raises:
        ServiceError: If a part of it is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServiceError(
            f'A service needs {", ".join(missing)}: pip install "signlang[serve]" brings it.'
        )
