"""The bytes of a picture come in; the square of pixels that a network sees goes out.

The kind and the size of a picture are judged by its first bytes, before anything is decoded: only
four decoders are ever reached, and a small file that holds a huge picture is refused.
"""

import io
from typing import Final

from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from signlang.data.pictures import BadPictureError, resized
from signlang.deploy.bundle import Pixels, read_picture
from signlang.deploy.service.refusals import Refusal

# what cameras and browsers make; others, EPS for one, start programs or are rarely looked after
DECODERS: Final = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, BmpImagePlugin)
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")  # what these register; JPEG may turn out as MPO


def picture(data: bytes, size: int, most: int, number: int, count: int) -> Pixels:
    """Decode a picture as training does, and squeeze it to a square: (size, size, 3).

    Args:
        data: The file.
        size: Side of the square, in pixels.
        most: Pixels that the picture may have.
        number: Which one of its request it is, from 1.
        count: How many there are.

    Raises:
        Refusal: 413 for too many pixels, 415 for another kind of file, 422 for a damaged one.
    """
    which = "The picture" if count == 1 else f"Picture {number} of {count}"
    if not data:
        raise Refusal(422, f"{which} is empty.")
    width, height = _header(data, which)
    if width * height > most:
        raise Refusal(
            413, f"{which} has {width} x {height} pixels, more than {most:,}: send a smaller one."
        )
    try:
        pixels = read_picture(data, most)
    except BadPictureError as error:
        raise Refusal(422, f"{which} cannot be used: {error}.") from None
    if pixels.shape == (size, size, 3):
        return pixels
    return resized(Image.fromarray(pixels), size)


def _header(data: bytes, which: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return opened.size
    except UnidentifiedImageError:
        raise Refusal(415, f"{which} is not a JPEG, PNG, WebP or BMP file.") from None
    except Image.DecompressionBombError:
        raise Refusal(413, f"{which} has too many pixels: send a smaller one.") from None
    except Exception as error:  # decoders raise anything at damaged files
        reason = type(error).__name__
        raise Refusal(422, f"{which} is damaged ({reason}).") from None
