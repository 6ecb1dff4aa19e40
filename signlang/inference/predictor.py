"""Predictions for image files, folders and standard input, written as table, CSV or JSON lines."""

import csv
import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import numpy as np
from PIL import Image

from signlang.arrays import Floats32, Pixels
from signlang.console import log
from signlang.data import image_limits
from signlang.data.image_io import (
    BadImageError,
    as_images,
    batched,
    decode,
    is_image_name,
    map_in_order,
    read_bytes,
    resize_image,
)
from signlang.errors import SettingError
from signlang.hands.hand_input import HandInput
from signlang.inference.bundle import Bundle, load_bundle, load_hands
from signlang.inference.onnx_model import OnnxModel

STDIN: Final = "-"
PATTERN: Final = set("*?[")


@dataclass(frozen=True)
class ImageSource:
    """An image that is to be recognised.

    Attributes:
        name: Its path as given, or as listed below a folder; `-` for standard input.
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
    sources = [source for path in paths for source in _sources(path, stdin)]
    if not sources:
        raise SettingError(f"There is no image in {', '.join(paths)}.")
    return sources


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
    skipped, visited = 0, set()
    for directory, folders, files in os.walk(folder, followlinks=True):
        resolved = os.path.realpath(directory)
        if resolved in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(resolved)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_image_name(Path(name).suffix) and not name.startswith("."):
                yield ImageSource(str(Path(directory, name)))
            else:
                skipped += not name.startswith(".")
    if skipped:
        log.info("%s: %d files are not named like images and are passed over", folder,
                 skipped)  # fmt: skip


def _from_stdin(data: bytes) -> list[ImageSource]:
    """Take an image, or else lines of paths."""
    try:
        with image_limits.open_image(data):
            return [ImageSource(STDIN, data)]
    except Exception:  # decoders raise anything at what is no image
        if b"\0" in data:
            return [ImageSource(STDIN, data)]  # neither is it text: decoding reports the error
    lines = os.fsdecode(data).splitlines()
    return [ImageSource(line.strip()) for line in lines if line.strip()]


UNKNOWN: Final = "unknown"
HAND: Final = {None: "", True: "found", False: "not found"}  # words of a table


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: Its name; empty for an image that was no file.
        top_k: The most probable classes with their probabilities, the most probable first; empty
            for an image that cannot be used.
        unknown: Whether the probability of the first of them is below the reject threshold.
        error: Why the image cannot be used, or nothing.
        hand: Whether a hand was found; None where the bundle does not look for one.
    """

    path: str
    top_k: tuple[tuple[str, float], ...] = ()
    unknown: bool = False
    error: str = ""
    hand: bool | None = None

    @property
    def guess(self) -> str:
        """The most probable class, however improbable; empty for a bad image."""
        return self.top_k[0][0] if self.top_k else ""

    @property
    def label(self) -> str:
        """The most probable class, or `unknown`; empty for a bad image."""
        return UNKNOWN if self.unknown else self.guess

    @property
    def confidence(self) -> float:
        """Probability of the most probable class; nan for a bad image."""
        return self.top_k[0][1] if self.top_k else float("nan")


@dataclass(frozen=True, eq=False)
class Predictor:
    """A bundle with its model and the settings of its predictions.

    Attributes:
        bundle: The bundle.
        model: Its model.
        threshold: Predictions of a lower probability are unknown; 0 accepts all.
        top: Classes of a prediction.
        batch_size: Images of one call of the model.
        workers: Threads that decode.
        hands: What the network sees of an image; None: the whole image.
    """

    bundle: Bundle
    model: OnnxModel
    threshold: float
    top: int = 3
    batch_size: int = 64
    workers: int = 1
    hands: HandInput | None = None

    @classmethod
    def from_bundle(
        cls,
        path: Path,
        *,
        precision: str = "fp32",
        device: str = "cpu",
        threshold: float | None = None,
        top: int = 3,
        batch_size: int = 64,
        workers: int = 1,
    ) -> "Predictor":
        """Load a bundle.

        Args:
            path: A folder or ZIP file that `signlang.export` wrote.
            precision: `fp32`, or `int8` where the bundle holds such a model.
            device: `cpu` or `cuda`.
            threshold: Of rejection; None takes the bundle's own, or
                `metrics.calibration.FALLBACK_THRESHOLD` if it has none.
            top: Classes of a prediction, at most all.
            batch_size: Images of one call of the model.
            workers: Threads that decode and compute.

        Raises:
            BundleError: If it is missing, damaged, or has no such model.
            SettingError: If onnxruntime is not installed, or the device is not there.
        """
        bundle = load_bundle(path)
        model = OnnxModel.from_bundle(bundle, precision, device, workers)
        if threshold is None:
            threshold = bundle.threshold
        top = min(top, len(bundle.classes))
        return cls(bundle, model, threshold, top, batch_size, workers, load_hands(bundle))

    def predict(self, images: Any) -> list[Prediction]:
        """Predict the signs in images.

        Args:
            images: One image or many; see `data.image_io.as_images` for the forms: paths, PIL
                images, uint8 arrays (N, H, W, 3), float arrays or tensors (N, 3, H, W).

        Returns:
            One prediction per image, in order.

        Raises:
            ValueError: If an array has another shape, type or range; names the expected one.
            BadImageError: If a file cannot be read or decoded.
        """
        size = self.bundle.image_sizes[0]
        inputs = [self._network_input(Image.fromarray(image)) for image in as_images(images)]
        pixels = [(resize_image(image, size), has_hand) for image, has_hand in inputs]
        names = _names(images, len(pixels))
        return [
            prediction
            for batch in batched(
                ((name, *one) for name, one in zip(names, pixels, strict=True)), self.batch_size
            )
            for prediction in self._predict_batch(batch)
        ]

    def stream(self, sources: Iterable[ImageSource]) -> Iterator[Prediction]:
        """Predict image files as they are read, in order; a bad one has its error as prediction.

        Threads decode and resize images while the model computes others.
        """
        images = map_in_order(self._read, sources, self.workers, ahead=2 * self.batch_size)
        for batch in batched(images, self.batch_size):
            yield from self._predict_batch(batch)

    def _network_input(self, image: Image.Image) -> tuple[Image.Image, bool]:
        """What the network sees of an image, and whether that is by a hand that was found."""
        if self.hands is None:
            return image, True
        network_input, hand = self.hands(image)
        return network_input, hand is not None

    def _read(self, source: ImageSource) -> tuple[str, Pixels | str, bool]:
        try:
            data = read_bytes(Path(source.name)) if source.data is None else source.data
            image, has_hand = self._network_input(decode(data))
            return source.name, resize_image(image, self.bundle.image_sizes[0]), has_hand
        except BadImageError as error:
            return source.name, str(error), True
        except ValueError as error:  # a name with a null byte
            return source.name, f"no such file ({error})", True

    def _predict_batch(
        self, batch: Sequence[tuple[str, Pixels | str, bool]]
    ) -> Iterator[Prediction]:
        """Predict images of one size; where an error stands instead of pixels, pass it on."""
        usable = [pixels for _, pixels, _ in batch if not isinstance(pixels, str)]
        probabilities = iter(self.model(np.stack(usable)) if usable else ())
        for name, pixels, has_hand in batch:
            if isinstance(pixels, str):
                yield Prediction(name, error=pixels)
            else:
                yield self._prediction(name, next(probabilities), has_hand)

    def _prediction(self, name: str, probabilities: Floats32, has_hand: bool) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")[: self.top]
        top_k = tuple((self.bundle.classes[k], float(probabilities[k])) for k in order)
        unknown = top_k[0][1] < self.threshold
        return Prediction(name, top_k, unknown, hand=None if self.hands is None else has_hand)


def _names(images: Any, count: int) -> list[str]:
    """Paths of images that were given as paths, else nothing."""
    if isinstance(images, str | os.PathLike):
        return [str(images)]
    if isinstance(images, Sequence) and len(images) == count:
        return [str(one) if isinstance(one, str | os.PathLike) else "" for one in images]
    return [""] * count


def write_csv(
    predictions: Iterable[Prediction], stream: TextIO, top: int, hands: bool = False
) -> None:
    """Write path,label,guess,confidence,guess_2,confidence_2,...,error as they come.

    Args:
        predictions: The predictions.
        stream: Where to.
        top: Classes of a prediction.
        hands: Whether a last column says if a hand was found.
    """
    writer = csv.writer(stream, lineterminator="\n")
    guesses = [f"{word}_{rank}" for rank in range(2, top + 1) for word in ("guess", "confidence")]
    hand_header = ["hand"] * hands
    writer.writerow(["path", "label", "guess", "confidence", *guesses, "error", *hand_header])
    for prediction in predictions:
        pairs = [[name, f"{share:.6f}"] for name, share in prediction.top_k]
        cells = list(chain(*pairs)) or [""] * 2 * top
        hand_cells = [HAND[prediction.hand]] * hands
        writer.writerow([prediction.path, prediction.label, *cells, prediction.error, *hand_cells])


def write_jsonl(
    predictions: Iterable[Prediction], stream: TextIO, top: int, hands: bool = False
) -> None:
    """Write one JSON object a line, as they come."""
    for prediction in predictions:
        ranked = [{"class": name, "probability": round(p, 6)} for name, p in prediction.top_k]
        row = {
            "path": prediction.path,
            "label": prediction.label or None,
            "guess": prediction.guess or None,
            "confidence": ranked[0]["probability"] if ranked else None,
            "top": ranked,
            "error": prediction.error or None,
        }
        if hands:
            row["hand"] = prediction.hand
        stream.write(json.dumps(row) + "\n")


def write_table(
    predictions: Iterable[Prediction], stream: TextIO, top: int, hands: bool = False
) -> None:
    """Write aligned columns for people, once all predictions are there.

    On a terminal that is too narrow for them each path has a line of its own.
    """
    rows = [["path", "label", "confidence", *(f"{rank}." for rank in range(2, top + 1))]]
    rows[0] += ["hand"] * hands
    for prediction in predictions:
        others = [f"{name} {share:.4f}" for name, share in prediction.top_k[1:]]
        label = f"{UNKNOWN} ({prediction.guess}?)" if prediction.unknown else prediction.label
        others += [HAND[prediction.hand]] * hands
        rows.append(
            [prediction.path, "-", prediction.error]
            if prediction.error
            else [prediction.path, label, f"{prediction.top_k[0][1]:.4f}", *others]
        )
    # sentences of errors, in the third place, run over what follows
    usable = [row for row in rows if row[1] != "-"]
    widths = [max(map(len, column)) for column in zip(*usable, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    narrow = shutil.get_terminal_size().columns < sum(widths) + 2 * (len(widths) - 1)
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        if narrow and stream.isatty():
            cells = [f"{row[0]}\n", *cells[1:]]
        stream.write("  ".join(cells).rstrip() + "\n")
