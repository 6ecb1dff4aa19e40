"""Quantization-aware training: adapt the weights of a trained network to 8 bits.

Rounding is simulated in the forward pass, and the gradient passes it unchanged (Jacob et al. 2018,
arXiv 1712.05877). The adapted network learns the probabilities of the trained one (distillation,
Hinton et al. 2015, arXiv 1503.02531), so that images are enough: no labels are needed. Pairs of
images are mixed (Zhang et al. 2018, arXiv 1710.09412): of an image that it was trained on, a
network is too sure to teach much. Batch normalization keeps its statistics.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from signlang.arrays import Pixels
from signlang.callbacks.one_cycle import OneCycle
from signlang.console import track

BATCH: Final = 32
LEARNING_RATE: Final = 3e-5  # with 1e-4 a network forgets more than 8 bits cost it
MOMENTUM: Final = 0.05  # of the ranges of activations, from batch to batch
SMALLEST: Final = 1e-8  # of a range, and of a probability whose logarithm is taken


class RoundedWeight(nn.Module):
    """Round weights to 8 bits, symmetric, with a scale for each output channel."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Map weights of any shape, output channels first, to the same shape."""
        largest = weight.detach().abs().flatten(1).amax(1).clamp_min(SMALLEST)
        zeros = torch.zeros_like(largest, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, largest / 127, zeros, 0, -127, 127)


class RoundedInput:
    """A hook that rounds the input of a layer to 8 bits, over the range that it has seen.

    The range always holds zero, as that of onnxruntime does.
    """

    def __init__(self) -> None:
        self.lower = self.upper = 0.0

    def __call__(self, _: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Round the first input of a layer, float of any shape."""
        values, *others = given
        lower, upper = (float(end) for end in torch.aminmax(values.detach()))
        first = self.lower == self.upper
        share = 1.0 if first else MOMENTUM
        self.lower += share * (min(lower, 0.0) - self.lower)
        self.upper += share * (max(upper, 0.0) - self.upper)
        scale = max(self.upper - self.lower, SMALLEST) / 255
        zero = min(max(round(-self.lower / scale), 0), 255)
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255), *others


def adapt_to_int8(
    module: nn.Module, images: Pixels, steps: int, coded_rows: int = 0, seed: int = 0
) -> nn.Module:
    """Train a copy of a network with rounded weights and activations.

    Args:
        module: From uint8 (N, 3, size, size) to probabilities (N, classes).
        images: (n, size, size, 3) training images.
        steps: Of AdamW, with 32 images each.
        coded_rows: Rows of pixels at the lower edge that hold numbers; they are not mixed.
        seed: Of the order of the images.

    Returns:
        The copy, in evaluation mode. Its weights are floats that suit 8 bits.
    """
    teacher, student = module.eval(), copy.deepcopy(module).eval()
    trained = [parameter for parameter in student.parameters() if parameter.is_floating_point()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = OneCycle().scheduler(optimizer, steps)
    with _rounded(student):
        for batch in track(_batches(images, steps, coded_rows, seed), "training for int8", steps):
            with torch.no_grad():
                wanted = teacher(batch)
            given = student(batch).clamp_min(SMALLEST).log()
            optimizer.zero_grad(set_to_none=True)
            loss = F.kl_div(given, wanted, reduction="batchmean")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return student


def _batches(images: Pixels, steps: int, coded_rows: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield batches of (n, 3, size, size), each image mixed with another one of its batch."""
    rng, left = np.random.default_rng(seed), np.empty(0, np.int64)
    size = min(BATCH, len(images))
    for _ in range(steps):
        if len(left) < size:
            left = rng.permutation(len(images))
        rows, left = left[:size], left[size:]
        share = rng.uniform()
        batch, others = images[rows], images[rng.permutation(rows)]
        mixed = np.rint(share * batch + (1 - share) * others).astype(np.uint8)
        whole = images.shape[1] - coded_rows
        yield torch.from_numpy(
            np.concatenate([mixed[:, :whole], batch[:, whole:]], axis=1)
        ).permute(0, 3, 1, 2)


@contextmanager
def _rounded(network: nn.Module) -> Iterator[None]:
    """Round the weights and the inputs of all layers while the context lasts."""
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    hooks = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
        hooks.append(layer.register_forward_pre_hook(cast(Any, RoundedInput())))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
