"""Prometheus metrics across worker processes, and the request log middleware.

Where `PROMETHEUS_MULTIPROC_DIR` is set, prometheus_client keeps the metrics of each process in that
folder, those of ended processes too. It looks at the variable when it is imported.

A line holds the route, the status and the times: no image, no name of a file, no address, no
header and no text of the request.
"""

import logging
import os
import time
from typing import Any, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from signlang.server.config import METRICS_VARIABLE, log

METRICS_TYPE: Final = CONTENT_TYPE_LATEST
SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
REQUESTS: Final = Counter("signlang_requests", "Requests answered", ["route", "method", "status"])
LATENCY: Final = Histogram(
    "signlang_request_seconds", "From the head of a request to its answer", ["route"],
    buckets=SECONDS,
)  # fmt: skip
IMAGES: Final = Counter("signlang_images", "Images answered", ["model", "sure"])
BATCHES: Final = Histogram(
    "signlang_batch_images", "Images that a network computed at once", ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64),
)  # fmt: skip
COMPUTING: Final = Histogram(
    "signlang_batch_seconds", "Computing of a batch", ["model"], buckets=SECONDS
)
INSIDE: Final = Gauge(
    "signlang_images_inside", "Images read, waiting or computed", multiprocess_mode="livesum"
)
STARTS: Final = Counter("signlang_worker_starts", "Processes started, those again included")


def metrics_page() -> bytes:
    """All metrics in Prometheus' text format."""
    if not os.environ.get(METRICS_VARIABLE):
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def record_batch(model: str, images: int, seconds: float) -> None:
    """Count a batch."""
    BATCHES.labels(model).observe(images)
    COMPUTING.labels(model).observe(seconds)


METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
LOG_FIELDS: Final = "log_fields"  # of `request.state`: what a route adds to the line of a request
QUIET: Final = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds by machines


class RequestLog:
    """ASGI middleware that counts requests and logs them.

    Args:
        app: The application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499  # 499: the client closed the request
        state: dict[str, Any] = scope.setdefault("state", {})

        async def record_status(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, record_status)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in METHODS else "other"
            REQUESTS.labels(route, method, str(status)).inc()
            LATENCY.labels(route).observe(seconds)
            if route not in QUIET or status >= 400:
                facts = {"route": route, "method": method, "status": status}
                facts |= {"milliseconds": round(seconds * 1000, 2), **state.get(LOG_FIELDS, {})}
                log.log(_level(status), "request", extra=facts)


def _level(status: int) -> int:
    return logging.ERROR if status >= 500 else logging.INFO
