"""Reading image files as upright 8-bit RGB arrays: decoding, EXIF orientation, resizing.

Training, data cards and the server all read images here and therefore get the same pixels.
"""

import hashlib
import os
import stat
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from signlang.arrays import Pixels
from signlang.data import image_limits
from signlang.data.boxes import Crop
from signlang.data.image_limits import ImageLimitError
from signlang.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Iterator[Result]:
    """Map a function over items in threads, in order; image decoders release the interpreter lock.

    Args:
        function: Called once per item; an exception is raised in place of its result.
        items: Its arguments, consumed one by one.
        workers: Number of threads.
        ahead: Largest number of pending results, which bounds the memory.

    >>> list(map_in_order(str.upper, "abc", workers=2, ahead=2))
    ['A', 'B', 'C']
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while len(pending) > 1:
            yield pending.popleft().result()
        pool.shutdown()
    finally:
        pool.shutdown(cancel_futures=True)
    # A caller that knows the length drops the generator here; the rest would then run in a
    # destructor, in which Ctrl-C is printed and lost.
    for last in pending:
        yield last.result()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Group items into lists of `size`; the last one may be shorter.

    >>> list(batched("abc", 2))
    [['a', 'b'], ['c']]
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


STILL_FORMATS: Final = {"MPO"}  # a phone's JPEG with a second view: the first frame is used
_SIXTEEN_BIT: Final = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
_WITH_ALPHA: Final = {"RGBA", "LA", "PA", "RGBa", "La"}
# exceptions of decoders on damaged files
_DAMAGE: Final = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, zlib.error, MemoryError, ZeroDivisionError,
)  # fmt: skip
# EXIF 2.32, tag 0x0112: the transpose that turns the stored image upright
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PIL names the format by content, whatever the file is called
_SUFFIXES: Final = {"JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"}, "MPO": {".jpg", ".jpeg", ".mpo"}}


class BadImageError(Exception):
    """A file that cannot be used as an image; the text says why, without the file's name."""


@dataclass(frozen=True)
class ImageFacts:
    """Properties of a decoded image file.

    Attributes:
        digest: BLAKE2 of the bytes, 32 hexadecimal digits.
        width: After EXIF orientation, in pixels.
        height: Likewise.
        kind: Format and pixel mode of the file, e.g. `JPEG RGB`.
        odd: Unusual properties of the file although it is usable, or empty.
    """

    digest: str
    width: int
    height: int
    kind: str
    odd: str


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Images that are resized while their files are inspected, so that they are decoded once.

    Attributes:
        size: Width and height, in pixels.
        of: (size, size, 3) by the digest of the file.
    """

    size: int
    of: dict[str, Pixels] = field(default_factory=dict)


def digest_of(data: bytes) -> str:
    """Digest of a file's content, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_bytes(path: Path) -> bytes:
    """Read a file that should be an image.

    Raises:
        BadImageError: If it is missing, unreadable, empty or larger than 256 MiB.
    """
    try:
        status = path.stat()
        size = status.st_size
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            raise BadImageError("a device, which has no end")
        if size > image_limits.MAX_BYTES:
            raise BadImageError(f"{size / 2**20:,.0f} MiB, more than an image can be")
        data = path.read_bytes()
    except FileNotFoundError:
        broken = path.is_symlink()
        raise BadImageError("a broken symbolic link" if broken else "no such file") from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror or error}") from None
    if not data:
        raise BadImageError("empty (0 bytes)")
    return data


def decode(data: bytes) -> Image.Image:
    """Decode a still image completely, turn it upright and convert it to 8-bit RGB.

    Grey is repeated, alpha is laid over white, 16 bits are scaled to 8, CMYK is converted.

    Raises:
        BadImageError: If the bytes are no image, are cut off, hold a film or an animation, more
            than 100 million pixels, or numbers without a known range.
    """
    return decode_opened(_opened(data))


def decode_opened(image: Image.Image) -> Image.Image:
    """Decode as `decode` does what `image_limits.open_image` opened.

    Raises:
        BadImageError: As `decode`.
    """
    _load(image)
    return _upright(_as_rgb(image), _orientation(image))


def decode_crop(data: bytes, crop: Crop | None) -> Image.Image:
    """Decode an image as `decode` does, and cut it to a part; None: the whole.

    Raises:
        BadImageError: As `decode`; or if the part is not inside it.
    """
    image = decode(data)
    if crop is None:
        return image
    if crop.right > image.width or crop.bottom > image.height:
        raise BadImageError(f"{image.width} x {image.height} pixels, so {crop} is no part of it")
    return image.crop(crop)


def read_unchanged(path: Path, digest: str, crop: Crop | None = None) -> Image.Image:
    """Read and decode a file as `decode_crop` does, if it is the one that was inspected.

    Args:
        path: The file.
        digest: Of the content that it had, see `ImageFacts`.
        crop: The part that is wanted; None: the whole.

    Raises:
        DataError: If it has changed since, or cannot be used any more.
    """
    try:
        data = read_bytes(path)
        if digest_of(data) != digest:
            raise BadImageError("changed while it was being read")
        return decode_crop(data, crop)
    except BadImageError as error:
        raise DataError(f"{path}: {error}. Repeat the command.") from None


def inspect_image(
    data: bytes, suffix: str = "", thumbnails: Thumbnails | None = None
) -> ImageFacts:
    """Decode an image as `decode` does and return its properties.

    Args:
        data: Content of the file.
        suffix: Suffix of the file's name; one that does not fit the content is reported.
        thumbnails: Gets the image.

    Raises:
        BadImageError: As `decode`.
    """
    image = _opened(data)
    _load(image)
    kind, mode = str(image.format), image.mode
    odd = []
    suffixes = _SUFFIXES.get(
        kind, {end for end, format_name in _suffix_formats().items() if format_name == kind}
    )
    if suffix and suffix.lower() not in suffixes:
        odd.append(f"a {kind} named {suffix}")
    orientation = _orientation(image)
    if orientation in _TURNS:
        odd.append("turned by EXIF")
    if mode != "RGB":
        odd.append(f"mode {mode}")
    rgb = _upright(_as_rgb(image), orientation)
    digest = digest_of(data)
    if thumbnails is not None:
        thumbnails.of[digest] = resize_image(rgb, thumbnails.size)
    return ImageFacts(digest, rgb.width, rgb.height, f"{kind} {mode}", ", ".join(odd))


def looks_like_image(path: Path) -> bool:
    """Whether a file holds an image according to its first bytes."""
    try:
        with Image.open(path):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def resize_image(image: Image.Image, size: int) -> Pixels:
    """Resize an image to (size, size, 3) without keeping its aspect ratio, as published studies do.

    The filter is PIL's bilinear one, which averages when shrinking. Its two passes, first along the
    rows and then along the columns, each rounded to whole bytes, are called one by one: since
    version 13 Pillow otherwise changes their order for tall images. `deploy.onnx_resize` repeats
    them exactly.
    """
    for shape in ((size, image.height), (size, size)):
        if image.size != shape:
            image = image.resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def resize_batch(batch: Pixels, *sizes: int) -> Pixels:
    """Resize a batch (B, h, w, 3) to (B, size, size, 3), through several sizes in order."""
    for size in sizes:
        if batch.shape[1:3] != (size, size):
            batch = np.stack([resize_image(Image.fromarray(image), size) for image in batch])
    return batch


def _suffix_formats() -> dict[str, str]:
    return Image.registered_extensions()


def is_image_name(suffix: str) -> bool:
    """Whether files with this ending are expected to be images.

    >>> is_image_name(".JPG"), is_image_name(".txt")
    (True, False)
    """
    kind = _suffix_formats().get(suffix.lower())
    return kind in Image.OPEN and kind not in {"PDF", "MPEG", "HDF5", "FITS", "GRIB", "BUFR"}


@contextmanager
def _as_bad_image() -> Iterator[None]:
    """Raise `BadImageError` for whatever decoders raise at files that cannot be used."""
    try:
        yield
    except UnidentifiedImageError:
        raise BadImageError("not an image, or of an unknown format") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"more than {image_limits.MAX_PIXELS / 1e6:g} million pixels") from None
    except ImageLimitError as error:
        raise BadImageError(str(error)) from None
    except _DAMAGE as error:
        raise BadImageError(f"damaged or cut off ({error})") from None


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise BadImageError("empty (0 bytes)")
    with _as_bad_image():
        return image_limits.open_image(data)


def _load(image: Image.Image) -> None:
    """Decode the pixels of an opened file that must hold a still image."""
    with _as_bad_image():
        if image.format not in STILL_FORMATS and image_limits.is_animated(image):
            raise BadImageError("animated, not a still image")
        image.load()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except _DAMAGE:  # of the metadata, not of the pixels
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


STRIP: Final = 1 << 20  # pixels that are converted at a time


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB in strips: a whole copy for each step takes five times the memory."""
    if image.mode == "F":
        raise BadImageError("floating-point pixels of unknown range")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    rows = max(1, STRIP // max(1, image.width))
    if rows >= image.height:
        return _strip_as_rgb(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_strip_as_rgb(strip), (0, top))
    return rgb


def _strip_as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        image = _from_sixteen_bits(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image.convert("RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise BadImageError("32-bit pixels of unknown range")
    return Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))


def read_image(data: bytes) -> Pixels:
    """Decode the bytes of an image file as training does: (H, W, 3), upright, RGB.

    Raises:
        BadImageError: If they are no image, damaged, animated, or above the limits.
    """
    return np.asarray(decode(data), dtype=np.uint8)


FORMS: Final = (
    "a path, the bytes of an image file, a PIL image, a uint8 array or tensor with channels last "
    "((H, W, 3) or (N, H, W, 3), 0 to 255), or a float one with channels first ((3, H, W) or "
    "(N, 3, H, W), 0 to 1)"
)


def as_images(images: Any) -> list[Pixels]:
    """Convert images of several types to uint8 RGB arrays.

    Args:
        images: One image or a sequence of them: paths, bytes of files, PIL images, uint8 arrays
            (H, W, 3), or float arrays (3, H, W) between 0 and 1. Arrays with one more leading axis
            are batches. Torch tensors count as arrays.

    Returns:
        One (H, W, 3) for each image.

    Raises:
        ValueError: If an array has another shape, type or range; names the expected one.
        BadImageError: If a file cannot be read or decoded.

    >>> [image.shape for image in as_images(np.zeros((2, 3, 8, 6), dtype=np.float32))]
    [(8, 6, 3), (8, 6, 3)]
    """
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        return [_as_pixels(images)]
    if hasattr(images, "shape") or hasattr(images, "detach"):
        array = _as_array(images)
        return [_as_pixels(image) for image in (array if array.ndim == 4 else array[None])]
    if not isinstance(images, Iterable):
        raise ValueError(f"{type(images).__name__} is no image: give {FORMS}.")
    return [pixels for image in images for pixels in as_images(image)]


def _as_pixels(image: Any) -> Pixels:
    if isinstance(image, str | os.PathLike):
        return read_image(read_bytes(Path(image)))
    if isinstance(image, bytes):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.asarray(_upright(_as_rgb(image), _orientation(image)), dtype=np.uint8)
    array = _as_array(image)
    if array.ndim == 3 and array.size:
        if array.dtype == np.uint8 and array.shape[2] == 3:
            return array
        if array.dtype.kind == "f" and array.shape[0] == 3:
            if not (array.min() >= 0 and array.max() <= 1):  # nan fails as well
                raise ValueError(
                    f"float images lie between 0 and 1, without normalization; these between "
                    f"{array.min():g} and {array.max():g}."
                )
            return (array.transpose(1, 2, 0) * 255).round().astype(np.uint8)
    raise ValueError(f"{array.dtype} of shape {array.shape} is no image: give {FORMS}.")


def _as_array(image: Any) -> npt.NDArray[Any]:
    """Convert to a numpy array, also from a torch tensor, without importing torch."""
    return np.asarray(image.detach().cpu().numpy() if hasattr(image, "detach") else image)
