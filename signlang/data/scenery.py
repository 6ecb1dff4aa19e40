"""A random stream comes in; rooms without hands, and what a camera makes of a picture, go out."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Picture = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

# Albedo of skin from very light to very dark, RGB; a signer's tone lies between two neighbours.
TONES = np.array(
    [
        (0.93, 0.77, 0.68),
        (0.88, 0.69, 0.57),
        (0.79, 0.58, 0.44),
        (0.66, 0.45, 0.32),
        (0.51, 0.33, 0.23),
        (0.37, 0.23, 0.16),
        (0.26, 0.16, 0.12),
    ]
)


def skin_tone(rng: np.random.Generator) -> Floats:
    """Albedo (3,) of a random person's skin, RGB in 0..1."""
    where = rng.uniform(0, len(TONES) - 1.001)
    low = int(where)
    tone = TONES[low] + (where - low) * (TONES[low + 1] - TONES[low])
    tinted: Floats = np.clip(tone * rng.normal(1.0, 0.03, 3), 0.03, 1.0)
    return tinted


def _noise(rng: np.random.Generator, size: int, cells: int) -> Picture:
    """Smooth noise (size, size, 1) of about unit strength with so many cells per edge."""
    grid = rng.normal(0, 1, (cells + 2, cells + 2)).astype(np.float32)
    smooth = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.float32)[..., None]


def _colour(rng: np.random.Generator) -> Floats:
    """A mostly muted colour."""
    return np.clip(rng.uniform(0.05, 0.9) + rng.normal(0, 0.07, 3), 0.02, 0.98)


def _wall(rng: np.random.Generator, size: int, canvas: Picture) -> None:
    canvas += _noise(rng, size, int(rng.integers(2, 5))) * rng.normal(0, 0.05, 3)


def _blobs(rng: np.random.Generator, size: int, canvas: Picture) -> None:
    for _ in range(int(rng.integers(3, 9))):
        x, y, radius = rng.uniform((0, 0, 0.05), (1, 1, 0.3)) * size
        cv2.circle(canvas, (int(x), int(y)), int(radius), _colour(rng).tolist(), -1)
    cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.02, 0.08) * size, canvas)


def _stripes(rng: np.random.Generator, size: int, canvas: Picture) -> None:
    angle, waves = rng.uniform(0, np.pi), rng.uniform(3, 14)
    x = np.arange(size, dtype=np.float32) * (2 * np.pi * waves / size)
    phase = np.cos(angle) * x[None] + np.sin(angle) * x[:, None]
    band = np.clip(np.sin(phase) * rng.uniform(1, 6), -1, 1).astype(np.float32)
    canvas += band[..., None] * rng.normal(0, 0.09, 3)


def _shelves(rng: np.random.Generator, size: int, canvas: Picture) -> None:
    for _ in range(int(rng.integers(5, 16))):
        (x, y), (w, h) = rng.uniform(-0.2, 1, 2) * size, rng.uniform(0.05, 0.5, 2) * size
        corners = (int(x), int(y)), (int(x + w), int(y + h))
        cv2.rectangle(canvas, *corners, _colour(rng).tolist(), -1)


def _texture(rng: np.random.Generator, size: int, canvas: Picture) -> None:
    canvas += _noise(rng, size, int(rng.integers(12, 40))) * rng.normal(0, 0.07, 3)


PAINTERS: tuple[Callable[[np.random.Generator, int, Picture], None], ...] = (
    _wall,
    _blobs,
    _stripes,
    _shelves,
    _texture,
)


def _skin_distractors(rng: np.random.Generator, size: int, canvas: Picture) -> None:
    """Round and long things in the colour of skin: faces, arms, wood."""
    tone = skin_tone(rng)
    for _ in range(int(rng.integers(1, 5))):
        ends = rng.uniform(0, size, (2, 2)).astype(int).tolist()
        thick = max(1, int(rng.uniform(0.04, 0.2) * size))
        shade = (tone * rng.uniform(0.5, 1.1)).tolist()
        cv2.line(canvas, ends[0], ends[1], shade, thick, cv2.LINE_AA)


def scene(rng: np.random.Generator, size: int) -> Pixels:
    """A random background without a hand, (size, size, 3) RGB."""
    corners = np.stack([_colour(rng)] * 4).reshape(2, 2, 3) + rng.normal(0, 0.06, (2, 2, 3))
    canvas: Picture = np.empty((size, size, 3), np.float32)
    cv2.resize(corners.astype(np.float32), (size, size), canvas, interpolation=cv2.INTER_LINEAR)
    for painter in rng.choice(len(PAINTERS), int(rng.integers(1, 4)), replace=False):
        PAINTERS[painter](rng, size, canvas)
    if rng.random() < 0.25:
        _skin_distractors(rng, size, canvas)
    cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.003, 0.03) * size, canvas)
    return (np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def photographed(rng: np.random.Generator, canvas: Picture) -> Pixels:
    """What light, lens, sensor and codec make of a picture (size, size, 3) in 0..1: bytes."""
    size = canvas.shape[0]
    if rng.random() < 0.3:  # a partial shadow with a straight, soft edge
        angle, offset, soft = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.2), rng.uniform(0.01, 0.15)
        x = np.arange(size, dtype=np.float32) / size - 0.5
        side = np.cos(angle) * x[None] + np.sin(angle) * x[:, None] - offset
        canvas = canvas * (1 - rng.uniform(0.2, 0.5) * np.clip(side / soft, 0, 1))[..., None]
    blur = size / 96 * min(rng.gamma(1.6, 0.28), 1.2)
    canvas = cv2.GaussianBlur(canvas, (0, 0), max(blur, 0.2)).astype(np.float32)
    canvas = np.clip(canvas, 0, None) ** rng.uniform(0.8, 1.25)
    contrast = rng.uniform(0.8, 1.15)
    canvas = 0.45 + contrast * (canvas - 0.45)
    grain = np.float32(min(rng.gamma(2.0, 0.009), 0.045))
    canvas = canvas + grain * rng.standard_normal(canvas.shape, np.float32)
    pixels: Pixels = (np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.6:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))]
        coded = cv2.imencode(".jpg", pixels, quality)[1]
        pixels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return pixels
