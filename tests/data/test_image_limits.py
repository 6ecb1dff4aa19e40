"""Small files that would cost much: refused by their headers, and ordinary ones are not."""

import io
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signlang.data import image_limits
from signlang.data.image_io import BadImageError, read_image
from signlang.data.image_limits import _AFTER_SCAN

NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
SCAN = 0xDA


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a plain JPEG, by its own lengths."""
    start = 2
    while (marker := jpeg[start + 1]) != 0xD9:
        end = start + 2 + struct.unpack_from(">H", jpeg, start + 2)[0]
        if marker == SCAN:
            match = _AFTER_SCAN.search(jpeg, end)
            assert match
            end = match.start()
        yield marker, start, end
        start = end


def many_scans(size: tuple[int, int], count: int) -> bytes:
    jpeg = encoded(Image.new("RGB", size, "brown"), "JPEG", progressive=True)
    scans = [(start, end) for marker, start, end in segments(jpeg) if marker == SCAN]
    start, end = min(scans, key=lambda scan: scan[1] - scan[0])
    return jpeg[:end] + jpeg[start:end] * (count - len(scans)) + jpeg[end:]


def png(width: int, height: int, *extra: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes((width + 1) * height), 9)
    text = b"".join(chunk(b"tEXt", data) for data in extra)
    return b"\x89PNG\r\n\x1a\n" + header + text + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(1, 24_000_000), "1 x 24000000 pixels, a side of more than 32,768"),
        (png(24_000_000, 1), "24000000 x 1 pixels, a side of more than 32,768"),
        (png(2, 30_000), "2 x 30000 pixels, one side more than 200 times the other"),
        (many_scans((500, 400), 20_000), "more than 100 scans"),
        (many_scans((6000, 6000), 50), "50 scans of 36,000,000 pixels"),
        (png(64, 64, *[b"a\0b"] * 500_000), "chunks in 7,500,"),
        (b"\xff\xd8" + b"\xff\xe1\0\2" * 3_000_000, "more than 2,000 segments"),
    ],
    ids=["tall", "wide", "narrow", "scans", "scanned pixels", "chunks", "segments"],
)
def test_a_costly_file_is_refused_at_once(data: bytes, reason: str) -> None:
    started = time.process_time()
    with pytest.raises(BadImageError, match=reason):
        read_image(data)
    assert time.process_time() - started < 5  # decoding takes minutes


@pytest.mark.parametrize("count", [100_000, 3_000_000])
def test_what_is_no_marker_is_counted_as_well(count: int) -> None:
    jpeg = encoded(Image.fromarray(NOISE), "JPEG")
    junk = jpeg[:2] + b"\xff\x00" * count + jpeg[2:]
    with pytest.raises(image_limits.ImageLimitError, match="segments"):
        image_limits.count_scans(junk)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(NOISE), "JPEG", quality=100),
        encoded(Image.fromarray(NOISE), "JPEG", progressive=True, optimize=True),
        encoded(Image.fromarray(NOISE), "JPEG", restart_marker_blocks=1),
        encoded(Image.fromarray(NOISE), "JPEG", exif=b"Exif\0\0" + b"\xff\xda" * 20_000),
        encoded(Image.fromarray(NOISE), "JPEG")
        + b"\xff\xda" * 100_000,  # a film behind a photograph
        many_scans((500, 400), 100),
        encoded(Image.fromarray(NOISE), "PNG"),
        encoded(Image.fromarray(NOISE[:1, :1]), "PNG"),
        encoded(Image.fromarray(NOISE).resize((1000, 2)), "PNG"),
        png(64, 64, *[b"a\0b"] * 900),
        encoded(Image.fromarray(NOISE), "TIFF"),
        encoded(Image.fromarray(NOISE), "GIF"),
        encoded(Image.fromarray(NOISE), "WEBP"),
    ],
)
def test_an_ordinary_file_is_read(data: bytes) -> None:
    pixels = read_image(data)
    assert pixels.shape[:2] == Image.open(io.BytesIO(data)).size[::-1]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_a_film_is_refused_without_counting_its_frames(kind: str) -> None:
    frames = [Image.fromarray(np.roll(NOISE, n)) for n in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(BadImageError, match=r"^animated, not a still image$"):
        read_image(data)


def test_real_photographs_are_within_the_limits(shared: Path) -> None:
    for folder in ("digits/Dataset/0", "hand_reader/images/A", "massey/images/0", "rooms/images/A"):
        for file in sorted((shared / "data" / folder).iterdir())[:20]:
            data = file.read_bytes()
            image_limits.open_image(data)
            markers = list(image_limits._jpeg_markers(data))
            assert markers.count(SCAN) == 1
