"""Decoding of all kinds of image files, and refusal of unusable ones."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from signlang.data.image_io import BadImageError, decode, inspect_image, read_bytes, resize_image

RAMP = np.linspace(0, 255, 48 * 32 * 3).reshape(32, 48, 3).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colour_of(data: bytes) -> list[int]:
    return [round(value) for value in np.asarray(decode(data)).reshape(-1, 3).mean(0)]


def test_a_plain_image_comes_back_as_it_is() -> None:
    assert np.array_equal(np.asarray(decode(encoded(Image.fromarray(RAMP)))), RAMP)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    upright = Image.fromarray(RAMP)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright.transpose(turn) if turn is not None else upright, exif=exif)
    assert np.array_equal(np.asarray(decode(data)), RAMP)
    assert inspect_image(data).width == 48


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("L", (8, 8), 90), "PNG", [90, 90, 90]),
        (Image.new("1", (8, 8), 1), "PNG", [255, 255, 255]),
        (Image.new("LA", (8, 8), (10, 0)), "PNG", [255, 255, 255]),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG", [255, 255, 255]),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "WEBP", [255, 127, 127]),
        (Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4), "GIF", [10, 200, 30]),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", [255, 0, 0]),
        (Image.fromarray(np.full((8, 8), 0x8080, np.uint16)), "PNG", [128, 128, 128]),
        (Image.fromarray(np.full((8, 8), 0xFFFF, np.uint16)), "TIFF", [255, 255, 255]),
        (Image.fromarray(np.full((8, 8), 0x0100, np.int32)), "TIFF", [1, 1, 1]),
    ],
)
def test_modes_become_rgb(image: Image.Image, kind: str, expected: list[int]) -> None:
    assert colour_of(encoded(image, kind)) == pytest.approx(expected, abs=1)


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (255, 0, 255, 0)), "JPEG", quality=95)
    assert colour_of(data) == pytest.approx([0, 255, 0], abs=6)


def test_a_palette_with_transparency_is_laid_over_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0])
    assert colour_of(encoded(image, "PNG", transparency=0)) == [255, 255, 255]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"this is text", "not an image"),
        (encoded(Image.fromarray(RAMP), "JPEG")[:-200], "cut off"),
        (encoded(Image.fromarray(RAMP))[:200], "cut off"),
        (encoded(Image.fromarray(RAMP))[:-30], "cut off"),
        (encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF"), "32-bit"),
        (
            encoded(
                Image.new("L", (8, 8)), "GIF", save_all=True,
                append_images=[Image.new("L", (8, 8), 255)],
            ),
            "animated",
        ),
        (encoded(Image.new("1", (12_000, 12_000))), "100 million"),
        (encoded(Image.new("1", (20_000, 20_000))), "100 million"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode(data)


def test_a_wrong_ending_is_noticed_and_the_image_used() -> None:
    facts = inspect_image(encoded(Image.fromarray(RAMP)), ".jpg")
    assert facts.odd == "a PNG named .jpg"
    assert (facts.width, facts.height, facts.kind) == (48, 32, "PNG RGB")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(BadImageError, match="0 bytes"):
        read_bytes(tmp_path / "empty.png")
    with pytest.raises(BadImageError, match="broken symbolic link"):
        read_bytes(tmp_path / "link.png")
    with pytest.raises(BadImageError, match="no such file"):
        read_bytes(tmp_path / "nowhere.png")
    with pytest.raises(BadImageError, match="cannot be read"):
        read_bytes(tmp_path)


def test_random_damage_never_ends_in_anything_but_a_reason() -> None:
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        encoded(Image.fromarray(RAMP), kind, **({"exif": exif} if kind != "GIF" else {}))
        for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF")
    ]
    refused = 0
    for data in kinds:
        for _ in range(150):
            damaged = bytearray(data)
            for place in rng.integers(len(data), size=4):
                damaged[place] = rng.integers(256)
            try:
                assert inspect_image(bytes(damaged)).digest
            except BadImageError:
                refused += 1
    assert refused > 100


def test_resizing_agrees_with_torch(shared: Path) -> None:
    import torch
    from torch.nn import functional as F

    file = sorted((shared / "data" / "hand_reader" / "images" / "A").iterdir())[0]
    image = decode(file.read_bytes())
    ours = resize_image(image, 96).astype(np.float32)
    planes = torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1)[None]
    theirs = F.interpolate(planes, (96, 96), mode="bilinear", antialias=True)[0]
    difference = np.abs(ours - theirs.permute(1, 2, 0).numpy())
    assert difference.max() <= 1.5  # PIL rounds after each of two passes
