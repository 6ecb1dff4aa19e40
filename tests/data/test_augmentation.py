"""The published augmentations are what was published, in what they are set to and what they do."""

from typing import Any

import cv2
import numpy as np
import pytest

from signlang.arrays import Pixels
from signlang.data.augmentation import Affine, Augmentation, asl_alphabet, build_transforms, digits
from signlang.errors import SettingError


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
def test_what_comes_in_from_outside_is_not_black(transforms: list[Any]) -> None:
    white = np.full((64, 40, 40, 3), 255, dtype=np.uint8)
    assert Augmentation(transforms, 40)(white, 1).min() == 255


def angles(transforms: list[Any]) -> np.ndarray[Any, Any]:
    """By how many degrees a bar through the middle is turned, 300 times."""
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
def test_images_are_turned_both_ways_as_far_as_published(
    transforms: list[Any], largest: float
) -> None:
    found = angles(transforms)
    assert found.max() == pytest.approx(largest, abs=0.15 * largest)
    assert found.min() == pytest.approx(-largest, abs=0.15 * largest)


def test_six_of_ten_images_are_flipped() -> None:
    left = np.zeros((400, 16, 16, 3), dtype=np.uint8)
    left[:, :, :4] = 255
    flipped = Augmentation(asl_alphabet()[1:2], 16)(left, 3)[:, 0, -1, 0] == 255
    assert flipped.mean() == pytest.approx(0.6, abs=0.08)


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
        ("ToFloat", r"must return uint8 images \(20, 20, 3\) once .* they return float32"),
    ],
)
def test_transforms_that_break_the_contract_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        build_transforms(node(name), 40, 20)
    with pytest.raises(SettingError, match="must return a list of albumentations transforms"):
        build_transforms({"_target_": "collections.Counter"}, 40, 20)
