"""Placement of point labels in a plot without overlaps (greedy)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke

from signlang.arrays import Floats

DISTANCES: Final = (9, 16, 26, 40, 56, 76)  # points
ANGLES: Final = (0, 180, 45, 135, 315, 225, 90, 270)  # degrees; beside a point reads best
LED: Final = 14  # points; from there on a thin line leads from the name to its point
SIZE: Final = 10.0


@dataclass(frozen=True)
class Name:
    """What stands beside a point.

    Attributes:
        text: For matplotlib.
        x: Of the point, in units of the data.
        y: Likewise.
        colour: Of the text.
    """

    text: str
    x: float
    y: float
    colour: str


def write_names(
    panel: Axes, names: Sequence[Name], lines: Sequence[Floats] = (), radius: float = 5.0
) -> None:
    """Write each name at the free place nearest to its point, inside the panel.

    Names are placed greedily in the order given; where no place is free, the least crowded one is
    taken. The limits of the panel must be final.

    Args:
        panel: Of a figure with all its panels.
        names: With their points.
        lines: (M, 2) points each, in units of the data: what else should stay in sight.
        radius: Of a marker, in points.
    """
    figure = panel.figure.get_figure(root=True)
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # the layout is known only now
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    scale = figure.dpi / 72
    spots = [panel.transData.transform((name.x, name.y)) for name in names]
    reach = (radius + 1) * scale
    taken = [np.stack([np.concatenate([spot - reach, spot + reach]) for spot in spots])]
    taken += [_beads(panel.transData.transform(line), scale) for line in lines]
    written: list[Floats] = []
    limits = np.array(panel.bbox.extents)
    for name, spot in zip(names, spots, strict=True):
        style = {"fontsize": SIZE, "color": name.colour, "ha": "center", "va": "center",
                 "path_effects": [withStroke(linewidth=2.5, foreground="white")]}  # fmt: skip
        probe = panel.annotate(name.text, (name.x, name.y), **style)  # type: ignore[arg-type]
        size = np.array(probe.get_window_extent(renderer).size)
        probe.remove()
        around = _Around(np.concatenate(taken), np.array(written).reshape(-1, 4), limits, scale)
        box, offset, distance = _place(spot, size, around)
        taken.append(box[None])
        written.append(box)
        if distance >= LED:
            taken.append(_beads(np.stack([spot, spot + offset]), scale))
        line = {"arrowstyle": "-", "color": name.colour, "linewidth": 0.6, "shrinkA": 0}
        panel.annotate(
            name.text, (name.x, name.y), xytext=tuple(offset / scale), textcoords="offset points",
            arrowprops=line if distance >= LED else None, **style,  # type: ignore[arg-type]
        )  # fmt: skip


def _beads(line: Floats, scale: float) -> Floats:
    """(N, 4) small boxes along a line, in pixels."""
    found = []
    for start, end in pairwise(line):
        steps = max(2, int(np.hypot(*(end - start)) / (4 * scale)))
        middles = start + np.linspace(0, 1, steps)[:, None] * (end - start)
        found.append(np.concatenate([middles - scale, middles + scale], axis=1))
    return np.concatenate(found) if found else np.empty((0, 4))


@dataclass(frozen=True)
class _Around:
    """What a name has to mind, in boxes of pixels: all that is there, names, the panel's limits."""

    taken: Floats
    written: Floats
    limits: Floats
    scale: float

    def crowded(self, spot: Floats, box: Floats, offset: Floats, distance: int) -> float:
        """Area that a name would hide, or have outside, or that its line would cross out."""
        size = box[2:] - box[:2]
        outside = size.prod() - shared(box, self.limits[None]).sum()
        crossed = 0.0
        if distance >= LED and len(self.written):
            line = _beads(np.stack([spot, spot + offset]), self.scale)
            crossed = sum(float(shared(name, line).sum()) for name in self.written)
        return float(shared(box, self.taken).sum() + outside + crossed)


def _place(spot: Floats, size: Floats, around: _Around) -> tuple[Floats, Floats, int]:
    """The best box, its centre seen from the point in pixels, and its distance in points."""
    best, least = None, np.inf
    for box, offset, distance in _candidates(spot, size, around.scale):
        crowded = around.crowded(spot, box, offset, distance)
        if crowded < least - 1e-6:
            best, least = (box, offset, distance), crowded
        if least < 1e-6:
            break
    assert best is not None
    return best


def _candidates(spot: Floats, size: Floats, scale: float) -> Iterator[tuple[Floats, Floats, int]]:
    for distance in DISTANCES:
        for angle in np.radians(ANGLES):
            towards = np.array([np.cos(angle), np.sin(angle)])
            offset = towards * (distance * scale) + towards.round() * size / 2
            middle = spot + offset
            yield np.concatenate([middle - size / 2, middle + size / 2]), offset, distance


def shared(box: Floats, others: Floats) -> Floats:
    """(N,) area that a box shares with each of (N, 4) others; a box is x0, y0, x1, y1.

    >>> shared(np.array([0, 0, 2, 2]), np.array([[1, 1, 5, 5], [2, 0, 3, 1]])).tolist()
    [1, 0]
    """
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    area: Floats = np.maximum(sides, 0).prod(axis=1)
    return area
