"""A network of crops and a network of the points of the hand, whose probabilities are averaged.

It reads the images of `hands.hand_input.HandBoth`: the crop, and a last row that holds the points.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from signlang.hands.hand_input import GRID
from signlang.models.landmark_network import LandmarkNetwork


class FusionNetwork(nn.Module):
    """Classifies crops and points of hands (B, 3, size, size) in 0 to 1.

    In training both predict by themselves, and the loss is that of each, so that neither relies on
    the other one.

    Args:
        backbone: Maps normalized crops (B, 3, size, size) to features (B, n).
        features: Their number.
        landmarks: The network of the points.
        num_classes: Number of logits.
        mean: Mean of red, green and blue that the backbone wants, for pixels in 0 to 1.
        std: Standard deviation, likewise.
        points_rate: Learning rate of the points, in learning rates of the crop.
    """

    mean: torch.Tensor
    std: torch.Tensor
    classifier: nn.Linear

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        landmarks: LandmarkNetwork,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        points_rate: float = 30.0,
    ) -> None:
        super().__init__()
        self.backbone, self.landmarks = backbone, landmarks
        self.points_rate = points_rate
        # SqueezeNet has no normalization: its features reach 200
        self.head = nn.Sequential(nn.BatchNorm1d(features), nn.Dropout(0.3))
        self.classifier = nn.Linear(features, num_classes)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, size, size) to (B, num_classes) logits; in training (B, 2, num_classes)."""
        crops, points = split_rows(images)
        features = self.head(self.backbone((crops - self.mean) / self.std).float())
        logits = torch.stack([self.classifier(features), self.landmarks(points)], dim=1)
        if self.training:
            return logits
        mean = torch.logsumexp(logits.log_softmax(2), dim=1) - math.log(2)
        return self.landmarks.without_empty(mean, points)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates: the points are a small network from scratch."""
        points = list(self.landmarks.parameters())
        point_ids = {id(parameter) for parameter in points}
        other_parameters = [
            parameter for parameter in self.parameters() if id(parameter) not in point_ids
        ]
        return [
            {"params": other_parameters},
            {"params": points, "lr": learning_rate * self.points_rate},
        ]


def split_rows(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (B, 3, size, size) and points (B, 3, 8, 8) of images (B, 3, size, size).

    The last row of the crops is that above once more.
    """
    points = images[:, :, -1, : GRID * GRID].reshape(-1, 3, GRID, GRID)
    crops = torch.cat([images[:, :, :-1], images[:, :, -2:-1]], dim=2)
    return crops, points
