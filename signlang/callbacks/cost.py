"""Cost profile of a network: parameters, FLOPs, size and latency."""

import copy
import io
import logging
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import pytorch_lightning as pl
import torch
from torch import nn

from signlang.models.classifier import Classifier
from signlang.system import check_stop

WARM_UP: Final = 10
REPEATS: Final = 100


@dataclass(frozen=True)
class Cost:
    """Cost of a network.

    Attributes:
        parameters: Trainable weights.
        flops: Operations for one image as fvcore counts them, with the network in training mode
            as published tables have it; a multiply-add is 1.
        size_mb: Of the saved state dict, in 10^6 bytes.
        latency_ms: Median time for one image, from bytes to logits, one thread, on this CPU.
        latency_quartiles_ms: First and third quartile of it.
    """

    parameters: int
    flops: int
    size_mb: float
    latency_ms: float
    latency_quartiles_ms: tuple[float, float]


def parameters(network: nn.Module) -> int:
    """Count the trainable weights.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def flops(network: nn.Module, image_size: int) -> int:
    """Count the operations for one image (fvcore; training mode; a multiply-add is 1).

    The network is not changed: fvcore runs a copy, whose batch statistics change. It runs two
    images, as batch normalization of a single value is undefined, and half of that is returned.
    """
    from fvcore.nn import FlopCountAnalysis

    network = copy.deepcopy(network).cpu().float().train()
    images = torch.zeros(2, 3, image_size, image_size)
    analysis = FlopCountAnalysis(network, images)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    tracer = logging.getLogger("fvcore.nn.jit_analysis")
    level = tracer.level
    tracer.setLevel(logging.ERROR)
    try:
        return int(analysis.total()) // 2
    finally:
        tracer.setLevel(level)


def size_mb(network: nn.Module) -> float:
    """Size of the saved state dict in 10^6 bytes."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.tell() / 1e6


def latencies_ms(classifier: Classifier, image_size: int, repeats: int = REPEATS) -> list[float]:
    """Time single images on the CPU with one thread, in float32, after a warm-up.

    `torch.utils.benchmark.Timer` would import PyTorch's C++ extensions, which warn about a CUDA
    toolkit without a GPU, and times blocks of fast networks, not single images.

    Args:
        classifier: Maps bytes to logits; not changed.
        image_size: Width and height of the image, in pixels.
        repeats: Number of timed images.

    Returns:
        Milliseconds of each image.
    """
    network = copy.deepcopy(classifier).cpu().float().eval()
    image = torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        with torch.inference_mode():
            for _ in range(WARM_UP + repeats):
                check_stop()
                started = time.perf_counter()
                network(image)
                times.append(1e3 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(threads)
    return times[WARM_UP:]


def latency(classifier: Classifier, image_size: int) -> dict[str, Any]:
    """`latency_ms` and `latency_quartiles_ms` of `Cost`."""
    first, median, third = statistics.quantiles(latencies_ms(classifier, image_size), n=4)
    return {
        "latency_ms": round(median, 3),
        "latency_quartiles_ms": (round(first, 3), round(third, 3)),
    }


def profile(classifier: Classifier, image_size: int) -> Cost:
    """Measure all costs of a classifier."""
    network = classifier.network
    return Cost(
        parameters=parameters(network),
        flops=flops(network, image_size),
        size_mb=round(size_mb(network), 3),
        **latency(classifier, image_size),
    )


class CostProfile(pl.Callback):
    """Measures the cost of the network after its test, and logs it."""

    def __init__(self) -> None:
        self.cost: Cost | None = None

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, keep and log."""
        classifier = cast(Classifier, pl_module)
        self.cost = profile(classifier, int(trainer.datamodule.image_size))  # type: ignore[attr-defined]
        costs = {k: v for k, v in asdict(self.cost).items() if isinstance(v, int | float)}
        for logger in trainer.loggers:
            logger.log_metrics({f"cost/{name}": value for name, value in costs.items()}, step=0)
