"""Cache of decoded images: content, sharing between processes, and damage."""

import json
import logging
import multiprocessing
import os
import shutil
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from signlang.data import image_cache, image_io
from signlang.data.image_io import Thumbnails
from signlang.data.index import Index, read_index
from signlang.errors import DataError


def index_of(root: Path, cache_dir: Path) -> Index:
    read_index.cache_clear()
    image_cache.decode_images.cache_clear()
    return read_index(root, cache_dir=str(cache_dir))


def test_pixels_are_those_of_the_files(tiny: Path, tmp_path: Path) -> None:
    index = index_of(tiny, tmp_path)
    array = image_cache.decode_images(index, 32, str(tmp_path))
    assert array.shape == (36, 32, 32, 3)
    for row in (0, 17, 35):
        expected = np.asarray(Image.open(index.root / index.paths[row]))
        assert np.array_equal(array[row], expected)
    with pytest.raises(ValueError, match="read-only"):
        array[0][:] = 0


def test_images_that_were_inspected_are_not_decoded_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = image_cache.decode_images(index_of(tiny, tmp_path / "one"), 16, str(tmp_path))[:]
    read_index.cache_clear()
    thumbnails = Thumbnails(16)
    index = read_index(tiny, cache_dir=str(tmp_path / "three"), thumbnails=thumbnails)
    assert len(thumbnails.of) == 36
    monkeypatch.setattr(image_io, "decode", lambda data: pytest.fail("decoded again"))
    array = image_cache.decode_images(index, 16, str(tmp_path / "three"), thumbnails=thumbnails)
    assert np.array_equal(array[:], expected)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to ask")
def test_reading_many_images_takes_little_memory(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(image_cache, "RESIDENT", 4 << 20)
    file = tmp_path / "many.npy"
    np.save(file, np.arange(256, dtype=np.uint8).repeat(1 << 20).reshape(256, 512, 2048, 1))
    array = image_cache.DecodedImages(file)
    before, sums = resident_of_files(), []
    for row in range(256):
        sums.append(int(array[np.array([row])].sum(dtype=np.int64)))
    assert sums == [row << 20 for row in range(256)]
    assert resident_of_files() - before < 16 << 20  # of 256 MiB that were read


def resident_of_files() -> int:
    """Bytes of mapped files that count as memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) * 1024


def cached_file(folder: Path) -> Path:
    return next((folder / "pixels").glob("*.npy"))


@pytest.mark.parametrize(
    "damage", ["byte", "cut", "empty", "manifest", "key", "list", "no manifest", "other"]
)
def test_a_damaged_cache_is_rebuilt(tiny: Path, tmp_path: Path, damage: str) -> None:
    index = index_of(tiny, tmp_path)
    good = image_cache.decode_images(index, 16, str(tmp_path))[:].copy()
    file = cached_file(tmp_path)
    data = file.read_bytes()
    manifest = file.with_suffix(".json")
    if damage == "byte":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        file.write_bytes(data[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "key":
        manifest.write_text(json.dumps({"shape": list(good.shape)}))
    elif damage == "list":
        manifest.write_text("[1]")
    elif damage == "no manifest":
        manifest.unlink()
        file.write_bytes(bytes(len(data)))
    else:
        np.save(file, np.zeros_like(good))
    index = index_of(tiny, tmp_path)
    assert np.array_equal(image_cache.decode_images(index, 16, str(tmp_path))[:], good)
    assert not list((tmp_path / "pixels").glob(".*"))  # nothing temporary is left


def test_a_sound_cache_is_not_built_again(tiny: Path, tmp_path: Path) -> None:
    image_cache.decode_images(index_of(tiny, tmp_path), 16, str(tmp_path))
    before = cached_file(tmp_path).stat()
    image_cache.decode_images(index_of(tiny, tmp_path), 16, str(tmp_path))
    assert cached_file(tmp_path).stat().st_ino == before.st_ino
    os.utime(cached_file(tmp_path))  # touched, but sound: checked and kept
    image_cache.decode_images(index_of(tiny, tmp_path), 16, str(tmp_path))
    assert cached_file(tmp_path).stat().st_ino == before.st_ino
    assert json.loads(cached_file(tmp_path).with_suffix(".json").read_text())["shape"][0] == 36


def test_an_image_that_changed_since_it_was_indexed_is_refused(tmp_path: Path) -> None:
    for name in ("A", "B"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(
                tmp_path / "images" / name / f"{number}.png"
            )
    index = index_of(tmp_path / "images", tmp_path)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(tmp_path / "images" / "B" / "0.png")
    with pytest.raises(DataError, match=r"B/0\.png: changed"):
        image_cache.decode_images(index, 16, str(tmp_path))
    assert not list((tmp_path / "pixels").glob("*.npy"))  # and no cache of it is left
    index = index_of(tmp_path / "images", tmp_path)
    assert image_cache.decode_images(index, 16, str(tmp_path))[2].max() == 9


def sum_of_pixels(root: Path, cache_dir: Path) -> int:
    return int(
        image_cache.decode_images(index_of(root, cache_dir), 24, str(cache_dir))[:].sum(
            dtype=np.int64
        )
    )


def test_processes_that_ask_at_once_get_one_sound_file(tiny: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        sums = pool.starmap(sum_of_pixels, [(tiny, tmp_path)] * 8)
    assert len(set(sums)) == 1
    assert sums[0] == sum_of_pixels(tiny, tmp_path)
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 1


def test_images_are_decoded_in_chunks_of_any_size(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = image_cache.decode_images(index_of(tiny, tmp_path / "a"), 16, str(tmp_path / "a"))
    monkeypatch.setattr(image_cache, "_CHUNK", 7)  # 36 images: five chunks and one image
    chunks = image_cache.decode_images(index_of(tiny, tmp_path / "b"), 16, str(tmp_path / "b"))
    assert np.array_equal(chunks[:], whole[:])
    sums = [json.loads(cached_file(tmp_path / name).with_suffix(".json").read_text())["crc32"]
            for name in ("a", "b")]  # fmt: skip
    assert sums[0] == sums[1] == zlib.crc32(whole[:].tobytes())


def test_a_large_file_is_believed_until_it_is_touched(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = image_cache.decode_images(index_of(tiny, tmp_path), 16, str(tmp_path))[:].copy()
    file = cached_file(tmp_path)
    status, data = file.stat(), file.read_bytes()
    damaged = data[:-1] + bytes([data[-1] ^ 1])

    def damage(touched: bool) -> None:
        file.write_bytes(damaged)
        if not touched:
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    size = good.nbytes
    monkeypatch.setattr(image_cache, "ALWAYS_VERIFIED", size - 1)
    damage(touched=False)
    array = image_cache.decode_images(index_of(tiny, tmp_path), 16, str(tmp_path))
    assert not np.array_equal(array[:], good)  # not summed up
    damage(touched=True)
    array = image_cache.decode_images(index_of(tiny, tmp_path), 16, str(tmp_path))
    assert np.array_equal(array[:], good)
    assert "was damaged: decoding again" in caplog.text
    monkeypatch.setattr(image_cache, "ALWAYS_VERIFIED", size)
    status = cached_file(tmp_path).stat()
    damage(touched=False)
    array = image_cache.decode_images(index_of(tiny, tmp_path), 16, str(tmp_path))
    assert np.array_equal(array[:], good)


def test_a_disk_that_is_too_small_is_noticed_before(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, needed = index_of(tiny, tmp_path), 36 * 512 * 512 * 3 + 64_000_000

    class Usage:
        free = needed - 1

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    sentence = r"takes 28\.3 MB, and 64\.0 MB are to stay free, but .* has 92\.3 MB left"
    with pytest.raises(DataError, match=sentence):
        image_cache.decode_images(index, 512, str(tmp_path))
    Usage.free = 36 * 8 * 8 * 3 + 64_000_000
    assert len(image_cache.decode_images(index, 8, str(tmp_path))) == 36


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.int8), np.zeros(0, np.uint8)],
)
def test_what_is_no_array_of_images_is_refused(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match="holds no images"):
        image_cache.DecodedImages(tmp_path / "x.npy")
    with (tmp_path / "new.npy").open("wb") as stream:
        np.lib.format.write_array(stream, np.zeros((2, 4, 4, 3), np.uint8), version=(2, 0))
    with pytest.raises(ValueError, match="of another version"):
        image_cache.DecodedImages(tmp_path / "new.npy")


def test_who_waits_for_another_process_is_told(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = index_of(tiny, tmp_path)
    image_cache.decode_images(index, 16, str(tmp_path))
    lock = FileLock(cached_file(tmp_path).with_suffix(".lock"))
    image_cache.decode_images.cache_clear()
    holding = threading.Event()

    def hold() -> None:
        with lock:
            holding.set()
            while "waiting for another process" not in caplog.text:
                time.sleep(0.01)

    with caplog.at_level(logging.INFO, "signlang"):
        image_cache.decode_images(index, 16, str(tmp_path))
        assert "waiting" not in caplog.text
        image_cache.decode_images.cache_clear()
        other = threading.Thread(target=hold, daemon=True)
        other.start()
        assert holding.wait(60)
        assert len(image_cache.decode_images(index, 16, str(tmp_path))) == 36
    other.join()
