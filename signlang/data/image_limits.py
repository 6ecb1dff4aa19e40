"""Limits of image files, checked in their headers before anything is decoded.

A small file can hold work for hours or memory for gigabytes: one row of 24 million pixels, a JPEG
with its coefficients in 20,000 scans, a PNG of half a million chunks, a film of single pixels.
Every decoder of the program is behind these limits.
"""

import io
import re
import struct
from collections.abc import Iterator
from typing import Final

from PIL import Image

MAX_BYTES: Final = 256 * 2**20
MAX_PIXELS: Final = 100_000_000  # above any camera's
MAX_SIDE: Final = 32_768  # resizing to a width of S makes S x height pixels first
MAX_RATIO: Final = 200  # of the longer side to the shorter one
MAX_LINE: Final = 1_000  # pixels of a side below which that is of no concern
MAX_SCANS: Final = 100  # cameras and web pages send 1 to 12
MAX_SCANNED_PIXELS: Final = 1_500_000_000  # each scan of a progressive JPEG visits every pixel
MAX_SEGMENTS: Final = 2_000  # of a JPEG beside its scans: profiles and previews come in 64 kB each
MAX_CHUNKS: Final = 1_000  # of a PNG, and one more for each kilobyte of it

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
_ALONE: Final = {0x00, 0x01, *range(0xD0, 0xD9)}  # without a length; what is no marker counts too
_MARKER: Final = re.compile(rb"\xff+([^\xff])", re.DOTALL)  # may be filled up in front
# ends the coefficients of a scan: neither a stuffed byte nor a restart
_AFTER_SCAN: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)


class ImageLimitError(Exception):
    """A file that would cost too much to decode; the text says why, without the file's name."""


def check_size(width: int, height: int, most: int | None = None) -> None:
    """Refuse an image by the size in its header.

    Args:
        width: In pixels.
        height: In pixels.
        most: Pixels that it may have; None: `MAX_PIXELS`.

    Raises:
        ImageLimitError: If it has more, or one side is too long.

    >>> check_size(1, 24_000_000)
    Traceback (most recent call last):
    signlang.data.image_limits.ImageLimitError: 1 x 24000000 pixels, a side of more than 32,768
    """
    shape, longer = f"{width} x {height} pixels", max(width, height)
    if longer > MAX_SIDE:
        raise ImageLimitError(f"{shape}, a side of more than {MAX_SIDE:,}")
    if longer > max(MAX_LINE, MAX_RATIO * min(width, height)):
        raise ImageLimitError(f"{shape}, one side more than {MAX_RATIO} times the other")
    if width * height > (MAX_PIXELS if most is None else most):
        limit = f"{MAX_PIXELS / 1e6:g} million" if most is None else f"the limit of {most:,}"
        raise ImageLimitError(f"{shape}, more than {limit}")


def count_scans(data: bytes) -> int:
    """Scans of a JPEG; 1 for other formats, which have no parts that cost much but chunks of a PNG.

    Raises:
        ImageLimitError: If it has too many scans, segments or chunks.
    """
    if data.startswith(_JPEG):
        return _count_jpeg_scans(data)
    if data.startswith(_PNG):
        most = MAX_CHUNKS + len(data) // 1024
        for number, _ in enumerate(_png_chunks(data), 1):
            if number > most:
                raise ImageLimitError(f"more than {most:,} chunks in {len(data):,} bytes")
    return 1


def _count_jpeg_scans(data: bytes) -> int:
    scans = segments = 0
    for marker in _jpeg_markers(data):
        scans += marker == _START_OF_SCAN
        segments += marker != _START_OF_SCAN
        if scans > MAX_SCANS:
            raise ImageLimitError(f"more than {MAX_SCANS} scans")
        if segments > MAX_SEGMENTS:
            raise ImageLimitError(f"more than {MAX_SEGMENTS:,} segments")
    return scans


def _jpeg_markers(data: bytes) -> Iterator[int]:
    """The markers of a JPEG's first image, up to its end or to what is damaged."""
    match = _MARKER.search(data, 2)
    while match and match.end() + 2 <= len(data) and match[1][0] != _END_OF_IMAGE:
        marker, position = match[1][0], match.end()
        yield marker
        if marker not in _ALONE:
            position += max(2, struct.unpack_from(">H", data, position)[0])
        pattern = _AFTER_SCAN if marker == _START_OF_SCAN else _MARKER
        match = pattern.search(data, position)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Kinds of the chunks of a PNG, up to its end or to what is damaged."""
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind
        if kind == b"IEND":
            return
        position += 12 + length


def is_animated(image: Image.Image) -> bool:
    """Whether an opened file holds further images; they are not counted: there may be millions."""
    if image.format != "TIFF":  # which follows all of its directories to answer
        return bool(getattr(image, "is_animated", False))
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def open_image(
    data: bytes, formats: tuple[str, ...] | None = None, most: int | None = None
) -> Image.Image:
    """Open an image file within the limits; nothing is decoded yet.

    Args:
        data: The file.
        formats: Decoders to try, by Pillow's names; None: all.
        most: Pixels that the image may have; None: `MAX_PIXELS`.

    Raises:
        ImageLimitError: If it is above a limit.
        Exception: Of any kind that Pillow raises at damaged files.
    """
    scans = count_scans(data)  # before Pillow reads them one by one
    image = Image.open(io.BytesIO(data), formats=formats)
    check_size(*image.size, most)
    if scans * image.width * image.height > MAX_SCANNED_PIXELS:
        raise ImageLimitError(f"{scans} scans of {image.width * image.height:,} pixels")
    return image
