"""Charts of the data card: what is drawn, and what a sentence says better."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_tiny
from PIL import Image

from signlang import api
from signlang.data.index import read_index
from signlang.datacard.card import thumbnail
from signlang.errors import DataError


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


def test_an_image_that_changes_while_the_card_is_made_is_refused(tmp_path: Path) -> None:
    """Its sample would not be of the data set that the card describes."""
    index = read_index(write_tiny(tmp_path / "images"), cache_dir=str(tmp_path / "cache"))
    file = tmp_path / "images" / index.paths[0]
    content = file.read_bytes()
    other = tmp_path / "images" / index.paths[1]
    for changed in (other.read_bytes(), content[:99]):
        file.write_bytes(changed)
        with pytest.raises(DataError, match=rf"{file.name}: changed while .*Repeat the command"):
            thumbnail(index, 0)
    file.unlink()
    with pytest.raises(DataError, match=r"no such file\. Repeat the command"):
        thumbnail(index, 0)
    file.write_bytes(content)
    thumbnail(index, 0)
