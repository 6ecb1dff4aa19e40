"""The network of crops and points."""

import numpy as np
import pytest
import torch
from PIL import Image

from signlang.hands.finder import Hand
from signlang.hands.hand_input import HandBoth, HandPoints
from signlang.hands.hand_networks import HandNetworks
from signlang.models import networks
from signlang.models.fusion_network import FusionNetwork, split_rows


@pytest.fixture(scope="module")
def network() -> FusionNetwork:
    torch.manual_seed(0)
    fusion = networks.build_network("fusion", 3, 64)
    assert isinstance(fusion, FusionNetwork)
    return fusion


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (4, 3, 64, 64)) / 255


def test_the_rows_are_split_into_crop_and_points(made_networks: HandNetworks) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8))
    hand = Hand(rng.uniform(10, 70, (21, 3)).astype(np.float32), 0.9, 0.9)
    both = np.asarray(HandBoth(networks=made_networks, image_size=66).of_hand(image, hand))
    alone = np.asarray(HandPoints(networks=made_networks).of_hand(image, hand))
    crops, points = split_rows(torch.tensor(both[None]).permute(0, 3, 1, 2))
    assert np.array_equal(points[0].permute(1, 2, 0).numpy(), alone)
    assert np.array_equal(crops[0, :, :-1].permute(1, 2, 0).numpy(), both[:-1])
    assert torch.equal(crops[0, :, -1], crops[0, :, -2]), "no number is seen as a pixel"


def test_the_prediction_is_the_mean_of_both(network: FusionNetwork, images: torch.Tensor) -> None:
    network.eval()
    with torch.no_grad():
        crops, points = split_rows(images)
        features = network.head(network.backbone((crops - network.mean) / network.std))
        wanted = [network.classifier(features), network.landmarks(points)]
        mean = torch.stack([logits.softmax(1) for logits in wanted]).mean(dim=0)
        assert torch.allclose(network(images).exp(), mean, atol=1e-5)


def test_in_training_each_predicts_by_itself(network: FusionNetwork, images: torch.Tensor) -> None:
    network.train()
    for head in (0, 1):
        read = images.clone().requires_grad_()
        logits = network(read)
        assert logits.shape == (4, 2, 3)
        logits[:, head, 0].sum().backward()
        assert read.grad is not None
        by_crop, by_points = read.grad[:, :, :-1].any(), read.grad[:, :, -1].any()
        assert (bool(by_crop), bool(by_points)) == (head == 0, head == 1)


def test_points_learn_at_a_rate_of_their_own(network: FusionNetwork) -> None:
    crop, points = network.parameter_groups(0.001)
    assert points["lr"] == pytest.approx(0.03)
    assert {id(p) for p in points["params"]} == {id(p) for p in network.landmarks.parameters()}
    everything = [*crop["params"], *points["params"]]
    assert len(everything) == len(list(network.parameters()))


def test_the_image_network_is_one_of_ours_or_of_timm() -> None:
    for image, size in (("mobilenetv2", 1280), ("resnet10t", 512)):
        model = networks.fusion(3, 64, image=image)
        assert isinstance(model, FusionNetwork)
        assert model.classifier.in_features == size
        assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 3)
