"""Counts and picture files come in, charts and sheets of small pictures go out."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import Image, ImageOps

from signlang.data import pictures
from signlang.data.index import Index
from signlang.pages.drawing import BLUE, INK, axes, plain

Ints = npt.NDArray[np.int64]

SIDE: Final = 112  # pixels of one small picture
GAP: Final = 4
BACKGROUND: Final = (240, 241, 243)


def counts_chart(names: Sequence[str], counts: Ints) -> Figure:
    """Draw one bar per class, (classes,) pictures long."""
    figure, panel = axes(height=1.0 + 0.24 * len(names))
    bars = panel.barh(range(len(names)), counts, color=BLUE, height=0.72)
    panel.set_yticks(range(len(names)), [plain(name) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.bar_label(bars, padding=3, color=INK, fontsize=10)
    panel.set_xlabel("pictures")
    panel.set_xlim(0, float(counts.max()) * 1.1)
    panel.grid(axis="y", visible=False)
    return figure


def signers_chart(per_signer: Ints) -> Figure:
    """Draw how many signers have how many pictures, from (S,) pictures per signer."""
    figure, panel = axes(height=3.2)
    low, high = int(per_signer.min()), int(per_signer.max())
    width = max(1, -(-(high - low + 1) // 30))
    edges = np.arange(low, high + width + 1, width) - 0.5
    panel.hist(per_signer, bins=edges.tolist(), color=BLUE, rwidth=0.9)
    panel.set_xlabel("pictures of one signer")
    panel.set_ylabel("signers")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def sizes_chart(common: Sequence[tuple[tuple[int, int], int]]) -> Figure:
    """Draw one bubble per size; its area grows with the number of pictures."""
    figure, panel = axes(height=4.6)
    size = np.array([size for size, _ in common], dtype=float)
    count = np.array([n for _, n in common], dtype=float)
    area = 30 + 600 * count / count.max()
    panel.scatter(size[:, 0], size[:, 1], s=area, color=BLUE, alpha=0.6, linewidths=0)
    if size.max() > 4 * size.min():
        panel.set_xscale("log")
        panel.set_yscale("log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_minor_formatter(NullFormatter())
    low, high = size.min() * 0.8, size.max() * 1.25
    panel.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=":", label="square")
    panel.legend(frameon=False, labelcolor=INK)
    panel.set_xlabel("width in pixels")
    panel.set_ylabel("height in pixels")
    return figure


def sheet(index: Index, rows: Sequence[int], columns: int = 5) -> Image.Image:
    """Lay pictures out in rows, each shrunk to fit a square, its own proportions kept."""
    lines = -(-len(rows) // columns)
    step = SIDE + GAP
    width = min(len(rows), columns) * step - GAP
    canvas = Image.new("RGB", (width, lines * step - GAP), "white")
    for position, row in enumerate(rows):
        line, column = divmod(position, columns)
        canvas.paste(small(index, row), (column * step, line * step))
    return canvas


def small(index: Index, row: int) -> Image.Image:
    """One picture in a square of `SIDE` pixels."""
    picture = pictures.decode(pictures.read_bytes(index.root / index.paths[row]))
    return ImageOps.pad(picture, (SIDE, SIDE), Image.Resampling.BICUBIC, color=BACKGROUND)


def mean_picture(pixels: npt.NDArray[np.uint8], rows: Ints) -> Image.Image:
    """Average pictures of (N, h, w, 3) pixel by pixel: it shows where hands are held."""
    total = np.zeros(pixels.shape[1:], dtype=np.float64)
    for start in range(0, len(rows), 1024):
        total += pixels[rows[start : start + 1024]].sum(0, dtype=np.float64)
    mean = Image.fromarray(np.round(total / len(rows)).astype(np.uint8))
    return mean.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
