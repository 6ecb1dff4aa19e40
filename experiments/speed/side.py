"""One side of one race, in a process of its own: `speed.py` starts it.

python experiments/speed/side.py ours model_a --root digits/Dataset --seconds 8
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

SIDES = {
    "ours": ("ours", "race"),
    "ceiling": ("ours", "ceiling"),
    "published": ("published", "race"),
    "usual": ("usual", "race"),
}


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Time one side of a race.")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--root", type=Path, required=True, help="class folders of images")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--jobs", type=int, default=1, help="at once, the cores divided among them")
    given = parser.parse_args()
    print(json.dumps(alone(given) if given.jobs == 1 else side_by_side(given)))


def side_by_side(given: argparse.Namespace) -> dict[str, float]:
    """Run several processes at once, as `hydra/launcher=local` does; their speeds add up."""
    threads = max(1, len(os.sched_getaffinity(0)) // given.jobs)
    command = [sys.executable, __file__, given.side, given.case, "--root", str(given.root),
               "--seconds", str(given.seconds)]  # fmt: skip
    alike = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    jobs = [
        subprocess.Popen(command, env=alike, stdout=subprocess.PIPE, text=True)
        for _ in range(given.jobs)
    ]
    outputs = [job.communicate()[0].strip().splitlines()[-1] for job in jobs]
    return {"speed": sum(json.loads(line)["speed"] for line in outputs)}


def alone(given: argparse.Namespace) -> dict[str, float]:
    """Run one side in this process."""
    begun = time.perf_counter()
    module, function = SIDES[given.side]
    run = getattr(importlib.import_module(module), function)
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    case = CASES[given.case]
    steps = 2 if case.data == "digits" else 1  # of seconds
    clock = Clock(given.seconds, warm_up=steps, settled=wait)
    run(case, given.root, clock)
    total = time.perf_counter() - begun
    return {"speed": clock.speed, "steps": clock.steps, "seconds": total}


if __name__ == "__main__":
    main()
