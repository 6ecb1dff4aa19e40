"""Report pages: sections of text, tables and images rendered as one HTML or Markdown file.

Both formats have the same sections and blocks. The HTML file embeds its images and needs no other
file and no network.
"""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from signlang.errors import SettingError
from signlang.files import atomic_write
from signlang.reporting.plots import png_bytes

FIGURES: Final = "figures"
QUALITY: Final = 88  # of JPEG photographs in the HTML file; the PNG files beside it are lossless
WIDE: Final = 720  # pixels; a wider chart scrolls on a phone instead of shrinking


class Number(str):
    """A formatted number, e.g. `0.98 ± 0.01`; tables align it to the right."""

    __slots__ = ()


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class ImageBlock:
    """A chart or a photograph.

    Attributes:
        name: Name of its file, without the suffix.
        alt: Alternative text for screen readers.
        image: A chart or pixels.
        caption: Caption above it.
    """

    name: str
    alt: str
    image: Figure | Image.Image
    caption: str = ""
    kind: str = "image"

    @property
    def file(self) -> str:
        """Path of its file, relative to the page."""
        return f"{FIGURES}/{self.name}.png"

    @property
    def is_chart(self) -> bool:
        """Whether it is a chart, not a photograph."""
        return isinstance(self.image, Figure)


Cell = str | int | ImageBlock


@dataclass(frozen=True)
class Table:
    """Rows of texts, numbers and images; the first cell of a row is its heading."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kind: str = "table"


@dataclass(frozen=True)
class Section:
    """A heading and its blocks."""

    title: str
    blocks: Sequence[Text | ImageBlock | Table]


@dataclass(frozen=True)
class Notes:
    """Highlighted sentences above all sections.

    Attributes:
        title: Heading.
        sentences: Sentences; without any, the notes are omitted. Line breaks are kept.
        is_warning: Whether they are warnings.
    """

    title: str
    sentences: Sequence[str]
    is_warning: bool = False


@dataclass(frozen=True)
class Page:
    """A data card, or the report of a study.

    Attributes:
        name: Name of its files, without the suffix.
        title: Heading of the page.
        lead: First paragraph.
        tiles: The most important numbers by name.
        notes: Highlighted sentences.
        sections: Sections of the page.
        ours: File names of figures that an earlier page of this kind may have written.
        endings: Suffixes of the files to write, `html` or `md`.
        wide: Whether its tables and figures need a wide window.
    """

    name: str
    title: str
    lead: str
    tiles: Mapping[str, str]
    notes: Sequence[Notes]
    sections: Sequence[Section]
    ours: re.Pattern[str]
    endings: Sequence[str] = ("md", "html")
    wide: bool = False

    def write(self, folder: Path) -> None:
        """Write the page and `figures/`; figures of an earlier page are removed.

        Raises:
            SettingError: If the folder cannot be written to.
        """
        try:
            (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(
                f"{folder} cannot be created ({error.strerror}): set out=DIR."
            ) from None
        images = {image.name: _png(image) for image in self.images()}
        for name, data in images.items():
            _write(folder / FIGURES / f"{name}.png", data)
        embedded = {image.name: _embedded(image, images[image.name]) for image in self.images()}
        for ending in self.endings:
            template = _environment().get_template(f"page.{ending}.j2")
            text = template.render(page=self, embedded=embedded)
            _write(folder / f"{self.name}.{ending}", text.encode("utf-8", errors="replace"))
        for file in (folder / FIGURES).iterdir():
            if self.ours.fullmatch(file.name) and file.stem not in images:
                file.unlink()

    def images(self) -> list[ImageBlock]:
        """All images, including those in tables."""
        blocks: list[ImageBlock] = []
        for section in self.sections:
            for item in section.blocks:
                if isinstance(item, ImageBlock):
                    blocks.append(item)
                elif isinstance(item, Table):
                    blocks += [
                        cell for row in item.rows for cell in row if isinstance(cell, ImageBlock)
                    ]
        return blocks


def markdown(text: object) -> str:
    r"""Escape a text for Markdown, also in a table.

    >>> markdown("a|b_c <d>")
    'a\\|b\\_c &lt;d&gt;'
    """
    escaped = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", html.escape(str(text), quote=False))
    return " ".join(escaped.split())


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = markdown
    environment.filters["formatted"] = _formatted
    environment.tests["image"] = lambda cell: isinstance(cell, ImageBlock)
    environment.tests["number"] = lambda cell: isinstance(cell, int | Number)
    return environment


def _formatted(cell: Any) -> Any:
    """Format integers with thousands separators, and allow line breaks at slashes of paths."""
    if isinstance(cell, int):
        return f"{cell:,}"
    return Markup("/<wbr>").join(str(cell).split("/"))


def _png(image: ImageBlock) -> bytes:
    if isinstance(image.image, Figure):
        return png_bytes(image.image)
    stream = io.BytesIO()
    image.image.save(stream, "PNG")
    return stream.getvalue()


def _embedded(image: ImageBlock, png: bytes) -> dict[str, Any]:
    """Data URI (photographs as JPEG) and size of an image; the size avoids layout shifts."""
    with Image.open(io.BytesIO(png)) as opened:
        width, height = opened.size
    kind = "png"
    if isinstance(image.image, Image.Image):
        stream = io.BytesIO()
        image.image.save(stream, "JPEG", quality=QUALITY)
        kind, png = "jpeg", stream.getvalue()
    uri = f"data:image/{kind};base64,{base64.b64encode(png).decode()}"
    wide = image.is_chart and width > WIDE
    return {"uri": uri, "width": width, "height": height, "wide": wide}


def _write(file: Path, data: bytes) -> None:
    with atomic_write(file) as temporary:
        temporary.write_bytes(data)


Blocks = list[Text | ImageBlock | Table]
Rows = list[Sequence[Cell]]
