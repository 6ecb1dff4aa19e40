"""A finished run comes in; the pictures that it was trained and tested on are read again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from signlang.console import track
from signlang.data.pictures import BadPictureError, decode, read_bytes, resized
from signlang.data.streaming import batches, in_order
from signlang.deploy.bundle import Network
from signlang.deploy.finished import Finished
from signlang.errors import DataError
from signlang.machine import cores
from signlang.studies.originals import root_of

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = Sequence[tuple[str, int]]  # paths and labels
BATCH: Final = 64
GONE: Final = (
    "Say where they are now with pictures=DIR, or have run and bundle compared on drawn pictures "
    "only, with verify=generated."
)


@dataclass(frozen=True)
class Material:
    """The pictures of a run, where they lie.

    Attributes:
        root: To which their paths are relative.
        side: Of the first square that they are brought to, in pixels.
    """

    root: Path
    side: int

    def read(self, path: str) -> bytes:
        """Read the file of a picture.

        Raises:
            DataError: If it is not there, or unreadable.
        """
        try:
            return read_bytes(self.root / path)
        except BadPictureError as error:
            raise DataError(f"{self.root / path}: {error}. {GONE}") from None

    def square(self, path: str) -> Pixels:
        """Decode a picture as training does: (side, side, 3).

        Raises:
            DataError: If it is not there, or damaged.
        """
        data = self.read(path)
        try:
            return resized(decode(data), self.side)
        except BadPictureError as error:
            raise DataError(f"{self.root / path}: {error}. {GONE}") from None

    def squares(self, rows: Rows, doing: str) -> Iterator[Pixels]:
        """Decode pictures in batches of at most 64: (n, side, side, 3)."""
        paths = [path for path, _ in rows]
        squares = in_order(self.square, paths, cores(), 2 * BATCH)
        for batch in batches(track(squares, doing, len(rows)), BATCH):
            yield np.stack(batch)

    def judged(self, networks: Sequence[Network], rows: Rows, doing: str) -> list[Floats]:
        """(n, classes) probabilities of each network."""
        said: list[list[Floats]] = [[] for _ in networks]
        for squares in self.squares(rows, doing):
            for network, found in zip(networks, said, strict=True):
                found.append(network(squares))
        return [np.concatenate(found) for found in said]


def of(run: Finished, moved_to: str | None) -> Material:
    """Find the pictures of a run.

    Args:
        run: The run.
        moved_to: Where they are now; None asks the run's own configuration.

    Raises:
        DataError: If they are gone.
    """
    if moved_to is not None:
        return Material(Path(moved_to).expanduser(), run.sides[0])
    try:
        return Material(root_of(run.path), run.sides[0])
    except DataError as error:
        raise DataError(f"The pictures of {run.path} are not found: {error} {GONE}") from None


def labels(rows: Rows) -> Ints:
    """(n,) labels."""
    return np.array([label for _, label in rows], dtype=np.int64)


def evenly(rows: Rows, most: int) -> Rows:
    """Take at most so many, spread evenly; they are sorted by class.

    >>> evenly([("a", 0), ("b", 0), ("c", 1), ("d", 1)], 2)
    [('a', 0), ('d', 1)]
    """
    if len(rows) <= most:
        return list(rows)
    return [rows[number] for number in np.linspace(0, len(rows) - 1, most).round().astype(int)]
