"""Predictions for image files, folders and standard input, written as table, CSV or JSON lines."""

import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from signlang.arrays import Pixels
from signlang.console import log
from signlang.data.image_io import (
    BadImageError,
    batched,
    is_image_name,
    map_in_order,
    read_bytes,
    read_image,
    resize_image,
)
from signlang.errors import SettingError
from signlang.inference.bundle import Bundle
from signlang.inference.onnx_model import OnnxModel

STDIN: Final = "-"
PATTERN: Final = set("*?[")


@dataclass(frozen=True)
class ImageSource:
    """An image that is to be recognised.

    Attributes:
        name: Its path as it was given or found; `-` for standard input.
        data: Its bytes, if it is no file.
    """

    name: str
    data: bytes | None = None


def find_sources(paths: Sequence[str], stdin: BinaryIO) -> list[ImageSource]:
    """Find all images, in the order given; those of a folder are sorted by name.

    A file is taken whatever it is called, and one that is missing too: it becomes a row with its
    error. Of a folder, files that are not named like images, and hidden ones, are passed over.

    Args:
        paths: Files, folders, patterns with `*`, `?`, `[...]` and `**`, or `-`.
        stdin: Holds one path a line, or an image.

    Raises:
        SettingError: If there is none.
    """
    found = [source for path in paths for source in _sources(path, stdin)]
    if not found:
        raise SettingError(f"There is no image in {', '.join(paths)}.")
    return found


def _sources(path: str, stdin: BinaryIO) -> Iterator[ImageSource]:
    if path == STDIN:
        yield from _from_stdin(stdin.read())
    elif os.path.isdir(path):  # noqa: PTH112  # names of any length and bytes, without an error
        yield from _in_folder(path)
    elif PATTERN & set(path) and not os.path.lexists(path):
        names = sorted(glob.glob(path, recursive=True))  # noqa: PTH207  # keeps `./` and `../`
        for name in names:
            yield from _in_folder(name) if Path(name).is_dir() else [ImageSource(name)]
        if not names:
            yield ImageSource(path)
    else:
        yield ImageSource(path)


def _in_folder(folder: str) -> Iterator[ImageSource]:
    passed_over, seen = 0, set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_image_name(Path(name).suffix) and not name.startswith("."):
                yield ImageSource(str(Path(place, name)))
            else:
                passed_over += not name.startswith(".")
    if passed_over:
        log.info("%s: %d files are not named like images and are passed over", folder,
                 passed_over)  # fmt: skip


def _from_stdin(data: bytes) -> list[ImageSource]:
    """Take an image, or else lines of paths."""
    try:
        with Image.open(io.BytesIO(data)):
            return [ImageSource(STDIN, data)]
    except Exception:  # decoders raise anything at what is no image
        if b"\0" in data:
            return [ImageSource(STDIN, data)]  # neither is it text: decoding will say what is wrong
    lines = os.fsdecode(data).splitlines()
    return [ImageSource(line.strip()) for line in lines if line.strip()]


UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    Attributes:
        path: Its name.
        ranked: The most probable classes with their probabilities, the most probable first; empty
            for an image that cannot be used.
        accepted: Whether the first of them reaches the threshold.
        error: Why the image cannot be used, or nothing.
    """

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    accepted: bool = False
    error: str = ""

    @property
    def guess(self) -> str:
        """The most probable class."""
        return self.ranked[0][0] if self.ranked else ""

    @property
    def label(self) -> str:
        """The guess, or `unknown` if it is too improbable; empty for a bad image."""
        return self.guess if self.accepted or not self.ranked else UNKNOWN


@dataclass(frozen=True, eq=False)
class Predictor:
    """A bundle with how it is to be used.

    Attributes:
        bundle: It.
        network: Its network.
        threshold: Guesses of a lower probability are called unknown; 0 accepts all.
        top: Classes of an answer.
        batch_size: Images that are judged together.
        workers: Threads that decode.
    """

    bundle: Bundle
    network: OnnxModel
    threshold: float
    top: int
    batch_size: int
    workers: int

    def answers(self, sources: Iterable[ImageSource]) -> Iterator[Prediction]:
        """Answer for each image, in order; a bad one is answered with its error.

        Threads decode images, and squeeze them as the graph would, while others are judged.
        """
        read = map_in_order(self._read, sources, self.workers, ahead=2 * self.batch_size)
        for batch in batched(read, self.batch_size):
            yield from self._judged(batch)

    def _read(self, source: ImageSource) -> tuple[ImageSource, Pixels | str]:
        try:
            data = read_bytes(Path(source.name)) if source.data is None else source.data
            image = Image.fromarray(read_image(data))
            return source, resize_image(image, self.bundle.sides[0])
        except BadImageError as error:
            return source, str(error)
        except ValueError as error:  # a name with a null byte
            return source, f"no such file ({error})"

    def _judged(self, batch: Sequence[tuple[ImageSource, Pixels | str]]) -> Iterator[Prediction]:
        good = [pixels for _, pixels in batch if not isinstance(pixels, str)]
        said = iter(self.network(np.stack(good)) if good else ())
        for source, pixels in batch:
            if isinstance(pixels, str):
                yield Prediction(source.name, error=pixels)
            else:
                yield self._ranked(source.name, next(said))

    def _ranked(self, name: str, probabilities: npt.NDArray[np.float32]) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")[: self.top]
        ranked = tuple((self.bundle.classes[k], float(probabilities[k])) for k in order)
        return Prediction(name, ranked, ranked[0][1] >= self.threshold)


def write_csv(answers: Iterable[Prediction], stream: TextIO, top: int) -> None:
    """Write path,label,guess,confidence,guess_2,confidence_2,...,error as they come."""
    writer = csv.writer(stream, lineterminator="\n")
    more = [f"{word}_{place}" for place in range(2, top + 1) for word in ("guess", "confidence")]
    writer.writerow(["path", "label", "guess", "confidence", *more, "error"])
    for answer in answers:
        pairs = [[name, f"{share:.6f}"] for name, share in answer.ranked]
        cells = list(chain(*pairs)) or [""] * 2 * top
        writer.writerow([answer.path, answer.label, *cells, answer.error])


def write_jsonl(answers: Iterable[Prediction], stream: TextIO, top: int) -> None:
    """Write one JSON object a line, as they come."""
    for answer in answers:
        ranked = [{"class": name, "probability": round(p, 6)} for name, p in answer.ranked]
        row = {
            "path": answer.path,
            "label": answer.label or None,
            "guess": answer.guess or None,
            "confidence": ranked[0]["probability"] if ranked else None,
            "top": ranked,
            "error": answer.error or None,
        }
        stream.write(json.dumps(row) + "\n")


def write_table(answers: Iterable[Prediction], stream: TextIO, top: int) -> None:
    """Write aligned columns for people, once all answers are there."""
    rows = [["path", "label", "confidence", *(f"{place}." for place in range(2, top + 1))]]
    for answer in answers:
        others = [f"{name} {share:.4f}" for name, share in answer.ranked[1:]]
        label = answer.label if answer.accepted else f"{UNKNOWN} ({answer.guess}?)"
        rows.append(
            [answer.path, "-", answer.error]
            if answer.error
            else [answer.path, label, f"{answer.ranked[0][1]:.4f}", *others]
        )
    # sentences of errors, in the third place, run over what follows
    fitted = [row for row in rows if row[1] != "-"]
    wide = [max(map(len, column)) for column in zip(*fitted, strict=True)]
    wide[0] = max(len(row[0]) for row in rows)
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, wide, strict=False)]
        stream.write("  ".join(cells).rstrip() + "\n")
