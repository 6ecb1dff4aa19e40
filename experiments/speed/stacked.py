"""Training steps of five networks: stacked into one by `torch.func`, and one after another.

python experiments/speed/stacked.py --sizes 32 100
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from signlang.models import networks

FOLDS = 5
PRECISIONS = {True: "bf16", False: "float32"}


def made(name: str, size: int) -> list[nn.Module]:
    """One network for each fold."""
    torch.manual_seed(0)
    return [
        networks.build_network(name, 10, size).to(memory_format=torch.channels_last).train()
        for _ in range(FOLDS)
    ]


def one_after_another(name: str, size: int, batch: int, bf16: bool) -> Callable[[], float]:
    """A step of each network by itself; returns seconds."""
    nets = made(name, size)
    optimizers = [torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True) for net in nets]
    images = torch.randn(FOLDS, batch, 3, size, size)
    inputs = [x.to(memory_format=torch.channels_last) for x in images]
    labels = torch.randint(0, 10, (FOLDS, batch))

    def step() -> float:
        start = time.perf_counter()
        for net, optimizer, x, y in zip(nets, optimizers, inputs, labels, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = net(x)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return time.perf_counter() - start

    return step


def stacked(name: str, size: int, batch: int, bf16: bool) -> Callable[[], float]:
    """One step of all networks, whose weights are stacked; returns seconds."""
    nets = made(name, size)
    weights, buffers = stack_module_state(nets)
    plain = copy.deepcopy(nets[0]).to("meta")
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3, fused=True)
    images = torch.randn(FOLDS, batch, 3, size, size)
    labels = torch.randint(0, 10, (FOLDS, batch))

    def forward(w: dict[str, Any], b: dict[str, Any], x: torch.Tensor) -> Any:
        return functional_call(plain, (w, b), (x,))

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = torch.vmap(forward, randomness="different")(weights, buffers, images)
        optimizer.zero_grad()
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        (FOLDS * loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return time.perf_counter() - start

    return step


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["simple_cnn"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 100])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    for name in arguments.networks:
        for size in arguments.sizes:
            for bf16, precision in PRECISIONS.items():
                steps = [f(name, size, arguments.batch, bf16) for f in (one_after_another, stacked)]
                for step in 2 * steps:  # not timed
                    step()
                turns = [[step() for step in steps] for _ in range(arguments.steps)]
                apart, together = (
                    FOLDS * arguments.batch / statistics.median(column)
                    for column in zip(*turns, strict=True)
                )
                print(
                    f"{name} {size} px {precision}: {apart:.0f} images a second one after another, "
                    f"{together:.0f} stacked, {together / apart:.2f} times as fast",
                    flush=True,
                )


if __name__ == "__main__":
    main()
