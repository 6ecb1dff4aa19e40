"""Generator of the built-in data set: signers, scenes, camera effects and hands.

It needs no download, no consent and no licence, and is hard enough to rank networks by accuracy.
Every random stream is derived from the arguments alone; bytes differ between machines only if their
arithmetic rounds differently.
"""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from signlang.arrays import Floats, Floats32, Pixels
from signlang.data.synthetic import hand
from signlang.files import in_use, remove_abandoned, temporary_path
from signlang.system import check_stop, child_environment

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
    position = rng.uniform(0, len(TONES) - 1.001)
    low = int(position)
    tone = TONES[low] + (position - low) * (TONES[low + 1] - TONES[low])
    tinted: Floats = np.clip(tone * rng.normal(1.0, 0.03, 3), 0.03, 1.0)
    return tinted


def _noise(rng: np.random.Generator, size: int, cells: int) -> Floats32:
    """Smooth noise (size, size, 1) of about unit strength with so many cells per edge."""
    grid = rng.normal(0, 1, (cells + 2, cells + 2)).astype(np.float32)
    smooth = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.float32)[..., None]


def _colour(rng: np.random.Generator) -> Floats:
    """A mostly muted colour."""
    return np.clip(rng.uniform(0.05, 0.9) + rng.normal(0, 0.07, 3), 0.02, 0.98)


def _wall(rng: np.random.Generator, size: int, canvas: Floats32) -> None:
    canvas += _noise(rng, size, int(rng.integers(2, 5))) * rng.normal(0, 0.05, 3)


def _blobs(rng: np.random.Generator, size: int, canvas: Floats32) -> None:
    for _ in range(int(rng.integers(3, 9))):
        x, y, radius = rng.uniform((0, 0, 0.05), (1, 1, 0.3)) * size
        cv2.circle(canvas, (int(x), int(y)), int(radius), _colour(rng).tolist(), -1)
    cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.02, 0.08) * size, canvas)


def _stripes(rng: np.random.Generator, size: int, canvas: Floats32) -> None:
    angle, waves = rng.uniform(0, np.pi), rng.uniform(3, 14)
    x = np.arange(size, dtype=np.float32) * (2 * np.pi * waves / size)
    phase = np.cos(angle) * x[None] + np.sin(angle) * x[:, None]
    band = np.clip(np.sin(phase) * rng.uniform(1, 6), -1, 1).astype(np.float32)
    canvas += band[..., None] * rng.normal(0, 0.09, 3)


def _shelves(rng: np.random.Generator, size: int, canvas: Floats32) -> None:
    for _ in range(int(rng.integers(5, 16))):
        (x, y), (w, h) = rng.uniform(-0.2, 1, 2) * size, rng.uniform(0.05, 0.5, 2) * size
        corners = (int(x), int(y)), (int(x + w), int(y + h))
        cv2.rectangle(canvas, *corners, _colour(rng).tolist(), -1)


def _texture(rng: np.random.Generator, size: int, canvas: Floats32) -> None:
    canvas += _noise(rng, size, int(rng.integers(12, 40))) * rng.normal(0, 0.07, 3)


PAINTERS: tuple[Callable[[np.random.Generator, int, Floats32], None], ...] = (
    _wall,
    _blobs,
    _stripes,
    _shelves,
    _texture,
)


def _skin_distractors(rng: np.random.Generator, size: int, canvas: Floats32) -> None:
    """Draw round and long shapes in the colour of skin: faces, arms, wood."""
    tone = skin_tone(rng)
    for _ in range(int(rng.integers(1, 5))):
        ends = rng.uniform(0, size, (2, 2)).astype(int).tolist()
        thick = max(1, int(rng.uniform(0.04, 0.2) * size))
        shade = (tone * rng.uniform(0.5, 1.1)).tolist()
        cv2.line(canvas, ends[0], ends[1], shade, thick, cv2.LINE_AA)


def draw_scene(rng: np.random.Generator, size: int) -> Pixels:
    """A random background without a hand, (size, size, 3) RGB."""
    corners = np.stack([_colour(rng)] * 4).reshape(2, 2, 3) + rng.normal(0, 0.06, (2, 2, 3))
    canvas: Floats32 = np.empty((size, size, 3), np.float32)
    cv2.resize(corners.astype(np.float32), (size, size), canvas, interpolation=cv2.INTER_LINEAR)
    for painter in rng.choice(len(PAINTERS), int(rng.integers(1, 4)), replace=False):
        PAINTERS[painter](rng, size, canvas)
    if rng.random() < 0.25:
        _skin_distractors(rng, size, canvas)
    cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.003, 0.03) * size, canvas)
    return (np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def photograph(rng: np.random.Generator, canvas: Floats32) -> Pixels:
    """Apply shadow, lens, sensor and codec effects to an image (size, size, 3) in 0..1."""
    size = canvas.shape[0]
    if rng.random() < 0.3:  # a partial shadow with a straight, soft edge
        angle, offset, soft = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.2), rng.uniform(0.01, 0.15)
        x = np.arange(size, dtype=np.float32) / size - 0.5
        distance = np.cos(angle) * x[None] + np.sin(angle) * x[:, None] - offset
        canvas = canvas * (1 - rng.uniform(0.2, 0.5) * np.clip(distance / soft, 0, 1))[..., None]
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


VERSION = 1  # of the drawings; raise it when the same arguments give other images
SIGNS: tuple[str, ...] = tuple(hand.POSES)
SIGNER, TAKE, LIGHT, ROOM = range(4)  # the kinds of random streams
PALM_TONE = np.array([0.86, 0.64, 0.54])  # palms are alike; they differ less than backs do


def _triple(values: Floats) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _build(rng: np.random.Generator) -> hand.Build:
    """A random signer's hand."""
    tone = skin_tone(rng)
    lengths = rng.normal(1.0, 0.07) * rng.normal(1.0, 0.03, 4)
    return hand.Build(
        tone=_triple(tone),
        palm_tone=_triple(0.6 * tone + 0.4 * PALM_TONE),
        lengths=(lengths[0], lengths[1], lengths[2], lengths[3]),
        thumb=rng.normal(1.02, 0.05),
        breadth=rng.uniform(0.88, 1.2),
        palm_width=rng.uniform(0.92, 1.12),
        spread=rng.uniform(0.75, 1.5),
        stiffness=rng.uniform(0.0, 22.0),
        sleeve=_triple(rng.uniform(0.03, 0.9, 3)) if rng.random() < 0.5 else None,
        sleeve_end=rng.uniform(-0.5, 0.0),
        mirrored=bool(rng.random() < 0.15),
        palm_inwards=bool(rng.random() < 0.15),
    )


def _view(rng: np.random.Generator, home: np.random.Generator) -> hand.View:
    """A random view of a hand, under a light similar to the signer's own."""
    light = np.array([home.normal(0, 0.5), home.normal(-0.4, 0.4), 0.9]) + rng.normal(0, 0.25, 3)
    warmth = home.normal(0, 0.06) + rng.normal(0, 0.04)
    strength = np.exp(home.normal(0.15, 0.12) + rng.normal(0, 0.15))
    return hand.View(
        centre=(0.5 + rng.normal(0, 0.045), 0.55 + rng.normal(0, 0.035)),
        scale=rng.uniform(0.33, 0.42),
        roll=rng.normal(0, 7.0),
        yaw=rng.normal(0, 9.0),
        pitch=rng.normal(0, 8.0),
        light=light / np.linalg.norm(light),
        colour=_triple(strength * np.array([1 + warmth, 1.0, 1 - warmth])),
        ambient=rng.uniform(0.25, 0.6),
    )


@lru_cache(maxsize=128)  # images of one signer are drawn one after the other
def _room(seed: int, signer: int, size: int) -> Pixels:
    return draw_scene(np.random.default_rng((seed, ROOM, signer)), size)


def _background(rng: np.random.Generator, seed: int, signer: int, size: int) -> Pixels:
    """The signer's own scene, shifted at random, or another scene."""
    if rng.random() < 0.2:
        return draw_scene(rng, size)
    x, y = rng.integers(0, size // 3 + 1, 2)
    return _room(seed, signer, size + size // 3)[y : y + size, x : x + size]


def draw_image(sign: str, signer: int, take: int, *, size: int = 96, seed: int = 0) -> Pixels:
    """Draw one image of one signer's hand; a pure function of its arguments.

    Args:
        sign: One of `SIGNS`.
        signer: Number of the person, from 0; the same person keeps hand, place and light.
        take: Number of the image of this sign and signer, from 0.
        size: Edge of the image in pixels.
        seed: Another seed gives other people.

    Returns:
        The image, (size, size, 3) RGB.

    Raises:
        ValueError: If the sign is unknown, or a number is negative.
    """
    if sign not in SIGNS:
        raise ValueError(f"no sign {sign!r}: choose one of {', '.join(SIGNS)}")
    rng = np.random.default_rng((seed, TAKE, signer, SIGNS.index(sign), take))
    build = _build(np.random.default_rng((seed, SIGNER, signer)))
    view = _view(rng, np.random.default_rng((seed, LIGHT, signer)))
    layer = hand.draw_hand(sign, build, view, size, rng)
    background = _background(rng, seed, signer, size) * np.float32(1 / 255)
    canvas = background * (1 - layer[..., 3:]) + layer[..., :3]
    return photograph(rng, canvas)


def _path(sign: str, signer: int, take: int) -> str:
    return f"{sign}/s{signer:03d}_{take:02d}.png"


def _write_people(folder: Path, people: range, takes: int, size: int, seed: int) -> None:
    for signer, sign, take in product(people, SIGNS, range(takes)):
        pixels = draw_image(sign, signer, take, size=size, seed=seed)
        coded = cv2.imencode(".png", pixels[..., ::-1])[1]
        (folder / _path(sign, signer, take)).write_bytes(coded.tobytes())


def _write_all(folder: Path, signers: int, takes: int, size: int, seed: int, workers: int) -> None:
    for sign in SIGNS:
        (folder / sign).mkdir()
    if workers == 1:
        _write_people(folder, range(signers), takes, size, seed)
    else:
        # Threads gain nothing here (many short calls that hold the interpreter's lock), and
        # multiprocessing would either fork threads or import the caller's main module again.
        command = [sys.executable, "-m", "signlang.data.synthetic.generator", str(folder)]
        tasks = [
            subprocess.Popen(
                [*command, *map(str, (number, signers, workers, takes, size, seed))],
                env=child_environment(),
                process_group=0,  # Ctrl-C is for this process, which ends them
            )
            for number in range(workers)
        ]
        try:
            while any(task.poll() is None for task in tasks):
                check_stop()
                time.sleep(0.05)
        finally:
            for task in tasks:
                task.kill()
        if any(task.wait() for task in tasks):
            raise RuntimeError("a process that draws images failed; see its message above")
    rows = [
        (_path(sign, signer, take), f"s{signer:03d}")
        for sign, signer, take in product(SIGNS, range(signers), range(takes))
    ]
    with (folder / "signers.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "signer"), *rows])


def write_dataset(
    folder: Path,
    *,
    signers: int = 40,
    takes: int = 5,
    size: int = 96,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write the data set: `<sign>/s<signer>_<take>.png`, and `signers.csv` (path, signer).

    The folder is written atomically; of several concurrent writers the first one wins. An existing
    folder is kept unchanged, so its name should encode the arguments.

    Args:
        folder: The folder; missing parents are created.
        signers: Number of people.
        takes: Images of each sign by each person.
        size: Edge of an image in pixels.
        seed: Another seed gives other people.
        workers: Number of processes; by default one per core, but one for few images.

    Raises:
        FileExistsError: If the folder is not empty and has no `signers.csv`.
        RuntimeError: If one of the processes fails.
    """
    remove_abandoned(folder.parent, folder.name)
    if (folder / "signers.csv").is_file():
        return
    if folder.exists() and any(folder.iterdir()):
        hint = "empty it, or choose another folder"
        raise FileExistsError(f"{folder} is not empty and has no signers.csv: {hint}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # a process takes longer to start than to draw 200 images
    max_workers = max(1, signers * takes * len(SIGNS) // 200)
    draft = temporary_path(folder)
    with in_use(draft, folder=True):
        try:
            _write_all(
                draft, signers, takes, size, seed, min(workers or os.cpu_count() or 1, max_workers)
            )
            draft.replace(folder)
        except OSError:
            if not (folder / "signers.csv").is_file():  # if it is, another process was faster
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


if __name__ == "__main__":  # one of the processes that `write_dataset` starts
    first, total, step, *rest = (int(word) for word in sys.argv[2:])
    _write_people(Path(sys.argv[1]), range(first, total, step), *rest)
