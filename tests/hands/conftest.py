"""Hands of made networks, and MediaPipe's own where they have been fetched."""

import os
from pathlib import Path

import made_hands
import pytest
from PIL import Image

from signlang.errors import SettingError
from signlang.hands.hand_networks import HandNetworks, find_networks


@pytest.fixture(scope="session")
def real_networks() -> HandNetworks:
    """MediaPipe's networks; no test fetches them."""
    cache = os.environ.get("SIGNLANG_HANDS_CACHE", "~/.cache/signlang")
    try:
        return find_networks(None, cache)
    except SettingError:
        pytest.skip(f"no hand networks in {cache}: type make hands, or set SIGNLANG_HANDS_CACHE")


@pytest.fixture(scope="session")
def made_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with made networks."""
    cache = tmp_path_factory.mktemp("made")
    made_hands.write_networks(cache)
    return cache


@pytest.fixture(scope="session")
def made_networks(made_cache: Path) -> HandNetworks:
    """Networks of a dozen numbers."""
    return find_networks(None, str(made_cache))


@pytest.fixture(scope="session")
def some_without(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny images, one of each class darkened so that no hand is found in it."""
    place = tmp_path_factory.mktemp("some") / "hands"
    for file in tiny.rglob("*.png"):
        image = Image.open(file)
        if file.stem.endswith("0") and not file.stem.endswith("10"):
            image = image.point(lambda value: value // 12)
        target = place / file.relative_to(tiny)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    (place / "signers.csv").write_bytes((tiny / "signers.csv").read_bytes())
    return place
