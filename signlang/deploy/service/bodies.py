"""The body of a request comes in piece by piece; the files in it go out, from memory alone.

Starlette's own parser puts large files on the disk; nothing of a request may come there.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from signlang.deploy.service.refusals import Refusal

TAKEN: Final = "Send a picture as image/jpeg, image/png, image/webp or image/bmp, or multipart."
RAW: Final = {
    "image/jpeg", "image/jpg", "image/png", "image/webp", "image/bmp", "application/octet-stream",
}  # fmt: skip
MULTIPART: Final = "multipart/form-data"


def kind_of(content_type: str) -> str:
    """The media type of a body that may be read.

    Raises:
        Refusal: 415 if it is not one for pictures.

    >>> kind_of("image/PNG; q=1")
    'image/png'
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in RAW and kind != MULTIPART:
        raise Refusal(415, f"This is not a picture by its Content-Type. {TAKEN}")
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


async def read(pieces: AsyncIterator[bytes], most: int, seconds: float) -> bytes:
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
        raise Refusal(
            408, f"The body did not arrive within {seconds:g} seconds.", {"Connection": "close"}
        ) from None
    return bytes(body)


def files(body: bytes, content_type: str, most: int) -> list[bytes]:
    """Take the files out of a body: one if it is a picture, any number if it is multipart.

    Names of fields and files are not looked at; fields without a file name count as files as well.

    Raises:
        Refusal: 413 for more than `most`, 422 if there is none or the body is malformed.
    """
    if kind_of(content_type) != MULTIPART:
        return [body]
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refusal(422, "The multipart body has no boundary.")
    parts: list[bytearray] = []

    def begin() -> None:
        if len(parts) == most:
            raise Refusal(413, f"More than {most} pictures in one request: send several requests.")
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
        raise Refusal(422, "The multipart body is malformed.") from None
    if not ended:
        raise Refusal(422, "The multipart body is cut off.")
    if not parts:
        raise Refusal(422, "The request holds no picture.")
    return [bytes(part) for part in parts]


def _too_large(most: int) -> Refusal:
    return Refusal(
        413, f"The request has more than {most:,} bytes: send fewer or smaller pictures.",
        {"Connection": "close"},
    )  # fmt: skip
