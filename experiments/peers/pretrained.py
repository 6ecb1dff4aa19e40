"""ImageNet weights from one safetensors file, for the peers that would download their own."""

from collections.abc import Mapping
from typing import Any


def mobilenetv2_layers(state: Mapping[str, Any]) -> list[list[Any]]:
    """Weights of timm's MobileNetV2 up to its head, a list for each layer, from input to output.

    Convolutions are (out, in / groups, height, width); normalizations have scale, shift, mean and
    variance. They are what the state has, arrays or tensors.
    """
    blocks = sorted({name.rpartition(".bn1")[0] for name in state if name.startswith("blocks.")})
    layers = [("", "conv_stem", "bn1")]
    for block in filter(None, blocks):
        expands = f"{block}.conv_pwl.weight" in state
        convolutions = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
        layers += [
            (f"{block}.", convolution, f"bn{number}")
            for number, convolution in enumerate(convolutions, start=1)
        ]
    layers.append(("", "conv_head", "bn2"))
    weights = []
    for block, convolution, normalization in layers:
        weights.append([state[f"{block}{convolution}.weight"]])
        weights.append(
            [
                state[f"{block}{normalization}.{name}"]
                for name in ("weight", "bias", "running_mean", "running_var")
            ]
        )
    return weights


def fill_torchvision(features: Any, file: str) -> None:
    """Fill the features (all layers but the head) of a network of torchvision, in place.

    With timm's MobileNetV2 they compute what TensorFlow's do, for images of even size.

    Args:
        features: A `torch.nn.Module`, with all its layers in order.
        file: Weights of torchvision's layer names, or timm's MobileNetV2.

    Raises:
        SystemExit: If the file has no such layers.
    """
    from safetensors.torch import load_file

    wanted = features.state_dict()
    state = {
        name.removeprefix("features."): value.float() for name, value in load_file(file).items()
    }
    if "conv_stem.weight" in state:
        tensors = [tensor for layer in mobilenetv2_layers(state) for tensor in layer]
        names = [name for name in wanted if not name.endswith("num_batches_tracked")]
        features.load_state_dict(wanted | dict(zip(names, tensors, strict=True)))
        _compute_as_tensorflow(features)
        return
    missing = [
        name for name in wanted if name.removeprefix("0.") not in state and name not in state
    ]
    if missing:
        raise SystemExit(f"{file} has no {missing[0]}: not the weights of this network")
    features.load_state_dict(
        {name: state.get(name, state.get(name.removeprefix("0."))) for name in wanted}
    )


def _compute_as_tensorflow(features: Any) -> None:
    from torch import nn

    for layer in list(features.modules()):
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.Conv2d) and max(child.stride) > 1:
                child.padding = (0, 0)
                setattr(layer, name, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), child))


def fill_keras(backbone: Any, file: str) -> None:
    """Fill the MobileNetV2 of keras.applications with the weights of timm's."""
    from safetensors.numpy import load_file

    kernels = {"Conv2D": (2, 3, 1, 0), "DepthwiseConv2D": (2, 3, 0, 1)}
    layers = [layer for layer in backbone.layers if layer.weights]
    for layer, arrays in zip(layers, mobilenetv2_layers(load_file(file)), strict=True):
        axes = kernels.get(type(layer).__name__)
        layer.set_weights([arrays[0].transpose(axes)] if axes else arrays)
