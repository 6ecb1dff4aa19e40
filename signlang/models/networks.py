"""Networks by name: torch modules from (B, 3, size, size) to (B, classes) logits.

Figures: one core of an Intel Xeon with AMX, torch 2.15.0, bfloat16, channels last.

Networks see normalized images; the classifier around them normalizes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, cast

import torch
from torch import nn
from torch.nn import functional as F

from signlang.errors import SettingError, WeightsError, suggestion
from signlang.models import weights as files
from signlang.validation import check_image_size


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution with a stride that stays in float32 under autocast on a processor.

    oneDNN computes its gradient in bfloat16 by a loop: 215 ms against 37 ms in float32 for
    (64, 96, 64, 64) and a stride of 2, 74 against 1 ms for (64, 192, 16, 16). Four such layers
    took half of MobileNetV2's training.
    """

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu") or input.device.type != "cpu":
            out: torch.Tensor = super()._conv_forward(input, weight, bias)
            return out
        with torch.autocast("cpu", enabled=False):
            out = super()._conv_forward(input.float(), weight.float(), bias)
        return out.to(torch.get_autocast_dtype("cpu"))


class OutOfPlaceReLU(nn.ReLU):
    """A ReLU that works in place on GPUs only, where that saves memory and costs nothing.

    On a processor relu_ takes 67 ms for (64, 96, 112, 112), and relu 41 with its allocation.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map any shape to the same shape."""
        return F.relu(input, inplace=input.device.type != "cpu")


class OutOfPlaceReLU6(nn.ReLU6):
    """Likewise: clamp_ takes 30 ms for (64, 144, 56, 56), and clamp 14."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map any shape to the same shape."""
        return F.relu6(input, inplace=input.device.type != "cpu")


OUT_OF_PLACE: Final = {nn.ReLU: OutOfPlaceReLU, nn.ReLU6: OutOfPlaceReLU6}


def optimize_for_cpu(network: nn.Module) -> nn.Module:
    """Replace strided depthwise convolutions and activations in place; it is changed itself.

    >>> [type(layer).__name__ for layer in optimize_for_cpu(nn.Sequential(
    ...     nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.ReLU6(inplace=True),
    ...     nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6()))]
    ['StridedDepthwise', 'OutOfPlaceReLU6', 'Conv2d', 'ReLU6']
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1 < max(layer.stride):
            layer.__class__ = StridedDepthwise
        elif type(layer) in OUT_OF_PLACE and layer.inplace:
            layer.__class__ = OUT_OF_PLACE[type(layer)]
    return network


class DenseHead(nn.Module):
    """Features, then the three dense layers that Model A and Model B of the digits study share."""

    def __init__(self, backbone: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dense = nn.Sequential(
            nn.Linear(features, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(256, 256),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(256, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, size, size) to (B, classes) logits."""
        logits: torch.Tensor = self.classifier(self.dense(self.backbone(images)))
        return logits


def simple_cnn(classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """Model A of the digits study: three convolutions, 457,226 parameters at 100 x 100.

    Each convolution is followed by ELU, max-pooling of 3 and batch normalization. ELU is monotonic,
    so it stands behind the pooling here: the same function, with a ninth of the work.

    Raises:
        WeightsError: If pretrained weights are wanted: nobody has published any.
    """
    if pretrained:
        raise WeightsError("simple_cnn has no pretrained weights: say model.pretrained=false.")
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1),
            nn.MaxPool2d(3),
            nn.ELU(inplace=True),
            nn.BatchNorm2d(after),
        ]
    side = image_size // 3 // 3 // 3
    network = DenseHead(nn.Sequential(*layers, nn.Flatten()), 128 * side * side, classes)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):  # as Keras does, in which the study was made
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def mobilenetv2_dense(classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """Model B of the digits study: MobileNetV2, global max-pooling, dense layers."""
    backbone = _timm("mobilenetv2_100", pretrained, num_classes=0, global_pool="max")
    return DenseHead(backbone, 1280, classes)


def mobilenetv2(classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """MobileNetV2 of timm (Sandler et al. 2018)."""
    return _timm("mobilenetv2_100", pretrained, num_classes=classes)


def resnet18(classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """ResNet-18 of timm (He et al. 2016)."""
    return _timm("resnet18", pretrained, num_classes=classes)


def squeezenet(classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """SqueezeNet 1.0 of torchvision (Iandola et al. 2016).

    Its logits pass through a ReLU, so that a class whose logits begin below zero may never get a
    gradient. The last bias therefore starts at 1 instead of 0, to which softmax is indifferent.
    """
    from torchvision.models import SqueezeNet1_0_Weights, squeezenet1_0

    network = squeezenet1_0(num_classes=classes)
    nn.init.ones_(network.classifier[1].bias)
    if pretrained:
        with files.downloading("squeezenet"):
            state = SqueezeNet1_0_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
        features = {key: value for key, value in state.items() if key.startswith("features.")}
        network.load_state_dict(features, strict=False)
    return cast(nn.Module, network)


def timm(classes: int, image_size: int, pretrained: bool, *, architecture: str) -> nn.Module:
    """Any network of timm, by its name there.

    Raises:
        SettingError: If timm has no such network.
    """
    import timm as library

    if not library.is_model(architecture):
        close = get_close_matches(architecture, library.list_models(), n=5)
        raise SettingError(
            f"model.architecture={architecture}: timm has no such network"
            + (f"; did you mean {' or '.join(close)}?" if close else ", nor one with such a name.")
        )
    try:
        return _timm(architecture, pretrained, num_classes=classes, img_size=image_size)
    except TypeError:  # most networks take any size and have no such option
        return _timm(architecture, pretrained, num_classes=classes)


def _timm(name: str, pretrained: bool, **options: Any) -> nn.Module:
    import timm as library

    if not pretrained:
        return library.create_model(name, **options)
    with files.downloading(name):
        files.use_cache_if_offline()
        return library.create_model(name, pretrained=True, **options)


@dataclass(frozen=True)
class NetworkKind:
    """How a network is made and what of it depends on the classes.

    Attributes:
        make: From (classes, image size, pretrained, other options) to the network.
        head: The layer that depends on the classes; for others it is made anew. None: ask timm.
        backbone: The part that a file of plain weights of this kind fills, if not all of it.
    """

    make: Callable[..., nn.Module]
    head: str | None
    backbone: str = ""


NETWORKS: Final[Mapping[str, NetworkKind]] = {
    "resnet18": NetworkKind(resnet18, "fc"),
    "mobilenetv2": NetworkKind(mobilenetv2, "classifier"),
    "squeezenet": NetworkKind(squeezenet, "classifier.1"),
    "simple_cnn": NetworkKind(simple_cnn, "classifier"),
    "mobilenetv2_dense": NetworkKind(mobilenetv2_dense, "classifier", backbone="backbone"),
    "timm": NetworkKind(timm, None),
}


def build_network(
    name: str,
    classes: int,
    image_size: int,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Make a network.

    Args:
        name: One of `NETWORKS`.
        classes: Number of logits.
        image_size: Side of the images, in pixels.
        pretrained: Download ImageNet weights.
        weights: A file of weights instead, see `weights.load`.
        options: `architecture` for `timm`.

    Raises:
        SettingError: If there is no such network, or the images are too small for it.
        WeightsError: If weights cannot be had or do not fit.

    >>> sum(p.numel() for p in build_network("simple_cnn", 10, 100).parameters())
    457226
    """
    if name not in NETWORKS:
        raise SettingError(f"model={name}: there is no such network. {suggestion(name, NETWORKS)}")
    kind = NETWORKS[name]
    check_image_size(name, image_size)
    network = kind.make(classes, image_size, pretrained and weights is None, **options)
    if weights is not None:
        head = kind.head or network.pretrained_cfg["classifier"]  # type: ignore[index]
        files.load(network, weights, str(head), kind.backbone)
    return optimize_for_cpu(network)
