"""Networks: torch modules from (B, 3, size, size) to (B, num_classes) logits.

Their inputs are normalized by the classifier. Timings in this module: one core of an Intel Xeon
with AMX, torch 2.15.0, bfloat16, channels last.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import nn
from torch.nn import functional as F

from signlang.components import (
    OWN_NETWORKS,
    TARGET,
    Resolver,
    build,
    check_timm_name,
    import_target,
    takes,
)
from signlang.errors import SettingError, WeightsError, suggestion
from signlang.models import weights as weight_files
from signlang.validation import NORMALIZATIONS, check_image_size


class StridedDepthwise(nn.Conv2d):
    """A strided depthwise convolution that stays in float32 under autocast on a CPU.

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


class TensorFlowConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's `same`: what is odd goes below and on the right.

    >>> layer = TensorFlowConv2d(1, 1, 3, stride=2, padding=1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1, 4, 4)).squeeze().tolist()  # padded on the left: 4, 6, 6, 9
    [[9.0, 6.0], [6.0, 4.0]]
    """

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        sides = zip(input.shape[-2:], self.kernel_size, self.stride, strict=True)
        rows, columns = (max((-(-n // stride) - 1) * stride + kernel - n, 0)
                         for n, kernel, stride in sides)  # fmt: skip
        padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return F.conv2d(
            F.pad(input, padding), weight, bias, self.stride, 0, self.dilation, self.groups
        )


class StridedTensorFlowDepthwise(StridedDepthwise, TensorFlowConv2d):
    """Both of them."""


STRIDED_DEPTHWISE: Final[Mapping[type[nn.Conv2d], type[nn.Conv2d]]] = {
    nn.Conv2d: StridedDepthwise, TensorFlowConv2d: StridedTensorFlowDepthwise,
}  # fmt: skip


class OutOfPlaceReLU(nn.ReLU):
    """A ReLU that works in place on GPUs only, where that saves memory and costs nothing.

    On a CPU relu_ takes 67 ms for (64, 96, 112, 112), and relu 41 with its allocation.
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
    """Replace strided depthwise convolutions and activations of a network in place.

    >>> [type(layer).__name__ for layer in optimize_for_cpu(nn.Sequential(
    ...     nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.ReLU6(inplace=True),
    ...     nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6()))]
    ['StridedDepthwise', 'OutOfPlaceReLU6', 'Conv2d', 'ReLU6']
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 < max(
            layer.stride
        ):
            layer.__class__ = STRIDED_DEPTHWISE.get(type(layer), type(layer))
        elif type(layer) in OUT_OF_PLACE and layer.inplace:
            layer.__class__ = OUT_OF_PLACE[type(layer)]
    return network


class DenseHead(nn.Module):
    """Features, then the three dense layers that Model A and Model B of the digits study share."""

    def __init__(self, backbone: nn.Module, features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dense = nn.Sequential(
            nn.Linear(features, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(256, 256),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, size, size) to (B, num_classes) logits."""
        logits: torch.Tensor = self.classifier(self.dense(self.backbone(images)))
        return logits


def simple_cnn(num_classes: int, image_size: int, pretrained: bool = False) -> nn.Module:
    """Model A of the digits study: three convolutions, 457,226 parameters at 100 x 100.

    Each convolution is followed by ELU, max-pooling of 3 and batch normalization. ELU is monotonic,
    so it follows the pooling here: the same function at a ninth of the cost.

    Raises:
        WeightsError: If pretrained weights are requested: there are none.
    """
    if pretrained:
        raise WeightsError("simple_cnn has no pretrained weights: use model.pretrained=false.")
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1),
            nn.MaxPool2d(3),
            nn.ELU(inplace=True),
            nn.BatchNorm2d(after),
        ]
    pooled = image_size // 3 // 3 // 3
    network = DenseHead(nn.Sequential(*layers, nn.Flatten()), 128 * pooled * pooled, num_classes)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):  # as Keras, which the study used
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def shrink_convolutions(network: nn.Module, factor: float) -> nn.Module:
    """Multiply the weights of all convolutions without bias by a factor, in place.

    Batch normalization follows each of them, so that the outputs stay the same, and its running
    variance is multiplied likewise. Steps of Adam have a size of their own, so that the direction
    of a smaller weight turns faster (van Laarhoven 2017, arXiv 1706.05350). What that is worth is
    measured in `experiments/from_scratch`.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)).eval()
    >>> before = network(torch.ones(1, 3, 5, 5))
    >>> after = shrink_convolutions(network, 0.5)(torch.ones(1, 3, 5, 5))
    >>> bool(torch.allclose(before, after, atol=1e-4))
    True
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            layer.weight.data.mul_(factor)
        elif isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
            layer.running_var.mul_(factor**2)
    return network


def compute_as_tensorflow(network: nn.Module) -> nn.Module:
    """Change layers in place to what weights from TensorFlow or Keras were trained with.

    Convolutions with a stride pad as `TensorFlowConv2d`, and the epsilon of batch normalizations is
    1e-3 instead of 1e-5. What that is worth is measured in `experiments/pretrained`.
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and max(layer.stride) > 1:
            layer.__class__ = TensorFlowConv2d
        elif isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    return network


def mobilenetv2_dense(
    num_classes: int, image_size: int, pretrained: bool = False, *, tensorflow: bool = False
) -> nn.Module:
    """Model B of the digits study: MobileNetV2, global max-pooling, dense layers.

    Arguments as of `mobilenetv2`; all of the dense layers start at random.
    """
    backbone = _timm_mobilenetv2(pretrained, tensorflow, num_classes=0, global_pool="max")
    return DenseHead(backbone, 1280, num_classes)


def mobilenetv2(
    num_classes: int, image_size: int, pretrained: bool = False, *, tensorflow: bool = False
) -> nn.Module:
    """MobileNetV2 of timm (Sandler et al. 2018); from scratch with small weights.

    Args:
        num_classes: Number of logits.
        image_size: Of any value: the network pools what is left.
        pretrained: Whether all but the last layer starts from timm's ImageNet weights.
        tensorflow: See `compute_as_tensorflow`.
    """
    network = _timm_mobilenetv2(pretrained, tensorflow, num_classes=num_classes)
    if not pretrained:
        draw_small_head(network)
    return network


def _timm_mobilenetv2(pretrained: bool, tensorflow: bool, **options: Any) -> nn.Module:
    network = _create_timm(TIMM_NAMES["mobilenetv2"], pretrained, **options)
    if not pretrained:
        shrink_convolutions(network, 0.1)
    return compute_as_tensorflow(network) if tensorflow else network


def resnet18(num_classes: int, image_size: int, pretrained: bool = False) -> nn.Module:
    """ResNet-18 of timm (He et al. 2016); from scratch with small convolutions.

    Timm starts the last normalization of each block at zero, which is slow: with few steps these
    blocks hardly learn. Here it starts at one, as in the paper.
    """
    network = _create_timm("resnet18", pretrained, num_classes=num_classes, zero_init_last=False)
    return network if pretrained else shrink_convolutions(network, 0.3)


def squeezenet(
    num_classes: int, image_size: int, pretrained: bool = False, *, dropout: float = 0.5
) -> nn.Module:
    """SqueezeNet 1.0 of torchvision (Iandola et al. 2016).

    Its logits pass through a ReLU, so that a class whose logits start below zero may never get a
    gradient. The last bias therefore starts at 1 instead of 0, which does not change the softmax.

    Args:
        num_classes: Number of logits.
        image_size: Of any value: the network pools what is left.
        pretrained: Whether all but the last layer starts from torchvision's ImageNet weights.
        dropout: Share of the features before the last layer that is dropped in training.
    """
    from torchvision.models import SqueezeNet1_0_Weights, squeezenet1_0

    network = squeezenet1_0(num_classes=num_classes, dropout=dropout)
    nn.init.ones_(network.classifier[1].bias)
    if pretrained:
        hub_weights = weight_files.torchvision_weights(
            SqueezeNet1_0_Weights.IMAGENET1K_V1.url, "squeezenet"
        )
        state = torch.load(hub_weights.file, map_location="cpu", weights_only=True)
        features = {key: value for key, value in state.items() if key.startswith("features.")}
        network.load_state_dict(features, strict=False)
    return cast(nn.Module, network)


def timm(
    num_classes: int, image_size: int, pretrained: bool = False, *, architecture: str
) -> nn.Module:
    """Any network of timm, by its name there.

    Raises:
        SettingError: If timm has no such network.
    """
    check_timm_name(architecture)
    try:
        return _create_timm(architecture, pretrained, num_classes=num_classes, img_size=image_size)
    except TypeError:  # most networks accept any size and have no such option
        return _create_timm(architecture, pretrained, num_classes=num_classes)


def _create_timm(name: str, pretrained: bool, **options: Any) -> nn.Module:
    import timm as library

    if not pretrained:
        return library.create_model(name, **options)
    hub_weights = weight_files.timm_weights(name)
    if hub_weights is None:
        raise WeightsError(f"{name} has no pretrained weights: use model.pretrained=false.")
    network: Any = library.create_model(
        name, pretrained=True, **_timm_file_argument(hub_weights), **options
    )
    if options["num_classes"] != network.pretrained_cfg["num_classes"]:
        draw_small_head(network)
    return cast(nn.Module, network)


def draw_small_head(network: nn.Module) -> None:
    """Draw the last linear layer of a network of timm from N(0, 0.01), with a bias of 0.

    Timm draws the last layer of MobileNets and EfficientNets by its number of classes, for 29 with
    a deviation of 0.11: logits are then so large that the first epochs spoil the features, which
    matters most where these are ImageNet's. 0.01 is torchvision's. What that is worth is measured
    in `experiments/pretrained`.
    """
    head = network.get_submodule(head_of(network, 0))
    if isinstance(head, nn.Linear):  # without classes there is none
        nn.init.normal_(head.weight, 0, 0.01)
        if head.bias is not None:
            nn.init.zeros_(head.bias)


def _timm_file_argument(hub_weights: weight_files.HubWeights) -> dict[str, Any]:
    """Argument of `timm.create_model` that loads a file, and asks no hub."""
    return {"pretrained_cfg_overlay": {"file": str(hub_weights.file)}}


def landmarks(
    num_classes: int, image_size: int, pretrained: bool = False, *, width: int = 48,
    dropout: float = 0.1, reject_empty: bool = False, dimensions: int = 3, **movement: float,
) -> nn.Module:  # fmt: skip
    """Points of the hand, see `models.landmark_network`; 20,066 parameters with 26 classes.

    Raises:
        WeightsError: If pretrained weights are requested: there are none.
    """
    from signlang.models.landmark_network import LandmarkNetwork, Movement

    if pretrained:
        raise WeightsError("landmarks has no pretrained weights: use model.pretrained=false.")
    moves = Movement(**movement)
    return LandmarkNetwork(num_classes, width, dropout, moves, reject_empty, dimensions)


def fusion(
    num_classes: int, image_size: int, pretrained: bool = False, *, image: str = "squeezenet",
    normalization: str = "imagenet", points_rate: float = 30.0, width: int = 48,
    dropout: float = 0.1, reject_empty: bool = False, dimensions: int = 3, **movement: float,
) -> nn.Module:  # fmt: skip
    """Crop and points of the hand, see `models.fusion_network`.

    Args:
        num_classes: Number of logits.
        image_size: Width and height of the images, in pixels.
        pretrained: Whether the image network starts from its pretrained weights.
        image: The network of the crop: squeezenet, mobilenetv2, or any of timm by its name.
        normalization: What its weights want, one of `validation.NORMALIZATIONS`.
        points_rate: Learning rate of the points, in learning rates of the crop.
        width: Of the network of the points, as `dropout` and `movement`.
        dropout: See `landmark_network.LandmarkNetwork`.
        reject_empty: Likewise; of the mean of both.
        dimensions: Of the points that the layers see, likewise.
        movement: See `landmark_network.Movement`.
    """
    from signlang.models.fusion_network import FusionNetwork
    from signlang.models.landmark_network import LandmarkNetwork, Movement

    if image == "squeezenet":
        backbone, features = squeezenet(num_classes, image_size, pretrained), 512
        backbone.classifier = nn.AdaptiveAvgPool2d(1)
    else:
        name = TIMM_NAMES.get(image, image)
        check_timm_name(name)
        backbone = _create_timm(name, pretrained, num_classes=0)
        features = int(cast(Any, backbone.num_features))
    mean, std = NORMALIZATIONS[normalization]
    moves = Movement(**movement)
    points = LandmarkNetwork(num_classes, width, dropout, moves, reject_empty, dimensions)
    return FusionNetwork(backbone, features, points, num_classes, mean, std, points_rate)


# own networks: the layer that depends on the classes, and the submodule that plain weights fill
FACTORIES: Final[Mapping[str, tuple[str, str]]] = {
    "resnet18": ("fc", ""),
    "mobilenetv2": ("classifier", ""),
    "squeezenet": ("classifier.1", ""),
    "simple_cnn": ("classifier", ""),
    "mobilenetv2_dense": ("classifier", "backbone"),
    "timm": ("", ""),
    "landmarks": ("classifier", ""),
    "fusion": ("classifier", "backbone"),
}
OF_TIMM: Final = ("resnet18", "mobilenetv2", "timm")  # all of it, the head included
TIMM_NAMES: Final[Mapping[str, str]] = {
    "resnet18": "resnet18",
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv2_dense": "mobilenetv2_100",
}


def pretrained_weights(network: Mapping[str, Any]) -> weight_files.HubWeights | None:
    """The pretrained weights that `model.pretrained=auto` means; None if there are none to know of.

    Args:
        network: The node of a network. Those of signlang and timm are known.

    Raises:
        WeightsError: If they are in no cache, and cannot be downloaded.
    """
    if _own_name(network) == "fusion":
        name = str(network.get("image", "squeezenet"))
        network = {TARGET: f"{OWN_NETWORKS}.{name if name in FACTORIES else 'timm'}",
                   "architecture": name}  # fmt: skip
    if _own_name(network) == "squeezenet":
        from torchvision.models import SqueezeNet1_0_Weights

        url = SqueezeNet1_0_Weights.IMAGENET1K_V1.url
        return weight_files.torchvision_weights(url, "squeezenet")
    architecture = _timm_name(network)
    return weight_files.timm_weights(architecture) if architecture else None


def _timm_name(network: Mapping[str, Any]) -> str:
    """Name of a network at timm; empty if it is none of timm, or of a hub by its address."""
    own_name = _own_name(network)
    name = network.get("architecture") if own_name == "timm" else TIMM_NAMES.get(own_name or "", "")
    if network.get(TARGET) == "timm.create_model":
        name = network.get("model_name")
    return "" if ":" in str(name) else str(name or "")


def build_network(
    network: str | Mapping[str, Any],
    num_classes: int,
    image_size: int,
    *,
    pretrained: bool | str = False,
    weights: str | None = None,
    resolve: Resolver = import_target,
) -> nn.Module:
    """Build a network.

    Args:
        network: A node with `_target_` and arguments, see `signlang.components` for the contract;
            or the name of one of `FACTORIES`.
        num_classes: Number of logits.
        image_size: Width and height of the images, in pixels.
        pretrained: Start from the hub's weights. A text names those that a run was started from:
            its checkpoint brings them.
        weights: A file of weights instead, see `weights.load`.
        resolve: `components.import_listed` for a node from a file.

    Raises:
        SettingError: If there is no such network, the images are too small for it, or it breaks the
            contract.
        WeightsError: If weights cannot be downloaded or do not fit.
        RunError: If the node comes from a file and names unknown code.

    >>> sum(p.numel() for p in build_network("simple_cnn", 10, 100).parameters())
    457226
    """
    node = {TARGET: f"{OWN_NETWORKS}.{network}"} if isinstance(network, str) else dict(network)
    target = str(node.get(TARGET))
    if resolve is not import_target:
        resolve(target)
    own_name = _own_name(node)
    if own_name is not None:
        check_image_size(own_name, image_size)
    fetch = pretrained is True and weights is None
    if fetch and own_name is None and not takes(resolve(target), "pretrained"):
        raise SettingError(
            f"model.pretrained=true: {target} has no argument pretrained; give model.weights=FILE."
        )
    inputs = {"num_classes": num_classes, "image_size": image_size, "pretrained": fetch}
    if (
        fetch
        and target == "timm.create_model"
        and (hub_weights := pretrained_weights(node)) is not None
    ):
        inputs |= _timm_file_argument(hub_weights)
    built_network = build(node, inputs, key="model.network", resolve=resolve)
    if own_name is None:
        _check_contract(built_network, target, num_classes, image_size)
    if weights is not None:
        head, backbone = FACTORIES[own_name] if own_name is not None else ("", "")
        if own_name in OF_TIMM:
            draw_small_head(built_network)  # in case that the file has none for these classes
        weight_files.load(
            built_network, weights, head or head_of(built_network, num_classes), backbone
        )
    return optimize_for_cpu(built_network)


def _own_name(node: Mapping[str, Any]) -> str | None:
    """Name of a network of this module; None for another.

    Raises:
        SettingError: If the node names a network of this module that does not exist.
    """
    module, _, name = str(node.get(TARGET, "")).rpartition(".")
    if module != OWN_NETWORKS:
        return None
    if name not in FACTORIES:
        raise SettingError(f"model={name}: there is no such network. {suggestion(name, FACTORIES)}")
    return name


def _check_contract(network: Any, target: str, num_classes: int, image_size: int) -> None:
    """Refuse a network that does not map (N, 3, size, size) to (N, num_classes).

    Raises:
        SettingError: If it returns anything else.
    """
    mapping = f"(2, 3, {image_size}, {image_size}) to (2, {num_classes}) logits"
    if not isinstance(network, nn.Module):
        raise SettingError(
            f"model.network: {target} returns {type(network).__name__}, not a torch.nn.Module."
        )
    was_training = network.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            logits = network.eval()(torch.zeros(2, 3, image_size, image_size))
    except Exception as error:  # a user's network may raise anything
        raise SettingError(
            f"model.network: {target} must map {mapping}; it fails: {type(error).__name__}: {error}"
        ) from error
    network.train(was_training)
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (2, num_classes):
        returned = f"a tensor of {shape}" if shape else type(logits).__name__
        raise SettingError(f"model.network: {target} must map {mapping}; it returns {returned}.")


def head_of(network: nn.Module, num_classes: int) -> str:
    """Name of the output layer: timm's own entry, else the last one with that many outputs.

    >>> head_of(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), 3)
    '1'
    """
    pretrained_cfg = getattr(network, "pretrained_cfg", None)
    if isinstance(pretrained_cfg, Mapping) and isinstance(pretrained_cfg.get("classifier"), str):
        return str(pretrained_cfg["classifier"])
    outputs = {
        name: getattr(layer, "out_features", getattr(layer, "out_channels", None))
        for name, layer in network.named_modules()
    }
    names = [name for name, count in outputs.items() if count == num_classes]
    return names[-1] if names else ""


def backbone_modules(network: nn.Module, num_classes: int) -> list[nn.Module]:
    """The layers with parameters that do not belong to the head: what pretrained weights fill.

    Those of its submodule `backbone`, where it has one.

    Raises:
        SettingError: If there is no head, or nothing beside it.

    >>> backbone_modules(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), 3)
    [Linear(in_features=4, out_features=8, bias=True)]
    """
    backbone = getattr(network, "backbone", None)
    inner = backbone if isinstance(backbone, nn.Module) else None
    head = head_of(network, num_classes)
    layers = [
        layer
        for name, layer in (network if inner is None else inner).named_modules()
        if any(True for _ in layer.parameters(recurse=False))
        and (inner is not None or not f"{name}.".startswith(f"{head}."))
    ]
    if not layers or (inner is None and not head):
        raise SettingError(
            f"callbacks.finetuning: {type(network).__name__} has no layer of {num_classes} outputs "
            "after others, so there is no head to train first; call the others backbone."
        )
    return layers
