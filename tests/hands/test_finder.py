"""The pipeline around the two networks: geometry by hand, agreement with MediaPipe where it is."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signlang.arrays import Pixels
from signlang.errors import DataError
from signlang.hands.finder import (
    CROP,
    HandFinder,
    Palm,
    Region,
    View,
    anchors,
    cut,
    hand_region,
    merge_palms,
)
from signlang.hands.hand_networks import HandNetworks, averaged_over_mirror

EXPECTED = Path(__file__).parent / "mediapipe_points.json"


def spot(height: int, width: int, x: float, y: float) -> Pixels:
    """A bright spot on black, of 5 x 5 pixels."""
    image = np.zeros((height, width, 3), np.uint8)
    image[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3] = 255
    return image


def centre_of_light(image: Pixels) -> tuple[float, float]:
    """x and y of the mean of the light, in pixels from the upper left corner."""
    light = image[..., 0].astype(float)
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]]
    return (
        float((light * (columns + 0.5)).sum() / light.sum()),
        float((light * (rows + 0.5)).sum() / light.sum()),
    )


def test_anchors_are_those_of_the_detector() -> None:
    centres = anchors()
    assert centres.shape == (2016, 2)
    assert centres[0].tolist() == centres[1].tolist() == [0.5 / 24, 0.5 / 24]
    assert centres[2].tolist() == [1.5 / 24, 0.5 / 24]  # x runs first
    assert centres[1152].tolist() == centres[1157].tolist() == [0.5 / 12, 0.5 / 12]
    assert centres[-1].tolist() == [11.5 / 12, 11.5 / 12]


def test_overlapping_palms_are_averaged_by_their_scores() -> None:
    values = np.zeros((3, 18))
    values[:, :4] = [[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]]
    values[:, 4] = [0, 4, 7]
    first, second = merge_palms(values, np.array([0.9, 0.3, 0.5]))
    assert first[1] == 0.9
    assert first[0][:5].tolist() == pytest.approx([0.5, 0, 10.5, 10, 1.0])
    assert second[1] == 0.5
    assert second[0][4] == 7


@pytest.mark.parametrize("degrees", [0, 30, 90, -120, 180])
def test_the_region_turns_the_fingers_upwards(degrees: float) -> None:
    turn = math.radians(degrees)  # clockwise on the screen
    up = np.array([math.sin(turn), -math.cos(turn)])
    points = np.full((7, 2), 100.0)
    points[2] = (100, 100) + 20 * up  # the middle finger begins here
    region = hand_region(Palm(np.array([80.0, 80, 120, 120]), points, 1.0))
    assert math.cos(region.angle - turn) == pytest.approx(1)
    assert region.side == pytest.approx(2.6 * 40)
    assert (region.x, region.y) == pytest.approx(tuple((100, 100) + 20 * up))
    # a place above the middle of the square is a place towards the fingers in the image
    above = region.to_image(np.array([[0.5, 0.0, 0.0]], np.float32))[0, :2]
    assert above - (region.x, region.y) == pytest.approx(region.side / 2 * up, abs=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("side", [90.0, 700.0])  # enlarged, and averaged
def test_what_is_cut_out_is_found_again_in_the_image(angle: float, side: float) -> None:
    image = spot(600, 800, 420, 280)
    region = Region(400.0, 300.0, side, angle)
    x, y = centre_of_light(cut(image, region, 224))
    back = region.to_image(np.array([[x / 224, y / 224, 0]], np.float32))[0]
    assert back[:2] == pytest.approx((420.5, 280.5), abs=0.01 * side)


def test_beyond_the_image_its_edge_repeats() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, -1] = (9, 8, 7)
    assert (cut(image, Region(100.0, 20.0, 30.0, 0.0), 16) == (9, 8, 7)).all()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("border", [0.0, 0.25, 1.0])
def test_palms_are_in_pixels_of_the_image_however_it_is_viewed(
    made_networks: HandNetworks, quarters: int, border: float
) -> None:
    image = np.full((90, 160, 3), 200, np.uint8)
    (palm,) = made_networks.finder().palms(image, View(quarters, border))
    scale = 160 * (1 + 2 * border) / 192  # pixels of the image for one of the detector's
    offset = 192 / 24 * scale  # the anchor lies half a cell beyond the middle
    down = [(1, 1), (-1, 1), (-1, -1), (1, -1)][quarters]
    expected = (80 + down[0] * offset, 45 + down[1] * offset)
    middle = (palm.box[:2] + palm.box[2:]) / 2
    assert middle == pytest.approx(expected, abs=1.5 * scale)
    assert palm.box[2:] - palm.box[:2] == pytest.approx(48 * scale, rel=0.03)
    fingers = palm.points[2] - palm.points[0]
    up = [(0, -1), (1, 0), (0, 1), (-1, 0)][quarters]
    assert fingers / np.linalg.norm(fingers) == pytest.approx(up, abs=1e-6)


def test_a_dark_image_has_no_hand(made_networks: HandNetworks) -> None:
    finder = made_networks.finder()
    assert finder(np.full((90, 160, 3), 8, np.uint8)) is None
    hand = finder(np.full((90, 160, 3), 200, np.uint8))
    assert hand is not None
    assert hand.points.shape == (21, 3)
    assert hand.score == pytest.approx(0.9)


def test_a_large_image_is_averaged_first(made_networks: HandNetworks) -> None:
    finder = made_networks.finder()
    small = finder(np.full((600, 800, 3), 200, np.uint8))
    large = finder(np.full((3600, 4800, 3), 200, np.uint8))
    assert small is not None
    assert large is not None
    assert large.points == pytest.approx(6 * small.points, abs=12)


def test_what_is_no_network_is_told_in_a_sentence() -> None:
    with pytest.raises(DataError, match="networks that find hands cannot be used"):
        HandFinder(b"no", b"network")


def test_the_points_are_those_of_mediapipe(real_networks: HandNetworks, shared: Path) -> None:
    """MediaPipe 1.2.2 turns each crop 0.46 radians too far, so that points differ a little."""
    finder = real_networks.finder()
    expected = json.loads(EXPECTED.read_text("utf-8"))
    for name, hand in expected.items():
        image = np.asarray(Image.open(shared / "data" / name).convert("RGB"))
        found = finder(image)
        assert found is not None
        points = np.array(hand["points"])
        size = np.ptp(points, axis=0).max()
        apart = np.linalg.norm(found.points[:, :2] - points, axis=1) / size
        assert np.median(apart) < 0.03, name
        assert (found.right >= 0.5) == (hand["hand"] == "Right"), name


def test_a_turned_photograph_has_the_same_hand(real_networks: HandNetworks, shared: Path) -> None:
    finder = real_networks.finder()
    name = next(iter(json.loads(EXPECTED.read_text("utf-8"))))
    image = np.asarray(Image.open(shared / "data" / name).convert("RGB"))
    upright, turned = finder(image), finder(np.rot90(image, 2))
    assert upright is not None
    assert turned is not None
    height, width = image.shape[:2]
    back = np.array([width, height]) - turned.points[:, :2]
    apart = np.linalg.norm(back - upright.points[:, :2], axis=1) / upright.size
    assert np.median(apart) < 0.03
    assert turned.right == pytest.approx(upright.right, abs=0.05)


@pytest.mark.parametrize("kind", ["made_networks", "real_networks"])
def test_two_views_are_the_mean_of_a_hand_and_its_mirror_image(
    kind: str, request: pytest.FixtureRequest
) -> None:
    import onnxruntime

    alone = request.getfixturevalue(kind).landmarks
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (2, CROP, CROP, 3), dtype=np.uint8)
    crops[0, :, : CROP // 2] //= 4
    names = ["points", "presence", "handedness"]
    one, both = (
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for data in (alone, averaged_over_mirror(alone))
    )
    points, presence, right = one.run(names, {"images": crops})
    turned = one.run(names, {"images": np.ascontiguousarray(crops[:, :, ::-1])})
    back = turned[0].reshape(2, 21, 3).copy()
    back[..., 0] = CROP - back[..., 0]
    mean = both.run(names, {"images": crops})
    np.testing.assert_allclose(mean[0], (points + back.reshape(2, 63)) / 2, atol=1e-3)
    np.testing.assert_allclose(mean[1], (presence + turned[1]) / 2, atol=1e-5)
    np.testing.assert_allclose(mean[2], (right + 1 - turned[2]) / 2, atol=1e-5)
    assert np.abs(mean[0] - points).max() > 1
