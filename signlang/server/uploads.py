"""Bounded reading of request bodies and decoding of uploaded images.

Nothing of a request is written to the disk.

The kind and the size of an image are read from its first bytes, before anything is decoded: only
four decoders are ever reached, and a small file that holds a huge image is refused.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from signlang.arrays import Pixels
from signlang.data import image_limits
from signlang.data.image_io import BadImageError, decode_opened, resize_image
from signlang.data.image_limits import ImageLimitError
from signlang.hands.finder import Hand
from signlang.hands.hand_input import HandInput
from signlang.server.schemas import RequestError

ACCEPTED_TYPES: Final = (
    "Send an image as image/jpeg, image/png, image/webp or image/bmp, or multipart."
)
RAW: Final = {
    "image/jpeg", "image/jpg", "image/png", "image/webp", "image/bmp", "application/octet-stream",
}  # fmt: skip
MULTIPART: Final = "multipart/form-data"


def media_type(content_type: str) -> str:
    """The media type in a Content-Type header.

    >>> media_type("image/PNG; q=1")
    'image/png'
    """
    return content_type.partition(";")[0].strip().lower()


def check_content_type(content_type: str) -> None:
    """Refuse a body that is no image by its Content-Type.

    Raises:
        RequestError: 415.
    """
    kind = media_type(content_type)
    if kind not in {*RAW, MULTIPART}:
        what = "a kind of image that is not read" if kind.startswith("image/") else "not an image"
        raise RequestError(415, f"This is {what}, by its Content-Type. {ACCEPTED_TYPES}")


def declared_size(length: str | None, most: int) -> int:
    """Bytes that a request declares; 0 if it declares none.

    Raises:
        RequestError: 413 if it declares more than that.
    """
    if length is None or not length.isdecimal():
        return 0
    if len(length) > 18 or int(length) > most:
        raise _too_large(most)
    return int(length)


async def read_body(
    chunks: AsyncIterator[bytes], most: int, seconds: float, on_bytes: Callable[[int], None]
) -> bytes:
    """Read a body.

    Args:
        chunks: Of it.
        most: Bytes that it may have.
        seconds: In which it must have come.
        on_bytes: Called with the length of each chunk; may refuse it.

    Raises:
        RequestError: 413 if it has more than `most` bytes, 408 if it takes longer than `seconds`.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                if len(body) + len(chunk) > most:
                    raise _too_large(most)
                on_bytes(len(chunk))
                body += chunk
    except TimeoutError:
        raise RequestError(
            408, f"The body did not arrive within {seconds:g} seconds.", {"Connection": "close"}
        ) from None
    return bytes(body)


class ImageParts(MultiPartParser):
    """The parts of a multipart body, at most some number, kept in memory.

    Args:
        body: The whole body.
        boundary: Between its parts.
        most: Parts that it may have.

    Attributes:
        is_complete: Whether the body has been read to its closing boundary.
    """

    def __init__(self, body: bytes, boundary: bytes, most: int) -> None:
        # latin-1 maps bytes to characters one to one: fields without a file name are images too
        content_type = f'{MULTIPART}; boundary="{boundary.decode("latin-1")}"; charset=latin-1'
        super().__init__(
            Headers({"content-type": content_type}), _chunks(body), max_part_size=len(body)
        )
        self.spool_max_size = len(body) + 1  # larger files would go to the disk
        self.most, self.is_complete = most, False

    def on_part_begin(self) -> None:
        """Refuse the first part too many, before anything is kept of it."""
        if len(self.items) == self.most:
            raise RequestError(
                413, f"More than {self.most} images in one request: send several requests."
            )
        super().on_part_begin()

    def on_end(self) -> None:
        """Note that the last boundary was there."""
        self.is_complete = True


async def _chunks(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


async def uploaded_files(body: bytes, content_type: str, most: int) -> list[bytes]:
    """Take the files out of a body: one if it is an image, any number if it is multipart.

    Names of fields and files are not looked at; fields without a file name count as files as well.

    Args:
        body: The whole body.
        content_type: Of the request, checked by `media_type`.
        most: Files that it may hold.

    Raises:
        RequestError: 413 for more than `most`, 422 if there is none or the body is malformed.
    """
    if media_type(content_type) != MULTIPART:
        return [body]
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise RequestError(422, "The multipart body has no boundary.")
    parser = ImageParts(body, boundary, most)
    try:
        files = (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise RequestError(422, f"The multipart body is malformed. {error.message}") from None
    if not parser.is_complete:
        raise RequestError(422, "The multipart body is cut off.")
    if not files:
        raise RequestError(422, "The request holds no image.")
    return [
        file.encode("latin-1") if isinstance(file, str) else await file.read() for _, file in files
    ]


def _too_large(most: int) -> RequestError:
    return RequestError(
        413, f"The request has more than {most:,} bytes: send fewer or smaller images.",
        {"Connection": "close"},
    )  # fmt: skip


# what cameras and browsers make; others, EPS for one, start programs or are rarely maintained
DECODERS: Final = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, BmpImagePlugin)
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")  # what these register; JPEG may turn out as MPO


def decode_upload(
    data: bytes, size: int, most: int, number: int, count: int, hands: HandInput | None = None
) -> tuple[Pixels, Hand | None]:
    """Decode an image as training does, and resize it to (size, size, 3).

    Args:
        data: The file.
        size: Width and height of the result, in pixels.
        most: Pixels that the image may have.
        number: Which one of its request it is, from 1.
        count: How many there are.
        hands: What the network sees of an image; None: the whole image.

    Returns:
        Pixels, and the hand that was found, in pixels of the image.

    Raises:
        RequestError: 413 for too many pixels, 415 for another kind of file, 422 for a damaged one.
    """
    which = "The image" if count == 1 else f"Image {number} of {count}"
    if not data:
        raise RequestError(422, f"{which} is empty.")
    try:
        image = decode_opened(_open(data, which, most))
    except BadImageError as error:
        raise RequestError(422, f"{which} cannot be used: {error}.") from None
    hand = None
    if hands is not None:
        image, hand = hands(image)
    return resize_image(image, size), hand


def _open(data: bytes, which: str, most: int) -> Image.Image:
    try:
        return image_limits.open_image(data, FORMATS, most)
    except UnidentifiedImageError:
        raise RequestError(415, f"{which} is not a JPEG, PNG, WebP or BMP file.") from None
    except ImageLimitError as error:
        raise RequestError(413, f"{which} has {error}: send a smaller or plainer one.") from None
    except Image.DecompressionBombError:
        raise RequestError(413, f"{which} has too many pixels: send a smaller one.") from None
    except Exception as error:  # decoders raise anything at damaged files
        reason = type(error).__name__
        raise RequestError(422, f"{which} is damaged ({reason}).") from None
