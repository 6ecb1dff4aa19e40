"""Files of pictures of every kind and odd size, drawn, to compare a run and its bundle on."""

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

TURNED: Final = 0x0112  # EXIF 2.32: the orientation


def files(side: int, seed: int = 0) -> dict[str, bytes]:
    """Draw pictures of noise and of gradients, as JPEG and PNG.

    Args:
        side: That of the network's square, which some of them have.
        seed: Of the noise.

    Returns:
        The bytes of each file by what is peculiar about it.
    """
    rng = np.random.default_rng(seed)

    def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
        shape = (height, width, len(Image.new(mode, (1, 1)).getbands()))
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        return Image.fromarray(pixels if shape[2] > 1 else pixels[:, :, 0], mode)

    def ramp(width: int, height: int) -> Image.Image:
        down, right = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        pixels = np.stack([right, down, 1 - right], axis=2) * 255
        return Image.fromarray(pixels.astype(np.uint8))

    sixteen = Image.fromarray(rng.integers(0, 1 << 16, (41, 73), dtype=np.uint16))
    palette = noise(60, 45).quantize(32)
    made: dict[str, Callable[[], bytes]] = {
        "one pixel": lambda: _png(noise(1, 1)),
        "one row": lambda: _png(noise(333, 1)),
        "one column": lambda: _png(noise(1, 333)),
        "the network's size": lambda: _png(noise(side, side)),
        "a little larger": lambda: _png(noise(side + 1, side + 3)),
        "wide": lambda: _png(ramp(640, 97)),
        "tall": lambda: _png(noise(97, 411)),
        "a photograph's size": lambda: _jpeg(ramp(1280, 960)),
        "turned by EXIF": lambda: _jpeg(ramp(120, 80), orientation=6),
        "mirrored by EXIF": lambda: _jpeg(ramp(80, 121), orientation=5),
        "grey": lambda: _png(noise(50, 70, "L")),
        "grey of 16 bits": lambda: _png(sixteen),
        "transparent": lambda: _png(noise(64, 33, "RGBA")),
        "grey and transparent": lambda: _png(noise(33, 64, "LA")),
        "of a palette": lambda: _png(palette),
        "of a palette with a transparent colour": lambda: _png(palette, transparency=3),
        "CMYK": lambda: _jpeg(ramp(90, 60).convert("CMYK")),
    }
    return {name: draw() for name, draw in made.items()}


def _png(picture: Image.Image, **options: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


def _jpeg(picture: Image.Image, orientation: int = 1) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[TURNED] = orientation
    picture.save(stream, "JPEG", quality=92, exif=exif)
    return stream.getvalue()
