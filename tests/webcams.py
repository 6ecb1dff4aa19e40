"""Films for a browser's pretended webcam: raw video (y4m), which keeps colours as they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from signlang.arrays import Pixels

WIDTH, HEIGHT, RATE = 320, 240, 10
GUIDE = 0.8  # side of the page's guide square, as a part of the height


def write_film(file: Path, scenes: Sequence[tuple[Image.Image, float]]) -> Path:
    """Write a film that shows images inside the guide square, each for some seconds."""
    with file.open("wb") as stream:
        stream.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{RATE}:1 Ip A1:1 C420\n".encode())
        for image, seconds in scenes:
            frame = b"FRAME\n" + _planes(_scene(image))
            stream.write(frame * round(seconds * RATE))
    return file


def _scene(image: Image.Image) -> Pixels:
    side = round(HEIGHT * GUIDE)
    scene = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
    scene.paste(image.resize((side, side)), ((WIDTH - side) // 2, (HEIGHT - side) // 2))
    return np.asarray(scene)


def _planes(rgb: Pixels) -> bytes:
    """Brightness in full, colours at half the resolution (ITU-R BT.601, 16 to 235)."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64) / 255, 2, 0)
    luma = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    blueness = 128 - 37.797 * red - 74.203 * green + 112 * blue
    redness = 128 + 112 * red - 93.786 * green - 18.214 * blue

    def halved(plane: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
        small = plane.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(1, 3))
        return bytes(small.round().astype(np.uint8))

    return bytes(luma.round().astype(np.uint8)) + halved(blueness) + halved(redness)
