"""Memory and seconds of an epoch over data sets of growing size.

    python experiments/speed/scale.py

Draws images of 200 x 200 into a temporary folder (1.5 GB for 87,000, and 11 GB of decoded
pixels), trains Model A on them at 64 x 64 for two epochs by the public command, and writes
`scale.csv` and the section of `README.md` between its markers.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import cv2
import numpy as np

from signlang.files import read_csv, write_between, write_csv
from signlang.system import cpu_count, cpu_name

HERE: Final = Path(__file__).parent
CLASSES: Final = 29
SIZE: Final = 200  # of an image, in pixels


@dataclass(frozen=True)
class Scale:
    """Time and memory of training on a number of images.

    Attributes:
        images: Images of the data set; 0.72 of them are trained on.
        workers: Processes that prepare batches.
        peak_mb: Largest resident size of a process, mapped files included, in 10^6 bytes.
        epoch_s: Seconds of the second epoch, with its validation.
        images_per_s: Throughput of its training only.
    """

    images: int
    workers: int
    peak_mb: float
    epoch_s: float
    images_per_s: float


def draw(folder: Path, count: int) -> None:
    """Draw images of blurred noise in the colour of their class."""

    def one(number: int) -> None:
        rng = np.random.default_rng(number)
        label = number % CLASSES
        colour = np.array([label * 8, 255 - label * 8, (label * 67) % 256])
        small = rng.integers(-60, 60, (SIZE // 8, SIZE // 8, 3)) + colour
        image = cv2.resize(np.clip(small, 0, 255).astype(np.uint8), (SIZE, SIZE))
        cv2.imwrite(str(folder / f"c{label:02}" / f"{number}.jpg"), image)

    for label in range(CLASSES):
        (folder / f"c{label:02}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for _ in pool.map(one, range(count)):
            pass


def train(root: Path, place: Path, images: int, workers: int) -> Scale:
    """Train for two epochs and measure time and memory."""
    runs = place / f"runs-{images}-{workers}"
    command = [
        sys.executable, "-m", "signlang.train", "data=folder", f"data.root={root}",
        "model=simple_cnn", "image_size=64", "data.stored_size=200", "augment=digits",
        "batch_size=64", "trainer.max_epochs=2", f"workers={workers}", f"runs_dir={runs}",
        f"cache_dir={place / 'cache'}", "verbose=false",
    ]  # fmt: skip
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    (history,) = runs.glob("*/*/fold=0/history.csv")
    last = read_csv(history)[-1]
    peak = usage.ru_maxrss * 1024 / 1e6
    measurement = Scale(
        images, workers, round(peak, 1), float(last["seconds"]), float(last["images_per_second"])
    )
    sys.stderr.write(f"{measurement}\n")
    return measurement


def lines(measurements: Sequence[Scale]) -> Iterator[str]:
    """Write the results in Markdown."""
    yield f"{cpu_name()}, {cpu_count()} cores.\n"
    yield "| images | workers | peak memory (MB) | seconds of an epoch | images a second |"
    yield "|---:|---:|---:|---:|---:|"
    for one in measurements:
        yield (
            f"| {one.images:,} | {one.workers} | {one.peak_mb:,.0f} | {one.epoch_s:.1f} "
            f"| {one.images_per_s:,.0f} |"
        )


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Train on data sets of growing size.")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 87_000])
    parser.add_argument("--workers", type=int, default=2, help="of one more run on the largest")
    arguments = parser.parse_args()
    measurements = []
    with TemporaryDirectory() as folder:
        place = Path(folder)
        for count in arguments.images:
            draw(place / str(count), count)
            measurements.append(train(place / str(count), place, count, 0))
        largest = max(arguments.images)
        measurements.append(train(place / str(largest), place, largest, arguments.workers))
    print("\n".join(lines(measurements)))
    names = [field.name for field in fields(Scale)]
    write_csv(HERE / "scale.csv", names, [astuple(one) for one in measurements])
    write_between(HERE / "README.md", "scale", "\n".join(lines(measurements)))


if __name__ == "__main__":
    main()
