"""Validated configuration of the inference server, its required packages and its log."""

import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from signlang.constraints import Count, Positive, Probability, Strict, Text, validated
from signlang.errors import ServiceError
from signlang.files import expanded
from signlang.system import cpu_count

log: Final = logging.getLogger("signlang.service")
MIB: Final = 2**20
METRICS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when imported
Processes = Annotated[int, Field(ge=1, le=256)]


def _as_texts(value: object) -> object:
    """One text stands for a list of one, null for an empty list."""
    if isinstance(value, str | int):
        return (value,)
    return tuple(value) if isinstance(value, list) else () if value is None else value


def _not_empty(bundles: tuple[str, ...]) -> tuple[str, ...]:
    if not bundles:
        raise ValueError("name what to serve: bundle=B, which signlang.export wrote.")
    return bundles


Texts = Annotated[tuple[Text, ...], BeforeValidator(_as_texts)]


class ServeConfig(Strict):
    """The settings of `conf/serve.yaml`, which documents each.

    Units are in the names: `_s` seconds, `_ms` milliseconds, `_mb` MiB.
    """

    bundle: Annotated[Texts, AfterValidator(_not_empty)] = Field(
        description="a folder or ZIP file that signlang.export wrote"
    )
    default: Text | None = None
    precision: Literal["fp32", "int8"] = "fp32"
    device: Literal["cpu", "cuda"] = "cpu"
    reject_threshold: Probability | None = None
    host: str = Field(default="127.0.0.1", min_length=1, description="an address, e.g. 127.0.0.1")
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: Annotated[Text | None, BeforeValidator(lambda key: key or None)] = Field(
        default=None, min_length=16, repr=False, json_schema_extra={"writeOnly": True}
    )
    cors: Texts = ()
    workers: Processes = 1
    runners: Processes | None = None
    threads: Processes = 1
    max_batch: Count | None = None
    wait_ms: float = Field(default=0.0, ge=0)
    queue: Count = 128
    queue_mb: Positive = 256
    queue_s: Positive = 2.0
    max_images: Count = 64
    max_body_mb: Positive = 16
    max_pixels: int = Field(default=25_000_000, ge=1, le=100_000_000)
    head_s: Positive = 10.0
    body_s: Positive = 10.0
    decode_s: Positive = 60.0
    timeout_s: Positive = 30.0
    worker_timeout_s: Positive = 30.0
    grace_s: Positive = 30.0
    connections: Count = 1000
    address_connections: Count = 500
    hosts: Texts | None = None
    verbose: bool = True

    @model_validator(mode="after")
    def _fits_into_the_queue(self) -> "ServeConfig":
        if self.max_images > self.queue:
            raise ValueError(
                f"max_images={self.max_images} of one request do not fit into "
                f"queue={self.queue}: make the queue at least as long."
            )
        if self.max_body_mb > self.queue_mb:
            raise ValueError(
                f"max_body_mb={self.max_body_mb:g} of one request does not fit into "
                f"queue_mb={self.queue_mb:g}: make that at least as large."
            )
        return self

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the bundles are."""
        return tuple(expanded(path) for path in self.bundle)

    @property
    def concurrent_batches(self) -> int:
        """How many batches are computed at the same time in one process."""
        if self.runners is not None:
            return self.runners
        if self.device != "cpu":
            return 1
        return max(1, cpu_count() // (self.workers * self.threads))


def checked_config(settings: Mapping[str, Any]) -> ServeConfig:
    """Turn a configuration into settings that can work.

    Raises:
        SettingError: If one cannot; the sentence holds the fix.

    >>> checked_config({"bundle": "a.zip", "port": 8080}).bundle
    ('a.zip',)
    """
    return validated(ServeConfig, settings)


NEEDED: Final = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "onnxruntime")


def check_platform() -> None:
    """Refuse a system without what the supervisor of worker processes is built on.

    Raises:
        ServiceError: On Windows.
    """
    if os.name == "nt":
        raise ServiceError(
            "A service needs Linux or macOS: on Windows run it in WSL or in the container; "
            "signlang.predict works without either."
        )


def check_packages() -> None:
    """Look for what an installation with all dependencies has.

    Raises:
        ServiceError: If a package is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServiceError(f"A service needs {', '.join(missing)}: pip install signlang brings it.")
