"""What a network sees of a hand."""

import numpy as np
import pytest
from PIL import Image

from signlang.data.image_io import resize_image
from signlang.errors import SettingError
from signlang.hands.finder import Hand
from signlang.hands.hand_input import (
    HandBoth,
    HandCrop,
    HandPoints,
    encoded_points,
    from_options,
    normalized_points,
    prepared,
)
from signlang.hands.hand_networks import HandNetworks


def hand(x: float, y: float, size: float, *, right: float = 1.0) -> Hand:
    """A hand whose points fill a square; the wrist lies in the middle of its lower side."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (21, 3)).astype(np.float32)
    points[0, :2], points[1, :2], points[2, :2] = (0, 0.5), (-0.5, -0.5), (0.5, 0.2)
    return Hand((points * size + (x, y, 0)).astype(np.float32), right, 0.9)


def test_a_crop_holds_the_hand_and_its_margin(made_networks: HandNetworks) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    image[100:140, 200:240] = 255
    crop = HandCrop(networks=made_networks, margin=0.25)
    seen = np.asarray(crop.of_hand(Image.fromarray(image), hand(220, 120, 40)))
    assert seen.shape == (60, 60, 3)
    assert (seen[10:50, 10:50] == 255).all()
    assert seen.sum() == image.sum()


def test_left_hands_are_mirrored_if_asked(made_networks: HandNetworks) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    image, left = Image.fromarray(pixels), hand(45, 45, 30, right=0.2)
    plain = np.asarray(HandCrop(networks=made_networks).of_hand(image, left))
    mirrored = HandCrop(networks=made_networks, mirror=True)
    assert np.array_equal(np.asarray(mirrored.of_hand(image, left)), plain[:, ::-1])
    assert np.array_equal(np.asarray(mirrored.of_hand(image, hand(45, 45, 30))), plain)


def test_a_crop_goes_beyond_the_image(made_networks: HandNetworks) -> None:
    pixels = np.tile(np.arange(50, dtype=np.uint8)[None, :, None], (50, 1, 3))
    crop = HandCrop(networks=made_networks, margin=0.0)
    seen = np.asarray(crop.of_hand(Image.fromarray(pixels), hand(0, 25, 20)))
    assert seen[0, :, 0].tolist() == [*range(10, 0, -1), *range(10)]


def test_without_a_hand_the_rule_decides(made_networks: HandNetworks) -> None:
    image = Image.new("RGB", (30, 20), (200, 10, 10))
    assert HandCrop(networks=made_networks).of_hand(image, None) is image
    blank = HandCrop(networks=made_networks, not_found="blank").of_hand(image, None)
    assert set(blank.get_flattened_data()) == {(128, 128, 128)}


@pytest.mark.parametrize("right", [0.9, 0.1])
def test_points_are_the_same_wherever_and_however_large_the_hand_is(
    made_networks: HandNetworks, right: float
) -> None:
    points = HandPoints(networks=made_networks)
    image = Image.new("RGB", (9, 9))
    one = np.asarray(points.of_hand(image, hand(20, 30, 40, right=right)))
    other = np.asarray(points.of_hand(image, hand(900, 700, 400, right=right)))
    assert encoded_points(one) == pytest.approx(encoded_points(other), abs=2e-3)
    wanted = normalized_points(hand(0, 0, 1, right=right), mirror=True)
    assert encoded_points(one) == pytest.approx(np.clip(wanted, -4, 4), abs=2e-3)
    assert encoded_points(one)[0] == pytest.approx(0, abs=1e-4)  # the wrist
    knuckles = encoded_points(one)[[5, 9, 13, 17]]
    assert (knuckles**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-3)
    assert np.sign(encoded_points(one)[1, 0]) == (-1 if right > 0.5 else 1)
    assert not np.asarray(points.of_hand(image, None)).any()


@pytest.mark.parametrize("right", [0.9, 0.1])
def test_one_image_holds_crop_and_points(made_networks: HandNetworks, right: float) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image, there = Image.fromarray(pixels), hand(50, 40, 30, right=right)
    both = HandBoth(networks=made_networks, image_size=70)
    seen = both.of_hand(image, there)
    assert np.array_equal(resize_image(seen, 70), np.asarray(seen)), "nothing resizes it again"
    crop = HandCrop(networks=made_networks, mirror=True).of_hand(image, there)
    assert np.array_equal(np.asarray(seen)[:-1], resize_image(crop, 70)[:-1])
    points = np.asarray(HandPoints(networks=made_networks).of_hand(image, there))
    assert np.array_equal(np.asarray(seen)[-1, :64].reshape(8, 8, 3), points)
    without = np.asarray(both.of_hand(image, None))
    assert not without[-1].any()
    assert np.array_equal(without[:-1], resize_image(image, 70)[:-1])


def test_the_network_reads_the_points_that_were_written(made_networks: HandNetworks) -> None:
    import torch

    from signlang.models.landmark_network import decode_points

    image = np.asarray(HandPoints(networks=made_networks).of_hand(
        Image.new("RGB", (9, 9)), hand(20, 30, 40)))  # fmt: skip
    planes = torch.from_numpy(np.stack([image, 0 * image])).permute(0, 3, 1, 2) / 255
    points, has_hand = decode_points(planes)
    assert points[0].numpy() == pytest.approx(encoded_points(image), abs=1e-4)
    assert has_hand.tolist() == [[1.0], [0.0]]


def test_an_input_is_made_again_from_what_a_bundle_says(made_networks: HandNetworks) -> None:
    for hand_input in (
        HandCrop(networks=made_networks, margin=0.1, mirror=True, not_found="blank"),
        HandPoints(networks=made_networks, mirror=False),
        HandBoth(networks=made_networks, margin=0.1, image_size=72),
    ):
        assert from_options(hand_input.options, made_networks) == hand_input
        assert hand_input.key == from_options(hand_input.options, made_networks).key
    with pytest.raises(SettingError, match="another version"):
        from_options({"input": "HandCrop", "angle": 3}, made_networks)
    assert prepared(image := Image.new("RGB", (2, 2)), None) is image
