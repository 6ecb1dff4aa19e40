"""Films for a browser's pretended webcam: raw video (y4m), which keeps colours as they are."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from signlang.arrays import Pixels

WIDTH, HEIGHT, RATE = 320, 240, 10
GUIDE = 0.8  # side of the page's guide square, as a part of the height
SKIN = 60  # of a hand on black cloth: what is brighter belongs to it


def write_film(file: Path, scenes: Sequence[tuple[Image.Image, float]]) -> Path:
    """Write a film that shows images inside the guide square, each for some seconds."""
    frames = ((_scene(image), round(seconds * RATE)) for image, seconds in scenes)
    return write_frames(file, frames, RATE)


def write_frames(file: Path, frames: Iterable[tuple[Image.Image, int]], rate: int) -> Path:
    """Write a film of whole frames of one size, each repeated some times."""
    with file.open("wb") as stream:
        for image, times in frames:
            if not stream.tell():
                head = f"YUV4MPEG2 W{image.width} H{image.height} F{rate}:1 Ip A1:1 C420\n"
                stream.write(head.encode())
            stream.write((b"FRAME\n" + _planes(np.asarray(image))) * times)
    return file


def room(width: int = 640, height: int = 480) -> Image.Image:
    """A background of light, furniture and noise, without a hand."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width] / (height, width)[0]
    shade = 150 - 60 * rows + 25 * columns
    pixels = (
        np.stack([shade, shade - 12, shade - 25], axis=-1)
        + rng.normal(0, 4, shade.shape)[..., None]
    )
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    for left, top, right, bottom, colour in (
        (0.55, 0.1, 0.95, 0.5, (96, 118, 140)),  # a window
        (0.0, 0.75, 1.0, 1.0, (88, 66, 48)),  # a table
        (0.05, 0.35, 0.2, 0.75, (60, 90, 70)),  # a book
    ):
        place = (int(left * width), int(top * height), int(right * width), int(bottom * height))
        image.paste(colour, place)
    return image


def with_hand(room: Image.Image, hand: Image.Image, height: int, x: int, y: int) -> Image.Image:
    """Paste a hand on black cloth into a room: only what is bright, so that the cloth is left out.

    Args:
        room: The background.
        hand: The image of the hand.
        height: To which that image is reduced, in pixels.
        x: Of its middle, in pixels of the room.
        y: Likewise.
    """
    small = hand.resize((round(hand.width * height / hand.height), height), Image.Resampling.BOX)
    mask = small.convert("L").point(lambda value: 255 if value > SKIN else 0)
    scene = room.copy()
    scene.paste(small, (x - small.width // 2, y - height // 2), mask)
    return scene


def _scene(image: Image.Image) -> Image.Image:
    side = round(HEIGHT * GUIDE)
    scene = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
    scene.paste(image.resize((side, side)), ((WIDTH - side) // 2, (HEIGHT - side) // 2))
    return scene


def _planes(rgb: Pixels) -> bytes:
    """Brightness in full, colours at half the resolution (ITU-R BT.601, 16 to 235)."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64) / 255, 2, 0)
    luma = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    blueness = 128 - 37.797 * red - 74.203 * green + 112 * blue
    redness = 128 + 112 * red - 93.786 * green - 18.214 * blue

    def halved(plane: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
        height, width = plane.shape
        small = plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        return bytes(small.round().astype(np.uint8))

    return bytes(luma.round().astype(np.uint8)) + halved(blueness) + halved(redness)
