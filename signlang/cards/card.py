"""The parts of a card come in; a Markdown file with pictures beside it and an HTML file go out.

Both show the same sections of the same blocks. The HTML file holds its pictures and needs no other
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

from signlang.cards.figures import png_of
from signlang.data.files import replaced
from signlang.errors import SettingError

FIGURES: Final = "figures"
OURS: Final = re.compile(r"(counts|signers|sizes|(samples|mean|duplicates|suspicious)-\d+)\.png")
QUALITY: Final = 88  # of photographs inside the HTML file; the files beside it lose nothing


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Picture:
    """A chart or a photograph.

    Attributes:
        name: Of its file, without the ending.
        alt: What it shows, for those who do not see it.
        image: A chart or pixels.
        caption: Above it.
    """

    name: str
    alt: str
    image: Figure | Image.Image
    caption: str = ""
    kind: str = "picture"

    @property
    def file(self) -> str:
        """Where it lies, seen from the card."""
        return f"{FIGURES}/{self.name}.png"

    @property
    def is_chart(self) -> bool:
        """Whether it was drawn, not photographed."""
        return isinstance(self.image, Figure)


@dataclass(frozen=True)
class Table:
    """Rows of texts, numbers and pictures; the first cell of a row is its heading."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | int | Picture]]
    kind: str = "table"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Text | Picture | Table]


@dataclass(frozen=True)
class Card:
    """A data card.

    Attributes:
        title: Heading of the page.
        lead: What was described and how, one paragraph.
        tiles: The most important numbers by name.
        findings: What somebody who uses the data must know, a sentence each; may be empty.
        sections: The rest.
    """

    title: str
    lead: str
    tiles: Mapping[str, str]
    findings: Sequence[str]
    sections: Sequence[Section]

    def write(self, folder: Path) -> None:
        """Write `card.md`, `card.html` and `figures/`; figures of an earlier card go away.

        Raises:
            SettingError: If the folder cannot be written to.
        """
        try:
            (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(
                f"{folder} cannot be made ({error.strerror}): set out=DIR."
            ) from None
        pictures = {picture.name: _png(picture) for picture in self._pictures()}
        for name, data in pictures.items():
            _write(folder / FIGURES / f"{name}.png", data)
        embedded = {p.name: _embedded(p, pictures[p.name]) for p in self._pictures()}
        for name in ("card.md", "card.html"):
            template = _environment().get_template(f"{name}.j2")
            text = template.render(card=self, embedded=embedded)
            _write(folder / name, text.encode("utf-8", errors="replace"))
        for file in (folder / FIGURES).iterdir():
            if OURS.fullmatch(file.name) and file.stem not in pictures:
                file.unlink()

    def _pictures(self) -> list[Picture]:
        found: list[Picture] = []
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Picture):
                    found.append(block)
                elif isinstance(block, Table):
                    found += [c for row in block.rows for c in row if isinstance(c, Picture)]
        return found


def markdown(text: object) -> str:
    r"""Escape a text so that Markdown shows it as it is, in a table too.

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
    environment.filters["shown"] = _shown
    environment.tests["picture"] = lambda cell: isinstance(cell, Picture)
    environment.tests["number"] = _is_number
    return environment


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int) or (isinstance(cell, str) and cell.endswith("%"))


def _shown(cell: Any) -> Any:
    """Write whole numbers with a comma per thousand; let long paths break at their slashes."""
    if isinstance(cell, int):
        return f"{cell:,}"
    return Markup("/<wbr>").join(str(cell).split("/"))


def _png(picture: Picture) -> bytes:
    if isinstance(picture.image, Figure):
        return png_of(picture.image)
    stream = io.BytesIO()
    picture.image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _embedded(picture: Picture, png: bytes) -> dict[str, Any]:
    """A data URI, photographs as JPEG, and the size that keeps the page from jumping."""
    with Image.open(io.BytesIO(png)) as opened:
        width, height = opened.size
    kind = "png"
    if isinstance(picture.image, Image.Image):
        stream = io.BytesIO()
        picture.image.save(stream, "JPEG", quality=QUALITY)
        kind, png = "jpeg", stream.getvalue()
    uri = f"data:image/{kind};base64,{base64.b64encode(png).decode()}"
    return {"uri": uri, "width": width, "height": height}


def _write(file: Path, data: bytes) -> None:
    with replaced(file) as temporary:
        temporary.write_bytes(data)
