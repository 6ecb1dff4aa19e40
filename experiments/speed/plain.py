"""Networks and images as in the published studies, without anything of signlang.

It is not even imported: that alone would keep large buffers from being returned to the kernel.
"""

from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import timm
import torch
from cases import Case
from torch import nn
from torch.utils.data import Dataset
from torchvision.models import squeezenet1_0


def network(case: Case) -> nn.Module:
    """Build a network with random weights, in float32 and torch's default memory layout."""
    if case.network == "simple_cnn":
        return _model_a(case)
    if case.network == "mobilenetv2_dense":
        backbone = timm.create_model("mobilenetv2_100", num_classes=0, global_pool="max")
        return nn.Sequential(backbone, *_dense(1280, case.classes))
    if case.network == "squeezenet":
        network: nn.Module = squeezenet1_0(num_classes=case.classes)
        return network
    names = {"resnet18": "resnet18", "mobilenetv2": "mobilenetv2_100"}
    return timm.create_model(names[case.network], num_classes=case.classes)


def _model_a(case: Case) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ELU(), nn.MaxPool2d(3)]
        layers += [nn.BatchNorm2d(after)]
    pooled = case.size // 27
    return nn.Sequential(*layers, nn.Flatten(), *_dense(128 * pooled * pooled, case.classes))


def _dense(features: int, classes: int) -> list[nn.Module]:
    first, second = nn.Linear(features, 256), nn.Linear(256, 256)
    return [first, nn.ReLU(), nn.Dropout(0.3), second, nn.ReLU(), nn.Linear(256, classes)]


def augmentation(case: Case) -> list[Any]:
    """The study's transforms of albumentations."""
    if case.data == "digits":
        shift = {"x": (-0.1, 0.1), "y": (-0.1, 0.1)}
        zoom = {"x": (0.9, 1.1), "y": (0.9, 1.1)}
        edge = cv2.BORDER_REPLICATE
        return [A.Affine(rotate=(-20, 20), translate_percent=shift, scale=zoom, border_mode=edge)]
    sizes = {"hole_height_range": (10, 30), "hole_width_range": (10, 30)}
    return [
        A.Rotate(limit=10, p=0.5),
        A.HorizontalFlip(p=0.6),
        A.RandomBrightnessContrast(p=0.5),
        A.ChannelShuffle(p=0.4),
        A.HueSaturationValue(p=0.5),
        A.Blur(blur_limit=(3, 7), p=0.5),
        A.CoarseDropout(num_holes_range=(8, 10), p=0.5, **sizes),
    ]


def files(root: Path) -> tuple[list[Path], np.ndarray[Any, np.dtype[np.int64]]]:
    """All images below a folder of class folders, and the numbers of their classes."""
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    entries = [(file, n) for n, folder in enumerate(folders) for file in sorted(folder.iterdir())]
    return [file for file, _ in entries], np.array([n for _, n in entries])


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Decodes and transforms image by image, again in each epoch."""

    def __init__(self, paths: list[Path], labels: list[int], case: Case, train: bool) -> None:
        self.paths, self.labels = paths, labels
        steps = augmentation(case) if train else []
        self.transform = A.Compose([*steps, A.Resize(case.size, case.size)])

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """(3, size, size) from 0 to 1, and the number of its class."""
        image = cv2.cvtColor(cv2.imread(str(self.paths[row])), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
        image = self.transform(image=image)["image"]
        planes = (image.astype(np.float32) / 255.0).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(planes)), int(self.labels[row])
