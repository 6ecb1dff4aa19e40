"""A network comes in; how many pictures it had better compute at once goes out.

On a processor larger batches fall out of the caches: SqueezeNet computes single pictures a fifth
faster than sixteen at once. Small networks and graphics cards want large batches. So it is tried.
"""

import time
from typing import Final

import numpy as np

from signlang.deploy.bundle import Pixels
from signlang.deploy.service.batching import Compute

SIZES: Final = (1, 2, 4, 8, 16, 32)
REPEATS: Final = 3  # of which the fastest counts: others may have been disturbed
LONGEST: Final = 0.2  # seconds of a batch; a picture that arrives meanwhile waits for it
PATIENCE: Final = 8  # larger batches are not tried if such a multiple brings nothing
WORTH: Final = 0.95  # a larger batch is to save a twentieth of the time of a picture


def best_batch(compute: Compute, side: int) -> int:
    """Try batches of rising size on black squares of some side; takes about a second."""
    chosen, fastest = 1, float("inf")
    for size in SIZES:
        pictures = np.zeros((size, side, side, 3), dtype=np.uint8)
        compute(pictures)  # the first one of a size takes memory
        seconds = min(_timed(compute, pictures) for _ in range(REPEATS))
        if seconds > LONGEST or size >= PATIENCE * chosen:
            break
        if seconds / size < fastest * WORTH:
            chosen, fastest = size, seconds / size
    return chosen


def _timed(compute: Compute, pictures: Pixels) -> float:
    start = time.perf_counter()
    compute(pictures)
    return time.perf_counter() - start
