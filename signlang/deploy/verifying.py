"""A run and the bundle made of it come in; that both say the same of pictures is found, or refused.

The run sees pictures as in training: decoded, squeezed by PIL, judged by torch. The bundle sees
them as in service: its graph gets them in their own size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from signlang.console import track
from signlang.data.pictures import decode, resized, squeezed
from signlang.data.streaming import batches
from signlang.deploy import drawn, material
from signlang.deploy.bundle import Bundle, Network, read_picture
from signlang.deploy.exporting import PROGRAM
from signlang.deploy.finished import Finished
from signlang.deploy.material import Material, Rows
from signlang.errors import BundleError, DataError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]
TOLERANCE: Final = 1e-4  # of a probability
CHANGED: Final = 0.01  # share of other predictions than the run recorded, which rounding explains
Shown = tuple[str, bytes]  # name and file of a picture


@dataclass(frozen=True)
class Agreement:
    """How well run and bundle agree.

    Attributes:
        pictures: Of the test fold.
        drawn: Others.
        largest_difference: Of a probability.
    """

    pictures: int
    drawn: int
    largest_difference: float


def verified(run: Finished, bundle: Bundle, found: Material | None, most: int) -> Agreement:
    """Show pictures to run and bundle.

    Args:
        run: The run.
        bundle: What was made of it.
        found: The run's pictures, if they are to be used.
        most: How many of its test fold.

    Raises:
        BundleError: If another class is the most probable one for any picture, or a probability
            differs by more than 1e-4.
        DataError: If pictures are not there any more.
    """
    network = Network(bundle)
    rows: Rows = material.evenly(run.part("test"), most) if found else []
    others = drawn.files(run.sides[0])
    shown: list[Iterator[Shown]] = [iter(others.items())]
    if found:
        files = ((path, found.read(path)) for path, _ in rows)
        shown.append(track(files, "comparing run and bundle", len(rows)))
    program = _program(bundle)
    largest = 0.0
    for pictures in shown:
        for batch in batches(pictures, material.BATCH):
            largest = max(largest, _compared(run, network, program, batch))
    return Agreement(len(rows), len(others), largest)


def _compared(run: Finished, network: Network, program: Any, shown: list[Shown]) -> float:
    names = [name for name, _ in shown]
    squares = np.stack([square(run, data) for _, data in shown])
    expected = judged(run, squares)
    answered = np.concatenate(list(_own_sizes(network, [data for _, data in shown])))
    worst = compared(expected, answered, names, "the bundle")
    if program is not None:
        with torch.inference_mode():
            answered = program(torch.from_numpy(squares)).numpy()
        worst = max(worst, compared(expected, answered, names, PROGRAM))
    return worst


def square(run: Finished, data: bytes) -> Pixels:
    """Decode a picture and bring it to the network's square, as in training."""
    first = resized(decode(data), run.sides[0])
    last: Pixels = squeezed(first[None], *run.sides[1:])[0]
    return last


def judged(run: Finished, squares: Pixels) -> Floats:
    """(n, classes) calibrated probabilities of the run's own network, by torch."""
    with torch.inference_mode():
        logits = run.classifier(torch.from_numpy(squares))
        said: Floats = (logits / run.calibration.temperature).double().softmax(1).numpy()
    return said


def compared(expected: Floats, answered: Floats, names: Iterable[str], who: str) -> float:
    """The largest difference of a probability, if it is small enough.

    Args:
        expected: (n, classes) by the run.
        answered: (n, classes) by what was made of it.
        names: Of the pictures.
        who: Answered.

    Raises:
        BundleError: Names the picture that differs most.

    >>> compared(np.array([[0.9, 0.1]]), np.array([[0.90004, 0.09996]]), ["a"], "b") < TOLERANCE
    True
    """
    apart = np.abs(expected - answered).max(1)
    apart = np.where(np.isfinite(answered).all(1), apart, np.inf)
    # of two classes that are equally probable, either may come first
    first = np.take_along_axis(expected, answered.argmax(1)[:, None], 1)[:, 0]
    other = expected.max(1) - first > 2 * TOLERANCE
    worst = int(np.argmax(apart + other))
    if other.any() or apart[worst] > TOLERANCE:
        raise BundleError(
            f"The run and {who} made of it disagree: of {list(names)[worst]}, a probability "
            f"differs by {apart[worst]:.2g} ({int(other.sum())} of {len(apart)} pictures get "
            "another class). No bundle was written."
        )
    return float(apart.max())


def check_unchanged(run: Finished, rows: Rows, probabilities: Floats) -> None:
    """Refuse pictures that are not those that the run was tested on.

    Args:
        run: The run.
        rows: Of its test fold.
        probabilities: (n, classes) of its bundle.

    Raises:
        DataError: If more than a hundredth are now taken for something else than then.
    """
    told = run.predictions()
    then = dict(zip(told.paths, told.predicted, strict=True))
    now = probabilities.argmax(1)
    other = sum(then[path] != said for (path, _), said in zip(rows, now, strict=True))
    if other > max(CHANGED * len(rows), 1):
        raise DataError(
            f"{other} of the {len(rows)} test pictures are taken for something else than when the "
            f"run was made (predictions.csv): they have changed. {material.GONE}"
        )


def _own_sizes(network: Network, files: list[bytes]) -> Iterator[Floats]:
    """Neighbours of one size go together."""
    together: list[Pixels] = []
    for data in files:
        pixels = read_picture(data)
        if together and pixels.shape != together[0].shape:
            yield network(np.stack(together))
            together = []
        together.append(pixels)
    yield network(np.stack(together))


def _program(bundle: Bundle) -> Any:
    """The program of torch.export, if there is one."""
    if PROGRAM not in bundle.info["files"]:
        return None
    return torch.export.load(bundle.path / PROGRAM).module()
