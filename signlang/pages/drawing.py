"""What every chart of a page shares: colours, plain axes, names as they are, and the file."""

import io
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#3b4048"
RIM: Final = "#c8ccd2"
GRID: Final = "#e4e7eb"
BLUE: Final = "#2563a8"
# told apart by all kinds of colour vision: Okabe and Ito 2008, the light ones darkened for lines
COLOURS: Final = (BLUE, "#d55e00", "#008060", "#a0508a")
DPI: Final = 120


def axes(height: float, width: float = 5.4) -> tuple[Figure, Axes]:
    """Make a chart of one panel, in inches."""
    figure = empty(width, height)
    panel = figure.add_subplot()
    dress(panel)
    return figure, panel


def empty(width: float, height: float) -> Figure:
    """Make a chart without panels, in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def dress(panel: Axes) -> None:
    """Give a panel the looks of all others."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(RIM)
    panel.tick_params(which="both", colors=INK, length=0, labelsize=11)
    panel.title.set(color=INK, size=11)
    for axis in (panel.xaxis, panel.yaxis):
        axis.label.set(color=INK, size=11)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)


def plain(text: str, most: int = 40) -> str:
    r"""Prepare a name for matplotlib: no mathematics, one line, no bytes that are no text.

    Args:
        text: The name.
        most: Characters that it may have; of a longer one the middle is left out.

    >>> plain("US$"), plain("a\nb"), plain("\udcff"), plain("abcdefgh", most=5)
    ('US\\$', 'a b', '?', 'ab…gh')
    """
    text = " ".join(text.encode("utf-8", errors="replace").decode().split())
    if len(text) > most:
        text = text[: most // 2] + "…" + text[len(text) - (most - 1) // 2 :]
    return text.replace("$", r"\$")


def png_of(figure: Figure) -> bytes:
    """Render a chart as PNG, the same bytes each time."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()
