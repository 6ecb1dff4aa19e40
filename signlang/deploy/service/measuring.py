"""Events come in; counters and histograms for Prometheus go out, added up over all processes.

Where `PROMETHEUS_MULTIPROC_DIR` is set, prometheus_client keeps the figures of each process in that
folder, those of ended processes too. It looks at the variable when it is imported.
"""

import os
from typing import Final

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

from signlang.deploy.service.listening import FIGURES

KIND: Final = CONTENT_TYPE_LATEST
SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

REQUESTS: Final = Counter("signlang_requests", "Requests answered", ["route", "method", "status"])
LATENCY: Final = Histogram(
    "signlang_request_seconds", "From the head of a request to its answer", ["route"],
    buckets=SECONDS,
)  # fmt: skip
PICTURES: Final = Counter("signlang_pictures", "Pictures answered", ["model", "sure"])
BATCHES: Final = Histogram(
    "signlang_batch_pictures", "Pictures that a network computed at once", ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64),
)  # fmt: skip
COMPUTING: Final = Histogram(
    "signlang_batch_seconds", "Computing of a batch", ["model"], buckets=SECONDS
)
INSIDE: Final = Gauge(
    "signlang_pictures_inside", "Pictures read, waiting or computed", multiprocess_mode="livesum"
)
STARTS: Final = Counter("signlang_worker_starts", "Processes started, those again included")


def page() -> bytes:
    """All figures in Prometheus' text format."""
    if not os.environ.get(FIGURES):
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def batch(model: str, pictures: int, seconds: float) -> None:
    """Count a batch."""
    BATCHES.labels(model).observe(pictures)
    COMPUTING.labels(model).observe(seconds)
