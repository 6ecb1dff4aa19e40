"""Training steps in bfloat16 and in float32, in turn: images a second and their ratio.

python experiments/speed/precision.py --sizes 64 128
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from signlang.models import networks

NETWORKS = ("simple_cnn", "squeezenet", "resnet18", "mobilenetv2", "mobilenetv2_dense")


def training_step(name: str, size: int, batch: int, bf16: bool) -> Callable[[], float]:
    """A step on one batch of noise that returns its seconds."""
    torch.manual_seed(0)
    network = networks.build_network(name, 10, size).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(images)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return time.perf_counter() - start

    return step


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Compare training steps in two precisions.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    capabilities = torch.cpu.get_capabilities()
    print({key: value for key, value in capabilities.items() if "bf16" in key or "512f" in key})
    for name in arguments.networks:
        for size in arguments.sizes:
            steps = [
                training_step(name, size, arguments.batch, bf16=bf16) for bf16 in (True, False)
            ]
            for step in 2 * steps:  # not timed
                step()
            turns = [[step() for step in steps] for _ in range(arguments.steps)]
            bf16, float32 = (
                arguments.batch / statistics.median(column) for column in zip(*turns, strict=True)
            )
            print(
                f"{name:18} {size:4} px: bf16 {bf16:6.0f}, float32 {float32:6.0f} images a second; "
                f"bf16 is {bf16 / float32:.2f} times as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
