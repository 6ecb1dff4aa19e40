"""ImageNet weights of torchvision's layer names from a safetensors file, for the peers in torch."""

import torch
from torch import nn


def features_of(file: str, features: nn.Module) -> dict[str, torch.Tensor]:
    """State of the features (all layers but the head) of a torchvision network.

    Raises:
        SystemExit: If the file has no such layers.
    """
    from safetensors.torch import load_file

    wanted = features.state_dict()
    state = {
        name.removeprefix("features."): value.float() for name, value in load_file(file).items()
    }
    missing = [
        name for name in wanted if name.removeprefix("0.") not in state and name not in state
    ]
    if missing:
        raise SystemExit(f"{file} has no {missing[0]}: not the weights of this network")
    return {
        name: state[name] if name in state else state[name.removeprefix("0.")] for name in wanted
    }
