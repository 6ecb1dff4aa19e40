"""Stored hands: each image is searched once, whatever data set, fold or run it belongs to.

One SQLite file for each pair of networks, keyed by the digest of the image file. What has been
found is written every few images, so that a killed search resumes where it was.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from signlang import files
from signlang.console import log, track
from signlang.data.image_io import batched, map_in_order, read_unchanged
from signlang.errors import DataError
from signlang.hands.finder import POINTS, Hand
from signlang.hands.hand_networks import HandNetworks
from signlang.system import cpu_count

if TYPE_CHECKING:  # it can draw images
    from signlang.data.sources import Root

FILE: Final = "found.sqlite"
CHUNK: Final = 64  # images that are written together
WAIT: Final = 60.0  # seconds for another process that writes
Known = dict[str, Hand | None]


def to_bytes(hand: Hand | None) -> bytes:
    """Write a hand as 65 numbers of 4 bytes; no hand as none."""
    if hand is None:
        return b""
    numbers = [*hand.points.ravel().tolist(), hand.right, hand.score]
    return np.array(numbers, dtype="<f4").tobytes()


def from_bytes(data: bytes) -> Hand | None:
    """Read what `to_bytes` wrote.

    >>> from_bytes(to_bytes(None)) is None
    True
    """
    if not data:
        return None
    numbers = np.frombuffer(data, dtype="<f4")
    points = numbers[: 3 * POINTS].reshape(POINTS, 3).astype(np.float32)
    return Hand(points, float(numbers[-2]), float(numbers[-1]))


def find_hands(
    root: "Root",
    paths: Sequence[str],
    digests: Sequence[str],
    networks: HandNetworks,
    cache_dir: str,
) -> list[Hand | None]:
    """Hands of images; what is not stored is searched on all cores and stored.

    Args:
        root: Folder of the images.
        paths: (N,) relative to it.
        digests: (N,) of the content of each file.
        networks: That search.
        cache_dir: The cache folder.

    Returns:
        One for each image; None where none was found.

    Raises:
        DataError: If an image has changed or cannot be read.
    """
    file = files.cache_folder(cache_dir, "hands", networks.key) / FILE
    try:
        known = _search(file, root, paths, digests, networks)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, or the disk is full
            raise DataError(f"{file} cannot be used ({error}).") from None
        log.warning("%s is damaged (%s): searching the hands again", file, error)
        file.unlink()
        known = _search(file, root, paths, digests, networks)
    return [known[digest] for digest in digests]


def _search(
    file: Path,
    root: "Root",
    paths: Sequence[str],
    digests: Sequence[str],
    networks: HandNetworks,
) -> Known:
    with closing(sqlite3.connect(file, timeout=WAIT)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS hands (digest TEXT PRIMARY KEY, hand BLOB)")
        known = _stored(database, digests)
        missing = {
            digest: path for digest, path in zip(digests, paths, strict=True) if digest not in known
        }
        if not missing:
            return known
        finder = networks.finder()

        def search(item: tuple[str, str]) -> tuple[str, Hand | None]:
            image = read_unchanged(root / item[1], item[0])
            return item[0], finder(np.asarray(image, dtype=np.uint8))

        results = map_in_order(search, missing.items(), cpu_count(), ahead=2 * CHUNK)
        for chunk in batched(track(results, "finding hands", len(missing)), CHUNK):
            with database:  # commits
                database.executemany(
                    "INSERT OR REPLACE INTO hands VALUES (?, ?)",
                    [(digest, to_bytes(hand)) for digest, hand in chunk],
                )
            known.update(chunk)
    return known


def _stored(database: sqlite3.Connection, digests: Iterable[str]) -> Known:
    known: Known = {}
    for chunk in batched(dict.fromkeys(digests), 500):
        marks = ",".join("?" * len(chunk))
        rows = database.execute(
            f"SELECT digest, hand FROM hands WHERE digest IN ({marks})",  # noqa: S608 - only marks
            chunk,
        )
        known.update((digest, from_bytes(data)) for digest, data in rows)
    return known
