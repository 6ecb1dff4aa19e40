"""Bounded reading of request bodies and decoding of uploaded images.

Starlette's own parser puts large files on the disk; nothing of a request may come there.

The kind and the size of an image are judged by its first bytes, before anything is decoded: only
four decoders are ever reached, and a small file that holds a huge image is refused.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Final

from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from signlang.arrays import Pixels
from signlang.data.image_io import BadImageError, read_image, resize_image
from signlang.server.schemas import RequestError

ACCEPTED_TYPES: Final = (
    "Send an image as image/jpeg, image/png, image/webp or image/bmp, or multipart."
)
RAW: Final = {
    "image/jpeg", "image/jpg", "image/png", "image/webp", "image/bmp", "application/octet-stream",
}  # fmt: skip
MULTIPART: Final = "multipart/form-data"


def content_kind(content_type: str) -> str:
    """The media type of a body that may be read.

    Raises:
        Refusal: 415 if it is not one for images.

    >>> content_kind("image/PNG; q=1")
    'image/png'
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in RAW and kind != MULTIPART:
        raise RequestError(415, f"This is not an image by its Content-Type. {ACCEPTED_TYPES}")
    return kind


def declared(length: str | None, most: int) -> int:
    """Bytes to make room for: what the request declares, or the most it may have.

    Raises:
        Refusal: 413 if it declares more than that.
    """
    if length is None or not length.isdecimal():
        return most
    if len(length) > 18 or int(length) > most:
        raise _too_large(most)
    return int(length)


async def read_body(pieces: AsyncIterator[bytes], most: int, seconds: float) -> bytes:
    """Read a body.

    Raises:
        Refusal: 413 if it has more than `most` bytes, 408 if it takes longer than `seconds`.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in pieces:
                body += piece
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise RequestError(
            408, f"The body did not arrive within {seconds:g} seconds.", {"Connection": "close"}
        ) from None
    return bytes(body)


def uploaded_files(body: bytes, content_type: str, most: int) -> list[bytes]:
    """Take the files out of a body: one if it is an image, any number if it is multipart.

    Names of fields and files are not looked at; fields without a file name count as files as well.

    Raises:
        Refusal: 413 for more than `most`, 422 if there is none or the body is malformed.
    """
    if content_kind(content_type) != MULTIPART:
        return [body]
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise RequestError(422, "The multipart body has no boundary.")
    parts: list[bytearray] = []

    def begin() -> None:
        if len(parts) == most:
            raise RequestError(
                413, f"More than {most} images in one request: send several requests."
            )
        parts.append(bytearray())

    def take(data: bytes, start: int, end: int) -> None:
        parts[-1].extend(memoryview(data)[start:end])

    ended: list[bool] = []
    callbacks = {"on_part_begin": begin, "on_part_data": take, "on_end": lambda: ended.append(True)}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except MultipartParseError:
        raise RequestError(422, "The multipart body is malformed.") from None
    if not ended:
        raise RequestError(422, "The multipart body is cut off.")
    if not parts:
        raise RequestError(422, "The request holds no image.")
    return [bytes(part) for part in parts]


def _too_large(most: int) -> RequestError:
    return RequestError(
        413, f"The request has more than {most:,} bytes: send fewer or smaller images.",
        {"Connection": "close"},
    )  # fmt: skip


# what cameras and browsers make; others, EPS for one, start programs or are rarely looked after
DECODERS: Final = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, BmpImagePlugin)
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")  # what these register; JPEG may turn out as MPO


def decode_upload(data: bytes, size: int, most: int, number: int, count: int) -> Pixels:
    """Decode an image as training does, and squeeze it to a square: (size, size, 3).

    Args:
        data: The file.
        size: Side of the square, in pixels.
        most: Pixels that the image may have.
        number: Which one of its request it is, from 1.
        count: How many there are.

    Raises:
        Refusal: 413 for too many pixels, 415 for another kind of file, 422 for a damaged one.
    """
    which = "The image" if count == 1 else f"Image {number} of {count}"
    if not data:
        raise RequestError(422, f"{which} is empty.")
    width, height = _header(data, which)
    if width * height > most:
        raise RequestError(
            413, f"{which} has {width} x {height} pixels, more than {most:,}: send a smaller one."
        )
    try:
        pixels = read_image(data, most)
    except BadImageError as error:
        raise RequestError(422, f"{which} cannot be used: {error}.") from None
    if pixels.shape == (size, size, 3):
        return pixels
    return resize_image(Image.fromarray(pixels), size)


def _header(data: bytes, which: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return opened.size
    except UnidentifiedImageError:
        raise RequestError(415, f"{which} is not a JPEG, PNG, WebP or BMP file.") from None
    except Image.DecompressionBombError:
        raise RequestError(413, f"{which} has too many pixels: send a smaller one.") from None
    except Exception as error:  # decoders raise anything at damaged files
        reason = type(error).__name__
        raise RequestError(422, f"{which} is damaged ({reason}).") from None
