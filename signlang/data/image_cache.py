"""Memory-mapped cache of decoded images, at one size, in one uint8 array.

Each image is decoded once; all folds, runs and workers map the same file and share its pages.
"""

import json
import math
import mmap
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from PIL import Image

from signlang import files, locks
from signlang.arrays import Pixels
from signlang.console import log, track
from signlang.data import image_io
from signlang.data.boxes import Crop
from signlang.data.image_io import Thumbnails, map_in_order
from signlang.data.index import Index
from signlang.data.workers import map_files
from signlang.errors import DataError, SettingError
from signlang.files import atomic_write, bytes_text, parse_json

if TYPE_CHECKING:  # it can draw images
    from signlang.data.sources import Root
from signlang.system import cpu_count

VERSION: Final = 2  # of the pixels; raise it when `image_io` decodes or resizes differently
ALWAYS_VERIFIED: Final = 1 << 30  # bytes; the checksum of a larger file would cost seconds
RESIDENT: Final = 1 << 28  # bytes of a mapped file that may count as this process' memory
_CHUNK: Final = 256  # images that are held at a time
WAITING: Final = "waiting for another process that decodes the same images"


class Preparation(Protocol):
    """What happens to decoded images before they are resized, e.g. a crop around the hand."""

    def __hash__(self) -> int:
        """By what it does."""

    @property
    def key(self) -> str:
        """What it does, as part of a file's name: another key, other images."""

    @property
    def fixed_size(self) -> int | None:
        """Width and height of its images where they must not be resized, in pixels; else None."""

    @property
    def coded_rows(self) -> int:
        """Rows of pixels at the lower edge that hold numbers: no transform may change them."""

    def recall(
        self, root: "Root", paths: Sequence[str], digests: Sequence[str], cache_dir: str
    ) -> Callable[[int, Image.Image], Image.Image]:
        """Return what makes the image of each row, from a row and its decoded image."""


class DecodedImages:
    """Read-only pixels of all images in a memory-mapped file, indexed like an array.

    Pages that a process has read of a mapped file count as its memory. They are therefore released
    from time to time by `madvise`; they stay in the system's page cache, which all processes share.

    Args:
        file: An array in the format of `numpy.save`.

    Attributes:
        shape: (N, size, size, 3).

    Raises:
        ValueError: If the file is no array of bytes of that kind.
        OSError: If it cannot be read.
    """

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError(f"{file} is of another version.")
            shape, _, kind = np.lib.format.read_array_header_1_0(stream)
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            flat = np.frombuffer(self._map, np.uint8, offset=stream.tell())
        if kind != np.uint8 or len(shape) != 4:
            raise ValueError(f"{file} holds no images.")
        self._array: Pixels = flat.reshape(shape)
        self._read = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, size, size, 3)."""
        return self._array.shape

    def __len__(self) -> int:
        """Number of images."""
        return len(self._array)

    def __getitem__(self, rows: Any) -> Pixels:
        """Images by their rows: a copy for an array of rows, a view for one row or a slice."""
        images: Pixels = self._array[rows]
        self._read += images.nbytes
        if self._read > RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return images


@lru_cache(maxsize=4)  # the jobs of one sweep share one mapping
def decode_images(
    index: Index,
    size: int,
    cache_dir: str,
    preparation: Preparation | None = None,
    thumbnails: Thumbnails | None = None,
) -> DecodedImages:
    """Map the pixels of all images, read-only; decode them first if they are not cached.

    Concurrent processes wait for the first one. A cached file is used only if its checksum matches
    (above 1 GiB the check is skipped if size and modification time are unchanged).

    Args:
        index: The images.
        size: Width and height of the resized images, in pixels.
        cache_dir: The cache folder.
        preparation: Applied to each decoded image, before it is resized.
        thumbnails: Whole images of this size, which are not decoded again; none with a preparation.

    Returns:
        (N, size, size, 3) RGB.

    Raises:
        DataError: If an image has changed since it was indexed, or the disk is too small.
    """
    suffix = f"-{preparation.key}" if preparation else ""
    name = f"{index.content}-{size}-v{VERSION}{suffix}.npy"
    file = files.cache_folder(cache_dir, "pixels") / name
    with locks.exclusive(file.with_suffix(".lock"), wait=WAITING):
        if not _is_intact(file, (len(index), size, size, 3)):
            prepare: Prepare | None = None
            if preparation is not None:
                if any(index.crops or ()):
                    raise SettingError(
                        "hands= looks for the hand itself, and the data has boxes too: leave these "
                        "out with data.boxes=none, or train with hands=none."
                    )
                digests = [fact.digest for fact in index.facts]
                prepare = preparation.recall(index.root, index.paths, digests, cache_dir)
            _build(index, size, file, prepare, {} if thumbnails is None else thumbnails.of)
    return DecodedImages(file)


Prepare = Callable[[int, Image.Image], Image.Image]


RESERVE: Final = 64_000_000  # bytes that stay free on the disk of the cache


def _build(
    index: Index, size: int, file: Path, prepare: Prepare | None, thumbnails: Mapping[str, Pixels]
) -> None:
    shape = (len(index), size, size, 3)
    needed = math.prod(shape)
    free = shutil.disk_usage(file.parent).free
    if free < needed + RESERVE:
        raise DataError(
            f"Decoding {len(index)} images at {size}x{size} takes {bytes_text(needed)}, and "
            f"{bytes_text(RESERVE)} are to stay free, but {file.parent} has {bytes_text(free)} "
            "left: free some, or choose another cache_dir."
        )
    files.remove_abandoned(file.parent)
    checksum = 0
    with atomic_write(file) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        for image in track(
            _images(index, size, prepare, thumbnails), "decoding images", len(index)
        ):
            data = image.tobytes()
            checksum = zlib.crc32(data, checksum)
            stream.write(data)
    _write_manifest(file, {"crc32": checksum, "shape": shape})


def _images(
    index: Index, size: int, prepare: Prepare | None, thumbnails: Mapping[str, Pixels]
) -> Iterator[Pixels]:
    """Decode on all cores, in order, in bounded memory."""
    rows = range(len(index))
    if prepare is None and not thumbnails:
        yield from map_files(partial(_decode, size=size), [_file(index, row) for row in rows])
        return

    def decode(row: int) -> Pixels:
        thumbnail = thumbnails.get(index.facts[row].digest)
        if thumbnail is not None and index.crop(row) is None:
            return thumbnail
        return _decode(_file(index, row), size, partial(prepare, row) if prepare else None)

    yield from map_in_order(decode, rows, cpu_count(), ahead=_CHUNK)


File = tuple[Path, str, Crop | None]


def _file(index: Index, row: int) -> File:
    return index.root / index.paths[row], index.facts[row].digest, index.crop(row)


def _decode(
    file: File, size: int, prepare: Callable[[Image.Image], Image.Image] | None = None
) -> Pixels:
    image = image_io.read_unchanged(*file)
    return image_io.resize_image(prepare(image) if prepare else image, size)


def _is_intact(file: Path, shape: tuple[int, ...]) -> bool:
    try:
        manifest = parse_json(_manifest_path(file).read_text())
        array = DecodedImages(file)
        if tuple(manifest["shape"]) != shape or array.shape != shape:
            return False
        is_unchanged = manifest["signature"] == _file_signature(file)
        if is_unchanged and math.prod(shape) > ALWAYS_VERIFIED:
            return True
        if _checksum(array) != manifest["crc32"]:
            log.warning("%s was damaged: decoding again", file)
            return False
        if not is_unchanged:
            _write_manifest(file, manifest)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return False
    return True


def _manifest_path(file: Path) -> Path:
    return file.with_suffix(".json")


def _write_manifest(file: Path, manifest: dict[str, Any]) -> None:
    with atomic_write(_manifest_path(file)) as temporary:
        temporary.write_text(json.dumps({**manifest, "signature": _file_signature(file)}))


def _file_signature(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _checksum(array: DecodedImages) -> int:
    total = 0
    for start in range(0, len(array), _CHUNK):
        total = zlib.crc32(array[start : start + _CHUNK].tobytes(), total)
    return total
