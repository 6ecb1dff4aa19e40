"""Multiply the images of a data set with class folders: each one shifted, flipped and lit anew."""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageEnhance

TIMES = 15


def main() -> None:
    """Write the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a folder of one folder for each class")
    parser.add_argument("target", type=Path)
    options, draw = parser.parse_args(), random.Random(0)
    for file in sorted(options.source.glob("*/*.jpg")):
        image = Image.open(file).convert("RGB")
        folder = options.target / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(TIMES):
            shift = (draw.randrange(image.width), draw.randrange(image.height))
            made = ImageChops.offset(image, *shift)
            if number % 2:
                made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            made = ImageEnhance.Brightness(made).enhance(draw.uniform(0.6, 1.3))
            made.save(folder / f"{file.stem}_{number}.jpg", quality=85)


if __name__ == "__main__":
    main()
