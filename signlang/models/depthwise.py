"""A network comes in; the same goes out, without the one layer that mixed precision makes slow."""

import torch
from torch import nn


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution with a stride that stays in float32 under autocast on a processor.

    oneDNN computes its gradient in bfloat16 by a loop: 215 ms against 37 ms in float32 for
    (64, 96, 64, 64) and a stride of 2, 74 against 1 ms for (64, 192, 16, 16), on one core of an
    Intel Xeon with AMX (torch 2.15.0). Four such layers took half of MobileNetV2's training.
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


def in_float32(network: nn.Module) -> nn.Module:
    """Let all strided depthwise convolutions of a network stay in float32; it is changed itself.

    >>> [type(layer).__name__ for layer in in_float32(nn.Sequential(
    ...     nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 8, 3, groups=8)))]
    ['StridedDepthwise', 'Conv2d']
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1 < max(layer.stride):
            layer.__class__ = StridedDepthwise
    return network
