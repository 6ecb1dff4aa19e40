"""One side of one race, in a process of its own: `speed.py` starts it.

python experiments/speed/side.py ours model_a --root digits/Dataset --seconds 8
"""

import argparse
import importlib
import json
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
    parser.add_argument("--root", type=Path, required=True, help="class folders of pictures")
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    begun = time.perf_counter()
    module, function = SIDES[given.side]
    run = getattr(importlib.import_module(module), function)
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    clock = Clock(given.seconds, settled=wait)
    run(CASES[given.case], given.root, clock)
    total = time.perf_counter() - begun
    print(json.dumps({"speed": clock.speed, "steps": clock.steps, "seconds": total}))


if __name__ == "__main__":
    main()
