"""Plot style and shared plots: confusion matrix, image grid, reliability diagram, mistakes."""

import io
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from PIL import Image, ImageDraw, ImageFont

from signlang.arrays import Ints
from signlang.metrics.classification import Predictions, Reliability, confusion_matrix
from signlang.reporting.formatting import percent

INK: Final = "#3b4048"
RIM: Final = "#c8ccd2"
GRID: Final = "#e4e7eb"
BLUE: Final = "#2563a8"
# distinguishable with all kinds of colour vision: Okabe and Ito 2008, light ones darkened for lines
COLOURS: Final = (BLUE, "#d55e00", "#008060", "#a0508a")
DPI: Final = 120


def new_axes(height: float, width: float = 5.4) -> tuple[Figure, Axes]:
    """Create a figure with one panel; sizes in inches."""
    figure = new_figure(width, height)
    panel = figure.add_subplot()
    style_axes(panel)
    return figure, panel


def new_figure(width: float, height: float) -> Figure:
    """Create a figure without panels; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def style_axes(panel: Axes) -> None:
    """Apply the common style to a panel."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(RIM)
    panel.tick_params(which="both", colors=INK, length=0, labelsize=11)
    panel.title.set(color=INK, size=11)
    for axis in (panel.xaxis, panel.yaxis):
        axis.label.set(color=INK, size=11)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)


def literal_text(text: str, most: int = 40) -> str:
    r"""Prepare a name for matplotlib: as `one_line`, and no mathematics.

    >>> literal_text("US$")
    'US\\$'
    """
    return one_line(text, most).replace("$", r"\$")


def one_line(text: str, most: int = 40) -> str:
    r"""Shorten a name to one line without undecodable bytes.

    Args:
        text: The name.
        most: Largest number of characters; the middle of a longer name is replaced by an ellipsis.

    >>> one_line("a\nb"), one_line("\udcff"), one_line("abcdefgh", most=5)
    ('a b', '?', 'ab…gh')
    """
    text = " ".join(text.encode("utf-8", errors="replace").decode().split())
    if len(text) > most:
        text = text[: most // 2] + "…" + text[len(text) - (most - 1) // 2 :]
    return text


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as PNG, reproducibly."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


WRITTEN: Final = 60  # classes; a larger matrix has colours only, no numbers
LARGE: Final = 15  # classes; a larger matrix has lines between them
COLUMNS: Final = 6  # of an image grid
CELL: Final = (1.55, 2.15)  # width and height of an image with its title, in inches
IMAGE: Final = 1.45  # larger of its width and height, in inches
MARGIN: Final = 0.05  # inches


def matrix_figure(counts: Ints, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix: blue on the diagonal, orange mistakes, with numbers.

    Args:
        counts: (classes, classes), see `confusion_counts`.
        classes: Names of rows and columns.
    """
    size = len(classes)
    inches = min(max(4.6, 0.34 * size + 1.6), 24.0)
    figure = new_figure(inches, inches)
    panel = figure.add_subplot()
    style_axes(panel)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    diagonal = np.eye(size, dtype=np.bool_)
    mistakes = np.ma.masked_where(diagonal | (counts == 0), counts)
    largest = max(1, int(mistakes.max())) if mistakes.count() else 1
    panel.imshow(np.ma.masked_where(~diagonal, shares), cmap="Blues", vmin=0, vmax=1.3)
    panel.imshow(mistakes, cmap="Oranges", vmin=-0.12 * largest, vmax=1.1 * largest)
    if size <= WRITTEN:
        longest = len(str(counts.max()))
        for row, column in zip(*np.nonzero(counts), strict=True):
            is_dark = shares[row, row] > 0.7 if row == column else counts[row, column] > largest / 2
            panel.text(
                column, row, str(counts[row, column]), ha="center", va="center",
                color="white" if is_dark else "black", fontsize=min(9.0, 30 / longest),
            )  # fmt: skip
    names = [literal_text(name, 16) for name in classes]
    label_size = 9.5 if size <= WRITTEN else 5
    rotation = 90 if max(map(len, names)) > 2 else 0
    panel.set_xticks(range(size), names, rotation=rotation, fontsize=label_size)
    panel.set_yticks(range(size), names, fontsize=label_size)
    panel.set_xlabel("taken for")
    panel.set_ylabel("is")
    panel.grid(visible=False)
    if size > LARGE:  # the eye needs lines to follow, and names at both ends of them
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_ticks(np.arange(size + 1) - 0.5, minor=True)
        panel.grid(which="minor", color=GRID, linewidth=0.8)
        panel.tick_params(labeltop=True, labelright=True)
    return figure


def image_grid(images: Iterable[npt.NDArray[Any] | None], titles: Sequence[str]) -> Figure:
    """Draw images in a grid, each below its title.

    All share one panel, whose coordinates are inches from its upper left corner: with a panel for
    each image, drawing takes twice as long.

    Args:
        images: (M,) of (h, w, 3) bytes; None for an unreadable one.
        titles: (M,) of at most three lines.
    """
    grid_rows = -(-len(titles) // COLUMNS)
    size = CELL[0] * COLUMNS, CELL[1] * grid_rows
    figure = Figure(figsize=size, facecolor="white")
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set_axis_off()
    for position, (image, title) in enumerate(zip(images, titles, strict=True)):
        left = CELL[0] * (position % COLUMNS) + MARGIN
        top = CELL[1] * (position // COLUMNS + 1) - MARGIN - IMAGE
        panel.text(left, top - MARGIN, title, fontsize=9, color=INK, va="bottom")
        if image is None:
            panel.text(left + IMAGE / 2, top + IMAGE / 2, "cannot be read", ha="center",
                       va="center", color=INK, fontsize=9)  # fmt: skip
        else:
            height, width, _ = image.shape
            scale = IMAGE / max(height, width)
            extent = (left, left + width * scale, top + height * scale, top)
            panel.imshow(image, extent=extent, aspect="auto")
    panel.set(xlim=(0, size[0]), ylim=(size[1], 0))
    return figure


SHEET_IMAGE: Final = 112  # larger of width and height of an image of a contact sheet, in pixels
SHEET_LINE: Final = 14  # height of a line of its text
SHEET_GAP: Final = 6


def contact_sheet(
    heading: str, images: Sequence[npt.NDArray[np.uint8]], titles: Sequence[Sequence[str]]
) -> Image.Image:
    """Draw small images under a heading, each above its title, without matplotlib.

    That takes milliseconds, where `image_grid` takes a second: it is drawn while a network trains.

    Args:
        heading: One line.
        images: (M,) of (h, w, 3) bytes.
        titles: (M,) lines of each.
    """
    longest = max((len(lines) for lines in titles), default=0)
    width, height = SHEET_IMAGE + SHEET_GAP, SHEET_IMAGE + SHEET_LINE * longest + 2 * SHEET_GAP
    top = SHEET_LINE + 2 * SHEET_GAP
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + SHEET_GAP, top + rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), _sheet_font()
    draw.text((SHEET_GAP, SHEET_GAP), heading, fill=INK, font=font)
    for number, (pixels, lines) in enumerate(zip(images, titles, strict=True)):
        x, y = SHEET_GAP + number % COLUMNS * width, top + number // COLUMNS * height
        scale = SHEET_IMAGE / max(pixels.shape[:2])
        size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
        sheet.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), (x, y))
        draw.text((x, y + SHEET_IMAGE + 2), "\n".join(lines), fill=INK, font=font, spacing=2)
    return sheet


@cache
def _sheet_font() -> ImageFont.FreeTypeFont:
    """The font of the figures, which knows far more letters than Pillow's own."""
    file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(file, 11, layout_engine=ImageFont.Layout.BASIC)  # twice as fast


ORANGE: Final = COLOURS[1]
FEW: Final = 10  # images; the accuracy of a bin with fewer is drawn in a lighter colour


def confusion_figure(predictions: Predictions) -> Figure:
    """Draw the confusion matrix of predictions."""
    return matrix_figure(confusion_matrix(predictions), predictions.classes)


def reliability_figure(diagram: Reliability) -> Figure:
    """Draw accuracy against confidence, above a histogram of the confidences."""
    figure = new_figure(5.4, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    middle, width = (diagram.edges[:-1] + diagram.edges[1:]) / 2, np.diff(diagram.edges)
    for panel in (upper, lower):
        style_axes(panel)
    style = {"edgecolor": "white", "linewidth": 1.0}
    for images, shade, label in (
        (diagram.count >= FEW, "#7da7d4", "accuracy"),
        (
            (diagram.count > 0) & (diagram.count < FEW),
            "#b5cbe3",
            f"accuracy (fewer than {FEW} images)",
        ),
    ):
        if images.any():
            upper.bar(
                middle[images], diagram.accuracy[images], width[images], color=shade,
                label=label, **style,
            )  # fmt: skip
    upper.plot([0, 1], [0, 1], color=INK, linestyle="--", label="accuracy = confidence")
    upper.plot(
        diagram.confidence, diagram.accuracy, "o", color=ORANGE, markersize=5,
        markeredgecolor="white", label="mean confidence", zorder=3, clip_on=False,
    )  # fmt: skip
    upper.set_ylim(0, 1.03)
    upper.set_xlim(0, 1)
    upper.set_ylabel("accuracy")
    upper.set_title(f"calibration error {diagram.error:.4f}")
    lower.bar(middle, diagram.count, width, color=BLUE, **style)
    lower.set_yscale("log")
    lower.set_ylim(bottom=0.8)
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lower.yaxis.set_minor_formatter(NullFormatter())
    lower.set_ylabel("images")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=10)
    lower.set_xlabel("confidence")
    return figure


def mistakes_figure(
    predictions: Predictions, rows: Sequence[int], images: Sequence[Image.Image | None]
) -> Figure:
    """Draw wrongly predicted images with label, prediction and confidence.

    Args:
        predictions: All predictions.
        rows: (M,) rows of the images.
        images: (M,) None for an unreadable one.
    """
    titles = [
        f"is {literal_text(predictions.classes[predictions.labels[row]], 14)}\n"
        f"taken for {literal_text(predictions.classes[predictions.predicted[row]], 9)}\n"
        f"{percent(float(predictions.confidence[row]))} sure"
        for row in rows
    ]
    return image_grid([None if image is None else np.asarray(image) for image in images], titles)
