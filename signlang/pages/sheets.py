"""Pictures, or what they were taken for, come in; a contact sheet or a matrix goes out."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from signlang.pages.drawing import INK, dress, empty, plain

Ints = npt.NDArray[np.int64]
WRITTEN: Final = 60  # classes; of more, a matrix shows colours only
COLUMNS: Final = 6  # of a sheet of pictures, and what follows in inches
CELL: Final = (1.55, 2.15)  # width and height of a picture with its title
PICTURE: Final = 1.45  # its longer side
MARGIN: Final = 0.05


def counts(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """(classes, classes) pictures of the class of a row taken for that of a column.

    >>> counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def matrix(counted: Ints, classes: Sequence[str]) -> Figure:
    """Draw what was taken for what: blue on the diagonal, mistakes orange, in numbers.

    Args:
        counted: See `counts`.
        classes: Names of rows and columns.
    """
    size = len(classes)
    side = min(max(4.6, 0.34 * size + 1.6), 24.0)
    figure = empty(side, side)
    panel = figure.add_subplot()
    dress(panel)
    shares = counted / np.maximum(counted.sum(1, keepdims=True), 1)
    right = np.eye(size, dtype=np.bool_)
    mistakes = np.ma.masked_where(right | (counted == 0), counted)
    largest = max(1, int(mistakes.max())) if mistakes.count() else 1
    panel.imshow(np.ma.masked_where(~right, shares), cmap="Blues", vmin=0, vmax=1.3)
    panel.imshow(mistakes, cmap="Oranges", vmin=-0.12 * largest, vmax=1.1 * largest)
    if size <= WRITTEN:
        longest = len(str(counted.max()))
        for row, column in zip(*np.nonzero(counted), strict=True):
            strong = shares[row, row] > 0.7 if row == column else counted[row, column] > largest / 2
            panel.text(
                column, row, str(counted[row, column]), ha="center", va="center",
                color="white" if strong else "black", fontsize=min(9.0, 30 / longest),
            )  # fmt: skip
    names = [plain(name, 16) for name in classes]
    small = 9.5 if size <= WRITTEN else 5
    turned = 90 if max(map(len, names)) > 2 else 0
    panel.set_xticks(range(size), names, rotation=turned, fontsize=small)
    panel.set_yticks(range(size), names, fontsize=small)
    panel.set_xlabel("taken for")
    panel.set_ylabel("is")
    panel.grid(visible=False)
    return figure


def sheet(images: Iterable[npt.NDArray[Any] | None], titles: Sequence[str]) -> Figure:
    """Draw pictures in rows, each below its title.

    All share one panel, whose coordinates are inches from its upper left corner: with a panel for
    each picture, drawing takes twice as long.

    Args:
        images: (M,) of (h, w, 3) bytes; None for one that cannot be read any more.
        titles: (M,) of at most three lines.
    """
    lines = -(-len(titles) // COLUMNS)
    size = CELL[0] * COLUMNS, CELL[1] * lines
    figure = Figure(figsize=size, facecolor="white")
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set_axis_off()
    for position, (image, title) in enumerate(zip(images, titles, strict=True)):
        left = CELL[0] * (position % COLUMNS) + MARGIN
        top = CELL[1] * (position // COLUMNS + 1) - MARGIN - PICTURE
        panel.text(left, top - MARGIN, title, fontsize=9, color=INK, va="bottom")
        if image is None:
            panel.text(left + PICTURE / 2, top + PICTURE / 2, "cannot be read", ha="center",
                       va="center", color=INK, fontsize=9)  # fmt: skip
        else:
            height, width, _ = image.shape
            scale = PICTURE / max(height, width)
            extent = (left, left + width * scale, top + height * scale, top)
            panel.imshow(image, extent=extent, aspect="auto")
    panel.set(xlim=(0, size[0]), ylim=(size[1], 0))
    return figure
