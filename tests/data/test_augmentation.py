"""Settings and effects of the published augmentations."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from signlang.arrays import Pixels
from signlang.data import image_io
from signlang.data.augmentation import (
    Affine,
    Augmentation,
    asl_alphabet,
    build_transforms,
    digits,
    read_backgrounds,
    robust,
    trivial,
)
from signlang.errors import DataError, SettingError


def test_the_alphabet_study_has_its_seven_transforms() -> None:
    rotate, _, light, _, colours, blur, holes = transforms = asl_alphabet()
    assert [(type(one).__name__, one.p) for one in transforms] == [
        ("Rotate", 0.5), ("HorizontalFlip", 0.6), ("RandomBrightnessContrast", 0.5),
        ("ChannelShuffle", 0.4), ("HueSaturationValue", 0.5), ("Blur", 0.5), ("CoarseDropout", 0.5),
    ]  # fmt: skip
    assert rotate.limit == (-10, 10)
    assert rotate.border_mode == cv2.BORDER_REFLECT_101
    assert light.brightness_limit == light.contrast_limit == (-0.2, 0.2)
    assert (colours.hue_shift_limit, colours.sat_shift_limit) == ((-20, 20), (-30, 30))
    assert blur.blur_limit == (3, 7)
    assert holes.num_holes_range == (8, 10)
    assert holes.hole_height_range == holes.hole_width_range == (10, 30)


def test_the_digits_study_rotates_by_20_degrees_and_shifts_and_zooms_by_a_tenth() -> None:
    (affine,) = digits()
    assert (affine.rotate, affine.shift, affine.zoom) == (20, 0.1, 0.1)


@pytest.mark.parametrize("transforms", [digits(), [Affine(45, 0.3, 0.3)], asl_alphabet()[:2]])
def test_the_border_repeats_the_edge_and_is_not_black(transforms: list[Any]) -> None:
    white = np.full((64, 40, 40, 3), 255, dtype=np.uint8)
    assert Augmentation(transforms, 40)(white, 1).min() == 255


def angles(transforms: list[Any]) -> np.ndarray[Any, Any]:
    """Angles in degrees by which 300 images of a bar are rotated."""
    bar = np.zeros((101, 101, 3), dtype=np.uint8)
    bar[48:53, 10:91] = 255
    turned = Augmentation(transforms, 101)(np.repeat(bar[None], 300, axis=0), 7)[..., 0] / 255.0
    ys, xs = np.mgrid[:101, :101].reshape(2, 1, -1)
    weights = turned.reshape(300, -1)
    total = weights.sum(1, keepdims=True)
    dx = xs - (weights * xs).sum(1, keepdims=True) / total
    dy = ys - (weights * ys).sum(1, keepdims=True) / total
    both, wide, high = ((weights * v).sum(1) for v in (dx * dy, dx * dx, dy * dy))
    degrees: np.ndarray[Any, Any] = np.rad2deg(0.5 * np.arctan2(2 * both, wide - high))
    return degrees


@pytest.mark.parametrize(("transforms", "largest"), [(digits(), 20), (asl_alphabet()[:1], 10)])
def test_images_are_rotated_in_both_directions_as_far_as_published(
    transforms: list[Any], largest: float
) -> None:
    sampled = angles(transforms)
    assert sampled.max() == pytest.approx(largest, abs=0.15 * largest)
    assert sampled.min() == pytest.approx(-largest, abs=0.15 * largest)


def test_six_of_ten_images_are_flipped() -> None:
    left = np.zeros((400, 16, 16, 3), dtype=np.uint8)
    left[:, :, :4] = 255
    flipped = Augmentation(asl_alphabet()[1:2], 16)(left, 3)[:, 0, -1, 0] == 255
    assert flipped.mean() == pytest.approx(0.6, abs=0.08)


def test_transforms_come_in_their_order_and_then_the_size() -> None:
    import albumentations as A

    batch = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    flip = Augmentation([A.HorizontalFlip(p=1.0)], 40)
    assert np.array_equal(flip(batch, 0), batch[:, :, ::-1])
    half = Augmentation([A.HorizontalFlip(p=1.0)], 20)(batch, 0)
    assert half.shape == (3, 20, 20, 3)
    assert np.array_equal(half, image_io.resize_batch(batch[:, :, ::-1], 20))
    moved = Augmentation([Affine(20, 0.1, 0.1), A.HorizontalFlip(p=1.0)], 40)(batch, 5)
    assert np.array_equal(moved, Augmentation([Affine(20, 0.1, 0.1)], 40)(batch, 5)[:, :, ::-1])
    small = Augmentation([Affine(20, 0.1, 0.1)], 20)(batch, 5)
    assert small.shape == (3, 20, 20, 3)
    for one, other in ((0, 0), (0, 1), (0, 2**32)):
        transforms = Augmentation(asl_alphabet(), 40)
        equal = np.array_equal(transforms(batch, one), transforms(batch, other))
        assert equal == (one == other % 2**32)


@pytest.mark.parametrize("size", [24, 64, 90, 100, 140])
def test_training_images_are_as_sharp_as_those_that_are_predicted(size: int) -> None:
    import albumentations as A

    batch = np.random.default_rng(0).integers(0, 256, (4, 100, 100, 3), dtype=np.uint8)
    resized = image_io.resize_batch(batch, size)
    for transforms in ([A.HorizontalFlip(p=0.0)], [Affine(0, 0, 0)]):
        trained = Augmentation(transforms, size)(batch, 0)
        assert sharpness(trained) == pytest.approx(sharpness(resized), rel=0.02)
        if size <= 100:
            assert np.array_equal(trained, resized)
    cropped = Augmentation([A.CenterCrop(80, 60)], size)(batch, 0)
    same = [image_io.resize_image(Image.fromarray(one[10:90, 20:80]), size) for one in batch]
    assert np.abs(cropped.astype(int) - np.stack(same)).max() <= (1 if size > 80 else 0)


def sharpness(batch: Pixels) -> float:
    """Mean square of the differences of neighbouring pixels."""
    values = batch.astype(float)
    return float((np.diff(values, axis=1) ** 2).mean() + (np.diff(values, axis=2) ** 2).mean())


def test_zoom_and_rotation_are_about_the_middle() -> None:
    ring = np.zeros((200, 41, 41, 3), dtype=np.uint8)
    ring[:, 18:23, 18:23] = 255
    turned = Affine(rotate=45, shift=0, zoom=0.2)(ring, np.random.default_rng(0))[..., 0] / 255.0
    ys, xs = np.mgrid[:41, :41]
    total = turned.sum((1, 2))
    for places in (ys, xs):
        np.testing.assert_allclose((turned * places).sum((1, 2)) / total, 20, atol=0.1)
    assert total.min() / 25 == pytest.approx(0.8**2, abs=0.06)
    assert total.max() / 25 == pytest.approx(1.2**2, abs=0.06)
    assert total.mean() / 25 == pytest.approx(1, abs=0.05)


def test_backgrounds_of_a_folder_are_all_images_in_it(tmp_path: Path) -> None:
    for number, name in enumerate(("b/deep.png", "a.png", ".hidden.png", "Thumbs.db", "x.txt")):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        if file.suffix == ".png":
            Image.new("RGB", (9, 5), (number, 0, 0)).save(file)
        else:
            file.write_bytes(b"x")
    scenes = read_backgrounds(str(tmp_path), 0.3, 6, seed=0)
    assert scenes is not None
    assert scenes[:, 0, 0, 0].tolist() == [1, 0]
    assert scenes.shape == (2, 6, 6, 3)
    (tmp_path / "bad.png").write_bytes(b"x")
    (tmp_path / "worse.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 backgrounds cannot be used:\s+.*bad\.png: not an image"
    ):
        read_backgrounds(str(tmp_path), 0.3, 6, seed=0)
    with pytest.raises(DataError, match="no such folder, or no image in it"):
        read_backgrounds(str(tmp_path / "nowhere"), 0.3, 6, seed=0)
    with pytest.raises(SettingError, match=r"no effect with augment\.background_weight=0"):
        read_backgrounds(str(tmp_path), 0, 6, seed=0)


def test_drawn_backgrounds_are_those_of_the_seed() -> None:
    one, same, other = (read_backgrounds(None, 0.1, 16, seed) for seed in (0, 0, 1))
    assert one is not None
    assert same is not None
    assert other is not None
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len({scene.tobytes() for scene in one}) == 64
    assert read_backgrounds(None, 0, 16, 0) is None


def test_each_image_gets_a_background_of_its_own_drawing() -> None:
    black = np.zeros((400, 8, 8, 3), dtype=np.uint8)
    scenes = np.stack([np.full((8, 8, 3), level, dtype=np.uint8) for level in (50, 100, 200)])
    blend = Augmentation([], 8, scenes, 0.5)
    levels = blend(black, 1)[:, 0, 0, 0]
    counts = dict(zip(*np.unique(levels, return_counts=True), strict=True))
    assert sorted(counts) == [25, 50, 100]
    assert min(counts.values()) > 90
    assert np.array_equal(levels, blend(black, 1)[:, 0, 0, 0])
    assert not np.array_equal(levels, blend(black, 2)[:, 0, 0, 0])
    white = np.full((1, 8, 8, 3), 255, dtype=np.uint8)
    assert Augmentation([], 8, scenes[:1] * 0, 0.25)(white, 0).max() == 191


def inverted(batch: Pixels, rng: np.random.Generator) -> Pixels:
    return 255 - batch


def floats(batch: Pixels, rng: np.random.Generator) -> Any:
    return batch / 255


def cropped(batch: Pixels, rng: np.random.Generator) -> Pixels:
    return batch[:, 1:]


def noisy(batch: Pixels, rng: np.random.Generator) -> Pixels:
    return np.random.randint(0, 256, batch.shape, dtype=np.uint8)


def one_of(name: str) -> list[Any]:
    """What `augment.transforms._target_` names in the tests below."""
    import albumentations as A

    ours = {f.__name__: f for f in (inverted, floats, cropped, noisy)}
    own: list[Any] = [ours[name] if name in ours else getattr(A, name)(p=1.0)]
    return [*own, A.HorizontalFlip(p=1.0)]


def node(name: str) -> dict[str, str]:
    return {"_target_": f"{__name__}.one_of", "name": name}


def test_functions_of_batches_and_transforms_of_images_work_together() -> None:
    transforms = build_transforms(node("inverted"), 40, 20)
    left = np.zeros((1, 40, 40, 3), dtype=np.uint8)
    left[:, :, :20] = 255
    out = Augmentation(transforms, 20)(left, 0)
    assert out.shape == (1, 20, 20, 3)
    assert out[0, :, :8].max() > 200 > 50 > out[0, :, 12:].max()  # inverted, then flipped


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("floats", r"must return uint8 images \(2, 40, 40, 3\); they return float64"),
        ("cropped", r"must return uint8 images .* they return uint8 \(2, 39, 40, 3\)"),
        ("noisy", "return other images for the same seed: take everything random from `rng`"),
        ("ToFloat", r"must return uint8 images \(height, width, 3\).*they return float32 \(40, 40"),
    ],
)
def test_transforms_that_break_the_contract_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        build_transforms(node(name), 40, 20)
    with pytest.raises(SettingError, match="must return a list of albumentations transforms"):
        build_transforms({"_target_": "collections.Counter"}, 40, 20)


def test_rows_of_numbers_stay_and_do_not_show() -> None:
    batch = np.full((40, 64, 64, 3), 100, np.uint8)
    batch[:, -1] = np.random.default_rng(0).integers(0, 2, (40, 64, 3)) * 255
    for transforms in (digits(), robust()[:2]):
        out = Augmentation(transforms, 64, coded_rows=1)(batch, 1)
        assert np.array_equal(out[:, -1], batch[:, -1])
        assert (out[:, :-1] == 100).all(), "moved into the image, they would be seen"


@pytest.mark.parametrize("name", ["robust", "trivial"])
def test_transforms_for_strangers_change_most_images_and_fit_any_size(name: str) -> None:
    for size in (32, 200):
        node = {"_target_": f"signlang.data.augmentation.{name}"}
        transforms = build_transforms(node, size, size)
        batch = np.random.default_rng(0).integers(0, 256, (12, size, size, 3), dtype=np.uint8)
        out = Augmentation(transforms, size)(batch, 0)
        assert out.shape == batch.shape
        assert [np.array_equal(*pair) for pair in zip(out, batch, strict=True)].count(True) < 6


def test_trivial_draws_one_transform_for_each_image() -> None:
    (one,) = trivial()
    assert type(one).__name__ == "OneOf"
    assert len(one.transforms) == 14
    assert {each.p for each in one.transforms} == {1.0}
