"""Types of numpy arrays, each with one name for the whole package; connected groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # images, channels last: (H, W, 3) or (N, H, W, 3)
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
AnyFloats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def connected(keys: Sequence[Sequence[str | None]]) -> Ints:
    """Number what belongs together, directly or through others, in the order of its first item.

    Args:
        keys: Several properties of N items, of N values each; items that share a value of one
            property belong together. None belongs to nothing.

    Returns:
        (N,) numbers from 0.

    >>> connected([["a", "a", None, None], [None, "x", "x", None]]).tolist()
    [0, 0, 0, 1]
    """
    parent = list(range(len(keys[0])))

    def find_root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for values in keys:
        first_with: dict[str, int] = {}
        for item, value in enumerate(values):
            if value is not None:
                one, other = sorted(
                    (find_root(first_with.setdefault(value, item)), find_root(item))
                )
                parent[other] = one
    roots = np.array([find_root(item) for item in range(len(parent))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def seed_sequence(*numbers: int, rank: int = 0) -> np.random.SeedSequence:
    """Seeds that follow from numbers, other ones in each of several processes.

    Args:
        numbers: Of at least 0.
        rank: Number of the process; the first one has the seeds of a process that is alone.
    """
    return np.random.SeedSequence((*numbers, rank) if rank else numbers)
