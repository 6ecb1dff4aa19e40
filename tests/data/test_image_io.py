"""Decoding of all kinds of image files, and refusal of unusable ones."""

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from signlang.data import image_io, image_limits
from signlang.data.image_io import (
    BadImageError,
    ImageFacts,
    as_images,
    decode,
    inspect_image,
    is_image_name,
    looks_like_image,
    map_in_order,
    read_bytes,
    read_image,
    resize_batch,
    resize_image,
)

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


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (128, 0), (129, 1), (0x7FFF, 127), (0x8080, 128), (0xFFFF, 255)]
)
def test_sixteen_bits_are_scaled_to_the_nearest_of_eight(value: int, expected: int) -> None:
    grey = Image.fromarray(np.full((4, 4), value, dtype=np.uint16))
    assert colour_of(encoded(grey)) == [expected] * 3


@pytest.mark.parametrize("wrong", [-1, 0x10000])
def test_more_than_sixteen_bits_have_no_known_range(wrong: int) -> None:
    values = np.full((4, 4), 100, dtype=np.int32)
    values[1, 2] = wrong
    with pytest.raises(BadImageError, match="32-bit"):
        decode(encoded(Image.fromarray(values), "TIFF"))
    values[1, 2] = 0xFFFF
    assert np.asarray(decode(encoded(Image.fromarray(values), "TIFF"))).max() == 255


def all_kinds() -> Iterator[tuple[str, bytes]]:
    """One file of each way to store pixels, of noise, 61 x 97."""
    noise = np.random.default_rng(0).integers(0, 256, (97, 61, 4), dtype=np.uint8)
    image, grey = Image.fromarray(noise), Image.fromarray(noise[..., 0])
    deep = Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0])
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"PNG {mode}", encoded(image.convert(mode))
    yield "PNG P, one colour clear", encoded(image.convert("P"), transparency=3)
    yield "PNG P, all a little", encoded(image.convert("P"), transparency=bytes(range(256)))
    yield "PNG RGB, one colour clear", encoded(image.convert("RGB"), transparency=(9, 80, 200))
    yield "PNG L, one level clear", encoded(grey, transparency=9)
    yield "PNG 16 bits", encoded(deep)
    yield "PNG 16 bits, one level clear", encoded(deep, transparency=5)
    yield "TIFF 16 bits", encoded(deep, "TIFF")
    yield "TIFF 32 bits", encoded(Image.fromarray(noise[..., 1].astype(np.int32) * 200), "TIFF")
    yield "TIFF CMYK", encoded(image.convert("CMYK"), "TIFF")
    yield "TIFF LAB", encoded(image.convert("RGB").convert("LAB"), "TIFF")
    for mode in ("L", "RGB", "CMYK"):
        yield f"JPEG {mode}", encoded(image.convert(mode), "JPEG")
    yield "GIF", encoded(image.convert("P"), "GIF", transparency=7)
    yield "WebP", encoded(image, "WEBP", lossless=True)


def converted_whole(data: bytes) -> np.ndarray[Any, Any]:
    """Pixels as they were before large images were converted in strips."""
    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))
    if ("A" in image.mode and image.mode != "LAB") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("name", "data"), [*all_kinds()], ids=[name for name, _ in all_kinds()])
@pytest.mark.parametrize("strip", [1, 700, 61 * 96, 1 << 20])
def test_strips_make_the_pixels_of_the_whole(
    name: str, data: bytes, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_io, "STRIP", strip)
    assert np.array_equal(read_image(data), converted_whole(data))


PEAK = """
import sys, time
from pathlib import Path
from signlang.data.image_io import decode, resize_image

def status(key):
    return int(Path("/proc/self/status").read_text().partition(key + ":")[2].split()[0]) // 1024

small, large = (Path(name).read_bytes() for name in sys.argv[1:])
resize_image(decode(small), 224)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
resize_image(decode(large), 224)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(
    ("mode", "size", "most"),  # bytes for each pixel: what is decoded, the result, and a rest
    [("RGB", (3000, 3000), 6), ("RGBA", (3000, 3000), 12), ("I;16", (3000, 3000), 9),
     ("RGB", (164, 32768), 12)],
)  # fmt: skip
def test_a_large_image_is_not_copied_again_and_again(
    mode: str, size: tuple[int, int], most: int, tmp_path: Path
) -> None:
    files = [tmp_path / "small.png", tmp_path / "large.png"]
    for file, shape in zip(files, ((9, 9), size), strict=True):
        Image.new("RGB", shape, (9, 80, 200)).convert("L" if mode == "I;16" else mode).save(file)
        if mode == "I;16":
            Image.fromarray(np.full(shape[::-1], 9000, dtype=np.uint16)).save(file)
    done = subprocess.run([sys.executable, "-c", PEAK, *files], capture_output=True, check=True)
    assert int(done.stdout) < most * size[0] * size[1] / 2**20


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert colour_of(encoded(Image.new("RGBA", (8, 8), (0, 100, 0, 51)))) == [204, 224, 204]


def test_facts_say_what_is_unusual() -> None:
    plain = inspect_image(encoded(Image.fromarray(RAMP)), ".PNG")
    assert plain == ImageFacts(
        hashlib.blake2b(encoded(Image.fromarray(RAMP)), digest_size=16).hexdigest(),
        48, 32, "PNG RGB", "",
    )  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = inspect_image(encoded(Image.new("L", (8, 6)), "JPEG", exif=exif), ".jpe")
    assert (odd.width, odd.height, odd.odd) == (6, 8, "turned by EXIF, mode L")
    exif[0x0112] = 1
    upright = inspect_image(encoded(Image.fromarray(RAMP), "JPEG", exif=exif), ".jpg")
    assert upright.odd == ""
    assert inspect_image(encoded(Image.fromarray(RAMP), "GIF")).odd == "mode P"


def test_a_second_view_behind_a_photograph_is_no_animation() -> None:
    image = Image.fromarray(RAMP)
    data = encoded(image, "MPO", save_all=True, append_images=[Image.fromarray(RAMP[::-1])])
    assert np.abs(np.asarray(decode(data)).astype(int) - RAMP).max() < 30
    assert inspect_image(data, ".jpg").odd == ""


def test_limits_of_files_and_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(b"12345")
    monkeypatch.setattr(image_limits, "MAX_BYTES", 5)
    assert read_bytes(file) == b"12345"
    monkeypatch.setattr(image_limits, "MAX_BYTES", 4)
    with pytest.raises(BadImageError, match="MiB, more than an image can be"):
        read_bytes(file)
    data = encoded(Image.new("RGB", (10, 8)))
    assert image_limits.open_image(data, most=80).size == (10, 8)
    with pytest.raises(
        image_limits.ImageLimitError, match="10 x 8 pixels, more than the limit of 79"
    ):
        image_limits.open_image(data, most=79)
    with pytest.raises(BadImageError, match="not an image"):
        read_image(b"x")
    with pytest.raises(BadImageError, match="empty"):
        read_image(b"")
    monkeypatch.setattr(image_limits, "MAX_PIXELS", 80)
    assert decode(data).size == (10, 8)
    monkeypatch.setattr(image_limits, "MAX_PIXELS", 79)
    with pytest.raises(BadImageError, match="10 x 8 pixels, more than 7"):
        decode(data)


def test_files_without_an_ending_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(encoded(Image.fromarray(RAMP)))
    (tmp_path / "text").write_text("hello")
    are_images = [looks_like_image(tmp_path / name) for name in ("image", "text", "nowhere")]
    assert are_images == [True, False, False]
    names = [".png", ".JPEG", ".webp", ".tif", ".pdf", ".mpg", ".h5", ".fits", ".txt", ""]
    assert [is_image_name(name) for name in names] == [True] * 4 + [False] * 6


def test_resizing_goes_along_the_rows_first() -> None:
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 7, 3), dtype=np.uint8))
    rows = tall.resize((20, 90), Image.Resampling.BILINEAR)
    assert np.array_equal(
        resize_image(tall, 20), np.asarray(rows.resize((20, 20), Image.Resampling.BILINEAR))
    )
    batch = np.stack([RAMP[:, :32], RAMP[:, 16:]])
    assert resize_batch(batch, 32) is batch
    through = resize_batch(batch, 20, 10)
    expected = [Image.fromarray(resize_image(Image.fromarray(image), 20)) for image in batch]
    assert np.array_equal(through, np.stack([resize_image(image, 10) for image in expected]))


def test_images_in_every_form_are_the_same_pixels(tmp_path: Path) -> None:
    file, image = tmp_path / "x.png", Image.fromarray(RAMP)
    file.write_bytes(encoded(image))
    planes = (RAMP / 255).transpose(2, 0, 1)
    forms: list[Any] = [
        file, str(file), encoded(image), image, RAMP, planes, planes.astype(np.float32),
        torch.tensor(RAMP), torch.tensor(planes, requires_grad=True),
    ]  # fmt: skip
    for form in forms:
        (pixels,) = as_images(form)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, RAMP)
    mixed = as_images([*forms, np.stack([RAMP, RAMP]), np.stack([planes, planes])])
    assert len(mixed) == len(forms) + 4
    assert all(np.array_equal(pixels, RAMP) for pixels in mixed)
    assert as_images([]) == []
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = Image.open(io.BytesIO(encoded(image, exif=exif)))
    assert np.array_equal(as_images(turned)[0], RAMP[::-1, ::-1])
    assert np.array_equal(as_images(Image.new("L", (2, 2), 9))[0], np.full((2, 2, 3), 9))
    assert np.unique(as_images(np.full((3, 2, 2), 0.0983))[0]).tolist() == [25]  # 25.07


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((3, 4, 4), np.uint8), r"uint8 of shape \(3, 4, 4\) is no image: give a path"),
        (np.zeros((4, 4, 3)), r"float64 of shape \(4, 4, 3\)"),
        (np.zeros((4, 4, 4, 4), np.uint8), r"uint8 of shape \(4, 4, 4\)"),
        (np.zeros((2, 4, 4)), r"float64 of shape \(2, 4, 4\)"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.full((3, 2, 2), 1.001), "between 0 and 1, .* these between 1.001 and 1.001"),
        (np.linspace(-0.5, 1, 12).reshape(3, 2, 2), "these between -0.5 and 1"),
        (7, "int is no image: give a path"),
    ],
)
def test_other_forms_are_refused_with_those_that_work(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_images(wrong)


@pytest.mark.parametrize("ahead", [0, 2, 5])
def test_no_more_results_are_made_than_may_wait(ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    results = map_in_order(lambda number: number * number, items(), workers=1, ahead=ahead)
    for number in range(20):
        assert next(results) == number * number
        assert len(taken) == min(20, number + ahead + 1)
    assert next(results, None) is None


def test_a_file_that_is_too_large_is_told_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_limits, "MAX_BYTES", 2**20)
    with (tmp_path / "x.png").open("wb") as stream:
        stream.truncate(3 * 2**20)
    with pytest.raises(BadImageError, match=r"^3 MiB, more than an image can be$"):
        read_bytes(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".webp", ".jpg", ".txt"])
def test_any_wrong_ending_is_noticed(suffix: str) -> None:
    facts = inspect_image(encoded(Image.fromarray(RAMP)), suffix)
    assert facts.odd == f"a PNG named {suffix}"
