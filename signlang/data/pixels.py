"""Picture files come in, one memory-mapped array of all of them at one size goes out.

Each picture is decoded once; all folds, runs and workers map the same file and share its pages.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from filelock import AcquireReturnProxy, FileLock, Timeout

from signlang.console import log, track
from signlang.data import cache, pictures
from signlang.data.files import replaced
from signlang.data.index import Index
from signlang.errors import DataError

VERSION: Final = 2  # of the pixels; raise it when `pictures` decodes or resizes differently
ALWAYS_VERIFIED: Final = 1 << 30  # bytes; summing up a larger file at each start would cost seconds
_CHUNK: Final = 256  # pictures

Pixels = npt.NDArray[np.uint8]


@lru_cache(maxsize=4)  # the jobs of one sweep share one mapping
def decoded(index: Index, size: int, cache_dir: str) -> Pixels:
    """Map the pixels of all pictures, read-only; decode them first if nobody has.

    Processes that ask at once wait for the first. A file in the cache is used only if its checksum
    still holds (for one above 1 GiB: unless it was not touched since it was last summed up).

    Args:
        index: The pictures.
        size: Side of the square, in pixels.
        cache_dir: The cache folder.

    Returns:
        (N, size, size, 3) RGB.

    Raises:
        DataError: If a picture has changed since it was indexed, or the disk is too small.
    """
    file = cache.folder(cache_dir, "pixels") / f"{index.content}-{size}-v{VERSION}.npy"
    with _held(FileLock(file.with_suffix(".lock"))):
        if not _is_sound(file, (len(index), size, size, 3)):
            _build(index, size, file)
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]


def _held(lock: FileLock) -> AcquireReturnProxy[Any]:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that decodes the same pictures")
        return lock.acquire()


def _build(index: Index, size: int, file: Path) -> None:
    shape = (len(index), size, size, 3)
    needed = int(np.prod(shape))
    free = shutil.disk_usage(file.parent).free
    if free < needed + (64 << 20):
        raise DataError(
            f"Decoding {len(index)} pictures at {size}x{size} takes {needed / 1e9:.1f} GB, but "
            f"{file.parent} has {free / 1e9:.1f} GB left: free some, or choose another cache_dir."
        )
    with replaced(file) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)

        def decode(row: int) -> None:
            array[row] = _decode(index, row, size)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in track(pool.map(decode, range(len(index))), "decoding pictures", len(index)):
                pass
        array.flush()
        seal = {"crc32": _checksum(array), "shape": shape}
    _write_seal(file, seal)


def _decode(index: Index, row: int, size: int) -> Pixels:
    path = index.root / index.paths[row]
    try:
        data = pictures.read_bytes(path)
        if pictures.digest_of(data) != index.facts[row].digest:
            raise pictures.BadPictureError("changed while it was being read")
        return pictures.resized(pictures.decode(data), size)
    except pictures.BadPictureError as error:
        raise DataError(f"{path}: {error}. Repeat the command.") from None


def _is_sound(file: Path, shape: tuple[int, ...]) -> bool:
    try:
        seal = json.loads(_seal(file).read_text())
        array = np.load(file, mmap_mode="r")
        if tuple(seal["shape"]) != shape or array.shape != shape or array.dtype != np.uint8:
            return False
        untouched = seal["stamp"] == _stamp(file)
        if untouched and array.nbytes > ALWAYS_VERIFIED:
            return True
        if _checksum(array) != seal["crc32"]:
            log.warning("%s was damaged: decoding again", file)
            return False
        if not untouched:
            _write_seal(file, seal)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return False
    return True


def _seal(file: Path) -> Path:
    return file.with_suffix(".json")


def _write_seal(file: Path, seal: dict[str, Any]) -> None:
    with replaced(_seal(file)) as temporary:
        temporary.write_text(json.dumps({**seal, "stamp": _stamp(file)}))


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _checksum(array: Pixels) -> int:
    total = 0
    for chunk in _chunks(array):
        total = zlib.crc32(chunk.tobytes(), total)
    return total


def _chunks(array: Pixels) -> Iterable[Pixels]:
    return (array[start : start + _CHUNK] for start in range(0, len(array), _CHUNK))
