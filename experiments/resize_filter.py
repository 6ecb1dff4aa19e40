"""Sharpness and speed of training images by the filter that resizes them last.

    python experiments/resize_filter.py asl_alphabet

Compares the filter of predicted images with the one that training images had before, which averaged
areas: each augments the same batches in turn, in one process.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Final

import albumentations as A
import cv2
import numpy as np

from signlang.arrays import Pixels
from signlang.data import image_io
from signlang.data.augmentation import Augmentation, asl_alphabet

STORED: Final = 200  # pixels
SIZES: Final = (64, 128, 224)
IMAGES: Final = 64
ROUNDS: Final = 30


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Measure the filter of training images.")
    parser.add_argument("root", type=Path, help="images below it are read")
    files = sorted(parser.parse_args().root.rglob("*.jpg"))
    chosen = files[:: max(1, len(files) // IMAGES)][:IMAGES]
    images = (image_io.decode(image_io.read_bytes(file)) for file in chosen)
    batch = np.stack([image_io.resize_image(image, STORED) for image in images])
    cv2.setNumThreads(1)
    for size in SIZES:
        judged = sharpness(image_io.resize_batch(batch, size))
        before = A.Resize(size, size, cv2.INTER_LINEAR, area_for_downscale="image")
        energies = [sharpness(Augmentation([one], size)(batch, 0)) for one in (before, A.NoOp())]
        of_area, of_one = (judged / energy for energy in energies)
        pipelines = [[*asl_alphabet(), before], asl_alphabet()]
        area, one = speeds([Augmentation(transforms, size) for transforms in pipelines], batch)
        sharp = f"{of_area:.2f} | {of_one:.2f}"
        print(f"| {size} | {sharp} | {area:,.0f} | {one:,.0f} | {one / area:.2f} |")


def sharpness(batch: Pixels) -> float:
    """Mean square of the differences of neighbouring pixels."""
    values = batch.astype(float)
    return float((np.diff(values, axis=1) ** 2).mean() + (np.diff(values, axis=2) ** 2).mean())


def speeds(augmentations: list[Augmentation], batch: Pixels) -> list[float]:
    """Images a second of processor time of each, medians of rounds in turn."""
    seconds: list[list[float]] = [[] for _ in augmentations]
    for seed in range(ROUNDS):
        for augmentation, measured in zip(augmentations, seconds, strict=True):
            started = time.process_time()
            augmentation(batch, seed)
            measured.append(time.process_time() - started)
    return [len(batch) / statistics.median(measured) for measured in seconds]


if __name__ == "__main__":
    main()
