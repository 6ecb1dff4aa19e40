"""Each image is searched once, and a search that was killed is resumed."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signlang.data.image_io import digest_of, read_unchanged
from signlang.errors import DataError
from signlang.hands import hand_store
from signlang.hands.finder import Hand
from signlang.hands.hand_networks import HandNetworks
from signlang.hands.hand_store import FILE, find_hands, from_bytes, to_bytes


def test_a_hand_is_read_as_it_was_written() -> None:
    points = np.random.default_rng(0).normal(0, 300, (21, 3)).astype(np.float32)
    again = from_bytes(to_bytes(Hand(points, 0.25, 0.75)))
    assert again is not None
    assert np.array_equal(again.points, points)
    assert (again.right, again.score) == (0.25, 0.75)


def files_of(place: Path) -> tuple[list[str], list[str]]:
    paths = sorted(file.relative_to(place).as_posix() for file in place.rglob("*.png"))
    return paths, [digest_of((place / path).read_bytes()) for path in paths]


def test_only_new_images_are_searched(
    some_without: Path, made_networks: HandNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, digests = files_of(some_without)
    hands = find_hands(some_without, paths[1:], digests[1:], made_networks, str(tmp_path))
    assert [path for path, hand in zip(paths[1:], hands, strict=True) if hand is None] == [
        "A/A4.png", "B/B4.png", "ß/ß4.png",
    ]  # fmt: skip
    searched = []
    real = read_unchanged

    def counted(path: Path, digest: str) -> Image.Image:
        searched.append(path)
        return real(path, digest)

    monkeypatch.setattr(hand_store, "read_unchanged", counted)
    again = find_hands(some_without, paths, digests, made_networks, str(tmp_path))
    assert searched == [some_without / paths[0]]
    assert again[0] is not None
    for one, other in zip(hands, again[1:], strict=True):
        assert to_bytes(one) == to_bytes(other)


def test_a_damaged_file_is_made_again(
    some_without: Path, made_networks: HandNetworks, tmp_path: Path
) -> None:
    paths, digests = files_of(some_without)
    folder = tmp_path / "hands" / made_networks.key
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(b"this is no database" * 100)
    hands = find_hands(some_without, paths, digests, made_networks, str(tmp_path))
    assert sum(hand is None for hand in hands) == 3


def test_an_image_that_changed_is_told(
    some_without: Path, made_networks: HandNetworks, tmp_path: Path
) -> None:
    paths, digests = files_of(some_without)
    with pytest.raises(DataError, match=r"A/A0\.png: changed while it was being read"):
        find_hands(some_without, paths[:1], digests[1:2], made_networks, str(tmp_path))


def test_a_killed_search_is_resumed(made_cache: Path, tmp_path: Path) -> None:
    rng, place = np.random.default_rng(0), tmp_path / "images"
    place.mkdir()
    for number in range(400):
        pixels = rng.integers(60, 255, (200, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png", compress_level=0)
    cache = tmp_path / "cache"
    script = (
        "import sys; from pathlib import Path; from signlang.data.image_io import digest_of\n"
        "from signlang.hands.hand_networks import find_networks\n"
        "from signlang.hands.hand_store import find_hands\n"
        "place, cache = Path(sys.argv[1]), sys.argv[3]\n"
        "names = sorted(file.name for file in place.iterdir())\n"
        "digests = [digest_of((place / name).read_bytes()) for name in names]\n"
        "find_hands(place, names, digests, find_networks(None, sys.argv[2]), cache)\n"
    )
    command = [sys.executable, "-c", script, str(place), str(made_cache), str(cache)]
    process = subprocess.Popen(command)

    def stored() -> int:
        try:
            (file,) = cache.glob(f"hands/*/{FILE}")
            with sqlite3.connect(file) as database:
                return int(database.execute("SELECT count(*) FROM hands").fetchone()[0])
        except (ValueError, sqlite3.Error):
            return 0

    until = time.monotonic() + 60
    while not stored() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = stored()
    assert 0 < first < 400
    assert subprocess.run(command, check=False).returncode == 0
    assert stored() == 400
