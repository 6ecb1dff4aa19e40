"""Parity check between a run and its bundle, on test images and synthetic files.

The run sees images as in training: decoded, resized by PIL, classified by torch. The bundle sees
them as in service: its graph gets them in their own size.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from signlang.arrays import AnyFloats, Pixels
from signlang.console import track
from signlang.data.image_io import batched, decode, read_image, resize_batch, resize_image
from signlang.deploy.onnx_export import PROGRAM
from signlang.errors import BundleError, DataError
from signlang.hands.hand_input import HandInput, prepared
from signlang.inference.onnx_model import OnnxModel
from signlang.metrics.calibration import apply_temperature
from signlang.runs import trained_run
from signlang.runs.trained_run import Rows, RunImages, TrainedRun

ROTATED: Final = 0x0112  # EXIF 2.32: the orientation


def synthetic_files(size: int, seed: int = 0) -> dict[str, bytes]:
    """Draw images of noise and of gradients, as JPEG and PNG.

    Args:
        size: The network's image size, which some of them have.
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

    grey16 = Image.fromarray(rng.integers(0, 1 << 16, (41, 73), dtype=np.uint16))
    palette = noise(60, 45).quantize(32)
    builders: dict[str, Callable[[], bytes]] = {
        "one pixel": lambda: _png(noise(1, 1)),
        "one row": lambda: _png(noise(333, 1)),
        "one column": lambda: _png(noise(1, 333)),
        "the network's size": lambda: _png(noise(size, size)),
        "a little larger": lambda: _png(noise(size + 1, size + 3)),
        "wide": lambda: _png(ramp(640, 97)),
        "tall": lambda: _png(noise(97, 411)),
        "a photograph's size": lambda: _jpeg(ramp(1280, 960)),
        "turned by EXIF": lambda: _jpeg(ramp(120, 80), orientation=6),
        "mirrored by EXIF": lambda: _jpeg(ramp(80, 121), orientation=5),
        "grey": lambda: _png(noise(50, 70, "L")),
        "grey of 16 bits": lambda: _png(grey16),
        "transparent": lambda: _png(noise(64, 33, "RGBA")),
        "grey and transparent": lambda: _png(noise(33, 64, "LA")),
        "of a palette": lambda: _png(palette),
        "of a palette with a transparent colour": lambda: _png(palette, transparency=3),
        "CMYK": lambda: _jpeg(ramp(90, 60).convert("CMYK")),
    }
    return {name: draw() for name, draw in builders.items()}


def _png(image: Image.Image, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def _jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[ROTATED] = orientation
    image.save(stream, "JPEG", quality=92, exif=exif)
    return stream.getvalue()


TOLERANCE: Final = 1e-4  # of a probability
CHANGED_LABELS: Final = (
    0.01  # share of other predictions than the run recorded, which rounding explains
)
NamedImage = tuple[str, bytes]  # name and file of an image


@dataclass(frozen=True)
class Parity:
    """How well run and bundle agree.

    Attributes:
        images: Of the test fold.
        drawn: Others.
        largest_difference: Of a probability.
    """

    images: int
    drawn: int
    largest_difference: float


def verify_parity(
    run: TrainedRun,
    network: OnnxModel,
    images: RunImages | None,
    most: int,
    program: Path | None = None,
    hands: HandInput | None = None,
) -> Parity:
    """Compare the probabilities of a run with those of the models exported from it.

    Args:
        run: The run.
        network: The ONNX model of full precision.
        images: The run's images, if they are to be used.
        most: How many of its test fold.
        program: File of `torch.export`, if there is one.
        hands: What the network sees of an image; None: the whole image.

    Raises:
        BundleError: If another class is the most probable one for any image, or a probability
            differs by more than 1e-4.
        DataError: If images are not there any more.
    """
    rows: Rows = trained_run.evenly_spaced(run.subset("test"), most) if images else []
    drawn = synthetic_files(run.image_sizes[0])
    groups: list[Iterator[NamedImage]] = [iter(drawn.items())]
    if images:
        files = ((path, images.read(path)) for path, _ in rows)
        groups.append(track(files, "comparing run and bundle", len(rows)))
    loaded = None if program is None else torch.export.load(program).module()
    largest = 0.0
    for source in groups:
        for batch in batched(source, trained_run.BATCH):
            largest = max(largest, _compare_batch(run, network, loaded, batch, hands))
    return Parity(len(rows), len(drawn), largest)


def _compare_batch(
    run: TrainedRun,
    network: OnnxModel,
    program: Any,
    images: list[NamedImage],
    hands: HandInput | None,
) -> float:
    names = [name for name, _ in images]
    inputs = [prepared(decode(data), hands) for _, data in images]
    batch = np.stack([resized_image(run, image) for image in inputs])
    expected = reference_probabilities(run, batch)
    files = [data for _, data in images]
    service_images = (
        map(read_image, files) if hands is None else (np.asarray(one) for one in inputs)
    )
    actual = np.concatenate(list(_batches_of_one_size(network, service_images)))
    worst = largest_difference(expected, actual, names, "the bundle")
    if program is not None:
        with torch.inference_mode():
            actual = program(torch.from_numpy(batch)).numpy()
        worst = max(worst, largest_difference(expected, actual, names, PROGRAM))
    return worst


def resized_image(run: TrainedRun, image: Image.Image) -> Pixels:
    """Resize an image for the network, as in training."""
    first = resize_image(image, run.image_sizes[0])
    last: Pixels = resize_batch(first[None], *run.image_sizes[1:])[0]
    return last


def reference_probabilities(run: TrainedRun, batch: Pixels) -> AnyFloats:
    """(n, classes) calibrated probabilities of the run's own network, or networks, by torch."""
    images = torch.from_numpy(batch)
    with torch.inference_mode():
        each: list[AnyFloats] = [
            (member.classifier(images) / member.calibration.temperature).double().softmax(1).numpy()
            for member in run.members
        ]
    if len(each) == 1:
        return each[0]
    return apply_temperature(np.mean(each, axis=0), run.calibration.temperature)


def largest_difference(
    expected: AnyFloats, actual: AnyFloats, names: Iterable[str], kind: str
) -> float:
    """The largest difference of a probability, if it is small enough.

    Args:
        expected: (n, classes) by the run.
        actual: (n, classes) by the bundle or program.
        names: Of the images.
        kind: Name of the bundle or program, for errors.

    Raises:
        BundleError: Names the image that differs most.

    >>> run, bundle = np.array([[0.9, 0.1]]), np.array([[0.90004, 0.09996]])
    >>> largest_difference(run, bundle, ["a"], "b") < TOLERANCE
    True
    """
    differences = np.abs(expected - actual).max(1)
    differences = np.where(np.isfinite(actual).all(1), differences, np.inf)
    # of two classes that are equally probable, either may come first
    of_predicted = np.take_along_axis(expected, actual.argmax(1)[:, None], 1)[:, 0]
    is_changed = expected.max(1) - of_predicted > 2 * TOLERANCE
    worst = int(np.argmax(differences + is_changed))
    if is_changed.any() or differences[worst] > TOLERANCE:
        raise BundleError(
            f"The run and {kind} disagree: of {list(names)[worst]}, a probability "
            f"differs by {differences[worst]:.2g} ({int(is_changed.sum())} of {len(differences)} "
            "images get another class). No bundle was written."
        )
    return float(differences.max())


def check_unchanged(run: TrainedRun, rows: Rows, probabilities: AnyFloats) -> None:
    """Refuse images that are not those that the run was tested on.

    Args:
        run: The run.
        rows: Of its test fold.
        probabilities: (n, classes) of its bundle.

    Raises:
        DataError: If more than a hundredth are now taken for something else than then.
    """
    predictions = run.predictions
    recorded = dict(zip(predictions.paths, predictions.predicted, strict=True))
    predicted = probabilities.argmax(1)
    changed = sum(recorded[path] != label for (path, _), label in zip(rows, predicted, strict=True))
    if changed > max(CHANGED_LABELS * len(rows), 1):
        raise DataError(
            f"{changed} of the {len(rows)} test images are taken for something else than when the "
            f"run was trained (predictions.csv): they have changed. {trained_run.IMAGES_MOVED}"
        )


def _batches_of_one_size(network: OnnxModel, images: Iterable[Pixels]) -> Iterator[AnyFloats]:
    """Predict neighbours of one size in one batch."""
    batch: list[Pixels] = []
    for pixels in images:
        if batch and pixels.shape != batch[0].shape:
            yield network(np.stack(batch))
            batch = []
        batch.append(pixels)
    yield network(np.stack(batch))
