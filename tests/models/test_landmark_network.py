"""Movement of the points of hands in training."""

import pytest
import torch

from signlang.errors import SettingError
from signlang.models import networks
from signlang.models.landmark_network import LandmarkNetwork, Movement, moved

STILL: dict[str, float] = {"rotation": 0.0, "tilt": 0.0, "zoom": 0.0, "jitter": 0.0}


@pytest.fixture
def points() -> torch.Tensor:
    torch.manual_seed(0)
    drawn = torch.randn(400, 21, 3)
    drawn[:, 0] = 0
    return drawn


def bones(points: torch.Tensor) -> torch.Tensor:
    fingers = points[:, 1:].reshape(-1, 5, 4, 3)
    before = torch.cat([torch.zeros_like(fingers[:, :, :1]), fingers[:, :, :-1]], dim=2)
    return fingers - before


def test_without_movement_points_stay(points: torch.Tensor) -> None:
    assert torch.equal(moved(points, Movement(**STILL)), points)


def test_bones_change_their_length_only(points: torch.Tensor) -> None:
    before, after = bones(points), bones(moved(points, Movement(**STILL, bones=0.2)))
    ratio = after.norm(dim=3) / before.norm(dim=3)
    assert (float(ratio.min()), float(ratio.max())) == pytest.approx((0.8, 1.2), abs=0.01)
    assert torch.allclose(torch.cosine_similarity(before, after, dim=3), torch.ones(1), atol=1e-4)


def test_depth_and_side_change_one_axis(points: torch.Tensor) -> None:
    after = moved(points, Movement(**STILL, depth=0.5, mirrored=0.25))
    assert torch.equal(after[..., 1], points[..., 1])
    turned = torch.isclose(after[:, 1, 0], -points[:, 1, 0])
    assert torch.allclose(after[..., 0].abs(), points[..., 0].abs())
    assert 0.15 < float(turned.float().mean()) < 0.35
    depth = after[:, 1:, 2] / points[:, 1:, 2]
    assert (float(depth.min()), float(depth.max())) == pytest.approx((0.5, 1.5), abs=0.02)
    assert float(depth.std(dim=1).max()) < 1e-3  # all of a hand together


def test_the_configuration_sets_the_movement() -> None:
    network = networks.landmarks(3, 8, mirrored=0.1, rotation=5)
    assert network.movement == Movement(rotation=5, mirrored=0.1)
    with pytest.raises(TypeError, match="mirored"):
        networks.landmarks(3, 8, mirored=0.1)


@pytest.mark.parametrize("kind", ["landmarks", "fusion"])
def test_without_a_hand_no_sign_is_more_probable(kind: str) -> None:
    torch.manual_seed(0)
    size = 8 if kind == "landmarks" else 64
    images = torch.rand(3, 3, size, size)
    images[0, :, -1] = 0  # the whole of the points' row, or the last eight numbers
    images[1:, :, -1, 7 if kind == "landmarks" else 63] = 1  # there is a hand
    learnt, rejected = (
        getattr(networks, kind)(4, size, reject_empty=reject).eval() for reject in (False, True)
    )
    rejected.load_state_dict(learnt.state_dict())
    with torch.no_grad():
        before, after = learnt(images).softmax(1), rejected(images).softmax(1)
    assert torch.allclose(after[0], torch.full((4,), 0.25))
    assert float((before[0] - 0.25).abs().max()) > 0.001
    assert torch.allclose(after[1:], before[1:], atol=1e-4)


def test_in_two_dimensions_depth_is_not_seen() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8)
    images[:, :2, -1, -1] = 1  # there is a hand
    nearer = images.clone()
    for number in range(2, 63, 3):
        nearer[:, :2, number // 8, number % 8] = torch.rand(4, 2)
    flat, deep = (LandmarkNetwork(4, dimensions=seen).eval() for seen in (2, 3))
    with torch.no_grad():
        assert torch.equal(flat(images), flat(nearer))
        assert not torch.allclose(deep(images), deep(nearer), atol=1e-3)
    assert flat.features.num_features == deep.features.num_features - 21
    with pytest.raises(SettingError, match=r"dimensions=1: say 2 or 3"):
        networks.landmarks(4, 8, dimensions=1)


def test_in_two_dimensions_depth_still_turns_hands_in_training() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 8, 8).expand(64, -1, -1, -1).clone()
    images[:, :2, -1, -1] = 1
    nearer = images.clone()
    nearer[:, :2, 0, 2] = 0  # depth of the first point
    movement = Movement(rotation=0, tilt=20, zoom=0, jitter=0)
    network = LandmarkNetwork(4, dimensions=2, movement=movement)
    seen: list[torch.Tensor] = []
    network.features.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    for one in (images, nearer):
        torch.manual_seed(1)
        network.train()(one)
    assert not torch.allclose(seen[0], seen[1], atol=0.01)


@pytest.mark.parametrize("kind", ["landmarks", "fusion"])
def test_the_configuration_sets_the_dimensions(kind: str) -> None:
    network = getattr(networks, kind)(3, 8 if kind == "landmarks" else 64, dimensions=2)
    points = network if kind == "landmarks" else network.landmarks
    assert points.dimensions == 2
