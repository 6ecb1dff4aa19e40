"""Charts of the data card: what is drawn, and what a sentence says better."""

from pathlib import Path

import numpy as np
from conftest import write_tiny
from PIL import Image

from signlang import api


def card(root: Path, out: Path) -> tuple[str, bool]:
    """Text of a data card, and whether it draws the images of each signer."""
    place = api.describe(["data=folder", f"data.root={root}", f"out={out}", "verbose=false"])
    return (place / "card.md").read_text("utf-8"), (place / "figures" / "signers.png").is_file()


def test_equal_numbers_are_a_sentence_and_unequal_ones_a_chart(tmp_path: Path) -> None:
    text, drawn = card(write_tiny(tmp_path / "images"), tmp_path / "even")
    assert "6 signers, 6 images of each; 6 of them show every class." in text
    assert not drawn
    root = write_tiny(tmp_path / "more")
    pixels = np.full((32, 32, 3), 90, np.uint8)
    Image.fromarray(pixels).save(root / "A" / "more.png")
    with (root / "signers.csv").open("a", encoding="utf-8") as stream:
        stream.write("A/more.png,s0\n")
    text, drawn = card(root, tmp_path / "uneven")
    assert "6 signers, 6 to 7 images of each (median 6)" in text
    assert drawn
