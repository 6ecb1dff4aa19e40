"""Boxes around hands, as annotations give them, and the crops that images are cut to.

A box is of pixels or of shares of the upright image. With the size of the image and a margin it
becomes a crop, whole pixels inside the image, which is what every reader of images works with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from signlang.errors import DataError
from signlang.files import read_table

MARGIN: Final = 0.1  # default of `data.box_margin`
# columns of a table that hold a box: its corner and size or two corners in pixels, or its centre
# and size as shares of the image
CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")
PIXELS: Final = ("x", "y", "width", "height")
SHARES: Final = ("x_center", "y_center", "width", "height")
COLUMNS: Final = (CORNERS, SHARES, PIXELS)
RESIZED: Final = 0.02  # by which the shape may differ from that of the image a box was drawn on
TOLERANCE: Final = 0.001  # by which a rounded share may exceed 1


class BadBoxError(ValueError):
    """A box that cannot be used; the text says why, without the name of the image."""


class Crop(NamedTuple):
    """A part of an upright image, in whole pixels; right and bottom are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    def __str__(self) -> str:
        """As `data.csv` holds it.

        >>> str(Crop(0, 5, 40, 45))
        '0 5 40 45'
        """
        return " ".join(map(str, self))

    @classmethod
    def parsed(cls, text: str) -> "Crop | None":
        """Read a crop as `data.csv` holds it; None if the image is whole.

        Raises:
            ValueError: If it is none.

        >>> Crop.parsed("0 5 40 45"), Crop.parsed("")
        (Crop(left=0, top=5, right=40, bottom=45), None)
        """
        if not text:
            return None
        left, top, right, bottom = map(int, text.split())
        if not (0 <= left < right and 0 <= top < bottom):
            raise ValueError(f"{text} is no crop")
        return cls(left, top, right, bottom)


@dataclass(frozen=True)
class Box:
    """A box around a hand.

    Attributes:
        x: Its left end.
        y: Its upper end.
        width: Its width.
        height: Its height.
        shares: Whether these are shares of the image; pixels otherwise.
        label: Class that the annotation gives it; empty if none.
        size: Width and height of the image that it was drawn on, in pixels; None if not known.
    """

    x: float
    y: float
    width: float
    height: float
    shares: bool = False
    label: str = ""
    size: tuple[int, int] | None = None

    @property
    def area(self) -> float:
        """Its area; nan if it is none."""
        return self.width * self.height

    def crop(self, width: int, height: int, margin: float) -> Crop:
        """The part of an image that it holds.

        Args:
            width: Of the upright image, in pixels.
            height: Likewise.
            margin: What is added on each side, as a share of the width or height of the box.

        Raises:
            BadBoxError: If it is none, or not of this image.

        >>> Box(0.5, 0.25, 0.5, 0.5, shares=True).crop(100, 80, 0.1)
        Crop(left=45, top=16, right=100, bottom=64)
        """
        self._check(width, height)
        across, down = (float(width), float(height)) if self.shares else (1.0, 1.0)
        if self.size is not None:  # the image may have been resized since
            across, down = width / self.size[0], height / self.size[1]
        left, right = self.x * across, (self.x + self.width) * across
        top, bottom = self.y * down, (self.y + self.height) * down
        if min(right, width) - max(left, 0) < 1 or min(bottom, height) - max(top, 0) < 1:
            raise BadBoxError(
                f"its box ({left:.0f} to {right:.0f} across, {top:.0f} to {bottom:.0f} down) holds "
                f"no pixel of its {width} x {height}"
            )
        beside, above = margin * (right - left), margin * (bottom - top)
        return Crop(
            max(0, round(left - beside)),
            max(0, round(top - above)),
            min(width, round(right + beside)),
            min(height, round(bottom + above)),
        )

    def _check(self, width: int, height: int) -> None:
        numbers = (self.x, self.y, self.width, self.height)
        if not all(map(math.isfinite, numbers)) or self.width <= 0 or self.height <= 0:
            raise BadBoxError("its box has no area")
        if self.shares and max(self.width, self.height) > 1 + TOLERANCE:
            raise BadBoxError("its box is larger than the image: shares are from 0 to 1")
        if self.size is not None:
            drawn_ratio, ratio = self.size[0] / self.size[1], width / height
            if not 1 - RESIZED < drawn_ratio / ratio < 1 + RESIZED:
                raise BadBoxError(
                    f"its box was drawn on {self.size[0]} x {self.size[1]} pixels, of another "
                    f"shape than its {width} x {height}"
                )


def centred(x: float, y: float, width: float, height: float, label: str = "") -> Box:
    """A box of shares by its centre, as YOLO writes them."""
    return Box(x - width / 2, y - height / 2, width, height, shares=True, label=label)


def box_columns(columns: Sequence[str]) -> tuple[str, ...] | None:
    """The columns of a table that hold a box; None if there are none.

    >>> box_columns(["path", "x", "y", "width", "height"])
    ('x', 'y', 'width', 'height')
    >>> box_columns(["path", "width", "height"]) is None
    True
    """
    return next((names for names in COLUMNS if set(names) <= set(columns)), None)


def box_of_row(file: Path, line: int, row: dict[str, str], columns: tuple[str, ...]) -> Box | None:
    """The box in a row of a table; None where its columns are empty.

    Raises:
        DataError: If it holds something else than numbers.
    """
    texts = [row[name] for name in columns]
    if not any(texts):
        return None
    try:
        a, b, c, d = (float(text.replace(",", ".")) for text in texts)
        size = (
            (int(row["width"]), int(row["height"]))
            if columns == CORNERS and "width" in row
            else None
        )
    except (ValueError, KeyError):
        raise DataError(
            f"{file}, line {line}: {','.join(columns)} must be four numbers; they are "
            f"{','.join(texts)}."
        ) from None
    label = row.get("label", "")
    if columns == SHARES:
        return centred(a, b, c, d, label)
    if columns == CORNERS:
        return Box(a, b, c - a, d - b, label=label, size=size)
    return Box(a, b, c, d, label=label)


def read_box_table(file: Path) -> dict[str, list[Box]]:
    """Read a CSV file of boxes: the boxes of each path.

    It has a column `path`, and `x,y,width,height` or `xmin,ymin,xmax,ymax` in pixels, or
    `x_center,y_center,width,height` as shares of the image. A column `label` is read as well.

    Raises:
        DataError: If it cannot be read, or has no such columns.
    """
    rows = read_table(file, required=("path",))
    columns = box_columns(list(rows[0][1])) if rows else None
    if columns is None:
        raise DataError(
            f"{file} has no boxes: beside path it needs the columns {','.join(PIXELS)} (pixels), "
            f"{','.join(CORNERS)} (pixels) or {','.join(SHARES)} (shares of the image)."
        )
    boxes_by_path: dict[str, list[Box]] = {}
    for line, row in rows:
        box = box_of_row(file, line, row, columns)
        if box is not None:
            boxes_by_path.setdefault(row["path"], []).append(box)
    check_pixels(file, [box for boxes in boxes_by_path.values() for box in boxes])
    return boxes_by_path


def check_pixels(file: Path, boxes: Sequence[Box]) -> None:
    """Refuse boxes in pixels of which none is larger than one: they are shares.

    Raises:
        DataError: Names the columns that shares are written in.
    """
    if boxes and all(not b.shares and max(b.x, b.y, b.width, b.height) <= 1 for b in boxes):
        raise DataError(
            f"{file}: no box is larger than one pixel. Shares of the image are written in columns "
            f"{','.join(SHARES)}."
        )
