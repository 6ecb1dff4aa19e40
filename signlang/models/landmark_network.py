"""A small network of hand landmarks: 21 points, their distances, and two dense layers.

Random rotation, scale and jitter of the points are part of the network in training mode, as
transforms of images cannot turn points.
"""

import math
from typing import Final

import torch
from torch import nn

from signlang.hands.hand_input import GRID, LIMIT, STEPS

POINTS: Final = GRID * GRID // 3
ROTATION: Final = 20.0  # largest angle in the image, in degrees
TILT: Final = 15.0  # likewise about the other axes: the camera's place
ZOOM: Final = 0.1  # largest change of each axis
JITTER: Final = 0.03  # standard deviation of a coordinate, in palms


class LandmarkNetwork(nn.Module):
    """Classifies hands by images (B, 3, 8, 8) in 0 to 1, see `hands.hand_input.HandPoints`.

    Args:
        num_classes: Number of logits.
        width: Outputs of the two hidden layers.
        dropout: Share of them that is dropped in training.
    """

    first: torch.Tensor
    second: torch.Tensor

    def __init__(self, num_classes: int, width: int = 48, dropout: float = 0.1) -> None:
        super().__init__()
        pairs = torch.triu_indices(POINTS, POINTS, offset=1)
        self.register_buffer("first", pairs[0], persistent=False)
        self.register_buffer("second", pairs[1], persistent=False)
        features = 3 * POINTS + pairs.shape[1] + 1
        self.features = nn.BatchNorm1d(features)
        self.dense = nn.Sequential(
            nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, 8, 8) to (B, num_classes) logits."""
        points, found = decode_points(images)
        if self.training:
            points = _moved(points)
        points = points * found[:, :, None]  # no hand: all at the wrist
        apart = points[:, self.first] - points[:, self.second]
        distances = (apart.square().sum(dim=2) + 1e-6).sqrt()
        features = torch.cat([points.flatten(1), distances, found], dim=1)
        logits: torch.Tensor = self.classifier(self.dense(self.features(features)))
        return logits


def decode_points(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (B, 21, 3) in palms and whether there is a hand (B, 1) of images (B, 3, 8, 8)."""
    numbers = (images[:, 0] * (255 * 256) + images[:, 1] * 255).flatten(1)
    points = numbers[:, :-1] * (2 * LIMIT / STEPS) - LIMIT
    return points.view(-1, POINTS, 3), (numbers[:, -1:] / STEPS)


def _moved(points: torch.Tensor) -> torch.Tensor:
    """Turn, stretch and jitter points (B, 21, 3) at random."""
    count, device = len(points), points.device

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, device=device) * 2 - 1) * limit

    for axes, limit in (((0, 1), ROTATION), ((0, 2), TILT), ((1, 2), TILT)):
        angle = uniform(math.radians(limit))
        cosine, sine = angle.cos()[:, None], angle.sin()[:, None]
        one, other = points[:, :, axes[0]], points[:, :, axes[1]]
        turned = [points[:, :, axis] for axis in range(3)]
        turned[axes[0]], turned[axes[1]] = (
            one * cosine - other * sine,
            one * sine + other * cosine,
        )
        points = torch.stack(turned, dim=2)
    zoom = 1 + (torch.rand(count, 1, 3, device=device) * 2 - 1) * ZOOM
    return points * zoom + torch.randn_like(points) * JITTER
