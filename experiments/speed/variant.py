"""Throughput of one variant of one case, in a process of its own: `speed.py` starts it.

python experiments/speed/variant.py ours model_a --root digits/Dataset --seconds 8
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from cases import CASES
from clock import Clock

VARIANTS = {
    "ours": ("ours", "race"),
    "ceiling": ("ours", "ceiling"),
    "published": ("published", "race"),
    "usual": ("usual", "race"),
}


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Time one variant of a case.")
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--root", type=Path, required=True, help="class folders of images")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--jobs", type=int, default=1, help="at once, the cores divided among them")
    arguments = parser.parse_args()
    print(json.dumps(single(arguments) if arguments.jobs == 1 else concurrently(arguments)))


def concurrently(arguments: argparse.Namespace) -> dict[str, float]:
    """Run several processes at once, as `hydra/launcher=local` does; their speeds add up."""
    threads = max(1, len(os.sched_getaffinity(0)) // arguments.jobs)
    command = [
        sys.executable, __file__, arguments.variant, arguments.case,
        "--root", str(arguments.root), "--seconds", str(arguments.seconds),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    jobs = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(arguments.jobs)
    ]
    outputs = [job.communicate()[0].strip().splitlines()[-1] for job in jobs]
    return {"speed": sum(json.loads(line)["speed"] for line in outputs)}


def single(arguments: argparse.Namespace) -> dict[str, float]:
    """Run one variant in this process."""
    started = time.perf_counter()
    module, function = VARIANTS[arguments.variant]
    run = getattr(importlib.import_module(module), function)
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    case = CASES[arguments.case]
    steps = 2 if case.data == "digits" else 1  # of seconds
    clock = Clock(arguments.seconds, warm_up=steps, synchronize=wait)
    run(case, arguments.root, clock)
    total = time.perf_counter() - started
    return {"speed": clock.speed, "steps": clock.steps, "seconds": total}


if __name__ == "__main__":
    main()
