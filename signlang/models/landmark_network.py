"""A small network of hand landmarks: 21 points, their distances, and two dense layers.

Random rotation, scale and jitter of the points are part of the network in training mode, as
transforms of images cannot turn points.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from signlang.errors import SettingError
from signlang.hands.hand_input import GRID, LIMIT, STEPS

POINTS: Final = GRID * GRID // 3
FINGERS: Final = 5


@dataclass(frozen=True)
class Movement:
    """How far points are moved at random in training; see `moved`.

    Attributes:
        rotation: Largest angle in the image, in degrees.
        tilt: Likewise about the other axes: the camera's place.
        zoom: Largest change of each axis, as a share.
        jitter: Standard deviation of a coordinate, in palms.
        bones: Largest change of the length of each bone, as a share: hands of other people.
        depth: Largest change of all depths, as a share: they are guessed from one image.
        mirrored: Share of the hands that are mirrored: left and right are mistaken at times.
    """

    rotation: float = 20.0
    tilt: float = 15.0
    zoom: float = 0.1
    jitter: float = 0.03
    bones: float = 0.0
    depth: float = 0.0
    mirrored: float = 0.0


class LandmarkNetwork(nn.Module):
    """Classifies hands by images (B, 3, 8, 8) in 0 to 1, see `hands.hand_input.HandPoints`.

    Args:
        num_classes: Number of logits.
        width: Outputs of the two hidden layers.
        dropout: Share of them that is dropped in training.
        movement: Of the points in training; None: that of `Movement`.
        reject_empty: An image without a hand has all classes equally probable, whatever it is
            called in training; else it is learnt like any other image, and all of them get the
            class that most of them have.
        dimensions: 2: the layers see x and y only; depth, which is guessed from one image, serves
            to turn the hand in training. 3: they see depth as well.
    """

    first: torch.Tensor
    second: torch.Tensor

    def __init__(
        self,
        num_classes: int,
        width: int = 48,
        dropout: float = 0.1,
        movement: Movement | None = None,
        reject_empty: bool = False,
        dimensions: int = 3,
    ) -> None:
        super().__init__()
        self.movement, self.reject_empty = movement or Movement(), reject_empty
        if dimensions not in {2, 3}:
            raise SettingError(f"model.network.dimensions={dimensions}: say 2 or 3.")
        self.dimensions = dimensions
        pairs = torch.triu_indices(POINTS, POINTS, offset=1)
        self.register_buffer("first", pairs[0], persistent=False)
        self.register_buffer("second", pairs[1], persistent=False)
        features = dimensions * POINTS + pairs.shape[1] + 1
        self.features = nn.BatchNorm1d(features)
        self.dense = nn.Sequential(
            nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, 8, 8) to (B, num_classes) logits."""
        logits: torch.Tensor = self.classifier(self.hidden(images))
        return self.without_empty(logits, images)

    def without_empty(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, n) of images (B, 3, 8, 8); zeros of those that are to be rejected."""
        return logits * decode_points(images)[1] if self.reject_empty else logits

    def hidden(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, 8, 8) to (B, width), the features of the output layer."""
        points, has_hand = decode_points(images)
        if self.training:
            points = moved(points, self.movement)
        points = points[:, :, : self.dimensions] * has_hand[:, :, None]  # no hand: all at the wrist
        differences = points[:, self.first] - points[:, self.second]
        distances = (differences.square().sum(dim=2) + 1e-6).sqrt()
        features = torch.cat([points.flatten(1), distances, has_hand], dim=1)
        hidden: torch.Tensor = self.dense(self.features(features))
        return hidden


def decode_points(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (B, 21, 3) in palms and whether there is a hand (B, 1) of images (B, 3, 8, 8)."""
    numbers = (images[:, 0] * (255 * 256) + images[:, 1] * 255).flatten(1)
    points = numbers[:, :-1] * (2 * LIMIT / STEPS) - LIMIT
    return points.view(-1, POINTS, 3), (numbers[:, -1:] / STEPS)


def moved(points: torch.Tensor, movement: Movement) -> torch.Tensor:
    """Turn, stretch and jitter points (B, 21, 3) at random, with the wrist as origin."""
    count, device = len(points), points.device

    def uniform(limit: float, *shape: int) -> torch.Tensor:
        return (torch.rand(count, *shape, device=device) * 2 - 1) * limit

    if movement.bones:
        points = _stretch_bones(points, 1 + uniform(movement.bones, FINGERS, 4, 1))
    scale = 1 + uniform(movement.zoom, 1, 3)
    if movement.depth:
        scale = torch.cat([scale[:, :, :2], 1 + uniform(movement.depth, 1, 1)], dim=2)
    if movement.mirrored:
        sign = 1 - 2 * (torch.rand(count, 1, 1, device=device) < movement.mirrored).float()
        scale = torch.cat([scale[:, :, :1] * sign, scale[:, :, 1:]], dim=2)
    tilt = movement.tilt
    for axes, limit in (((0, 1), movement.rotation), ((0, 2), tilt), ((1, 2), tilt)):
        angle = uniform(math.radians(limit))
        cosine, sine = angle.cos()[:, None], angle.sin()[:, None]
        first, second = points[:, :, axes[0]], points[:, :, axes[1]]
        turned = [points[:, :, axis] for axis in range(3)]
        turned[axes[0]], turned[axes[1]] = (
            first * cosine - second * sine,
            first * sine + second * cosine,
        )
        points = torch.stack(turned, dim=2)
    return points * scale + torch.randn_like(points) * movement.jitter


def _stretch_bones(points: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Points (B, 21, 3) whose bones, four in each finger from the wrist, have other lengths."""
    wrist, fingers = points[:, :1], points[:, 1:].reshape(-1, FINGERS, 4, 3)
    bone_starts = torch.cat([wrist[:, None].expand(-1, FINGERS, -1, -1), fingers[:, :, :-1]], dim=2)
    bone_ends = wrist[:, None] + ((fingers - bone_starts) * factors).cumsum(dim=2)
    return torch.cat([wrist, bone_ends.flatten(1, 2)], dim=1)
