"""A network of crops and a network of the points of the hand, whose predictions are one.

It reads the images of `hands.hand_input.HandBoth`: the crop, and a last row that holds the points.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from signlang.hands.hand_input import GRID
from signlang.models.landmark_network import LandmarkNetwork


class FusionNetwork(nn.Module):
    """Classifies crops and points of hands (B, 3, size, size) in 0 to 1.

    In training each hand is shown by its crop alone or by its points alone, at random, as a network
    that sees both relies on the one that learns faster (Neverova et al. 2015, ModDrop,
    arXiv 1501.00102).

    Args:
        backbone: Maps normalized crops (B, 3, size, size) to features (B, n).
        features: Their number.
        landmarks: The network of the points.
        num_classes: Number of logits.
        mean: Mean of red, green and blue that the backbone wants, for pixels in 0 to 1.
        std: Standard deviation, likewise.
        joint: Whether one layer sees both features; else both networks predict by themselves, and
            their probabilities are averaged.
        alone: Share of the hands that are shown by one of the two in training.
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
        joint: bool = False,
        alone: float = 1.0,
    ) -> None:
        super().__init__()
        self.backbone, self.landmarks = backbone, landmarks
        self.joint, self.alone = joint, alone
        width = landmarks.classifier.in_features
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(features + width * joint, num_classes)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, size, size) to (B, num_classes) logits."""
        crops, points = split_rows(images)
        seen = self.dropout(self.backbone((crops - self.mean) / self.std).float())
        if self.joint:
            told = self.landmarks.hidden(points)
            if self.training:
                one, other = self._shown(images)
                seen, told = seen * one[:, None], told * other[:, None]
            joined: torch.Tensor = self.classifier(torch.cat([seen, told], dim=1))
            return joined
        logits = torch.stack([self.classifier(seen), self.landmarks(points)])
        logs = F.log_softmax(logits.float(), dim=2)
        if self.training:
            shown = torch.stack(self._shown(images))
            return torch.logsumexp(logs + shown.log()[:, :, None], dim=0)
        return torch.logsumexp(logs, dim=0) - math.log(2)

    def _shown(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        which = torch.rand(len(images), device=images.device)
        crop_only, points_only = which < self.alone / 2, which > 1 - self.alone / 2
        return (~points_only).float(), (~crop_only).float()


def split_rows(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (B, 3, size, size) and points (B, 3, 8, 8) of images (B, 3, size, size).

    The last row of the crops is that above once more.
    """
    points = images[:, :, -1, : GRID * GRID].reshape(-1, 3, GRID, GRID)
    crops = torch.cat([images[:, :, :-1], images[:, :, -2:-1]], dim=2)
    return crops, points
