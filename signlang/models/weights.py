"""Loading of pretrained weights from files and hubs, with checks of names and shapes."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from signlang.console import log
from signlang.errors import WeightsError, listing
from signlang.system import ending_at_once

State = Mapping[str, torch.Tensor]


def use_cache_if_offline() -> None:
    """Switch the hub to its cache if its server does not respond within seconds.

    By default it retries for most of a minute for each file.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # of whichever client the hub uses
        log.info("the hub of weights does not respond (%s): using its cache", type(error).__name__)
        constants.HF_HUB_OFFLINE = True


@contextmanager
def downloading(name: str) -> Iterator[None]:
    """Turn download errors of a hub into one sentence."""
    try:
        with ending_at_once():
            yield
    except Exception as error:
        raise WeightsError(
            f"The pretrained weights of {name} cannot be downloaded ({type(error).__name__}): "
            "give a file with model.weights=FILE, or train from scratch: model.pretrained=false."
        ) from error


def read_state(file: str) -> dict[str, torch.Tensor]:
    """Read a safetensors file, or a state dict saved by torch (never anything else of a pickle).

    A state dict inside a Lightning checkpoint or under the usual keys is read too.

    Raises:
        WeightsError: If the file is missing or holds no state dict.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise WeightsError(f"model.weights={file}: there is no such file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(
            f"model.weights={file} is no safetensors file and no plain state dict: {reason}"
        ) from None
    except Exception as error:  # safetensors raises a type of its own
        raise WeightsError(f"model.weights={file} is damaged: {error}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = content if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise WeightsError(
            f"model.weights={file} holds no state dict (names of layers to tensors)."
        )
    return {str(key).removeprefix("network."): value for key, value in tensors.items()}


def load(network: nn.Module, file: str, head: str, backbone: str = "") -> None:
    """Copy the weights of a file into a network.

    The head may differ in its number of classes or be absent from the file; it then keeps its
    random weights, which is logged. Everything else must fit.

    Args:
        network: The network, changed in place.
        file: See `read_state`.
        head: Name of the layer that depends on the number of classes.
        backbone: A submodule; a file that holds it alone is accepted, and the head of that file
            is dropped.

    Raises:
        WeightsError: If the file cannot be read or does not fit; lists every layer that differs.
    """
    state = read_state(file)
    target = network.state_dict()
    new_head = [
        key
        for key in target
        if key.startswith(f"{head}.")
        and (key not in state or state[key].shape != target[key].shape)
    ]
    if backbone and not any(key.startswith(f"{backbone}.") for key in state):
        state = {f"{backbone}.{key}": value for key, value in state.items()}
        state = {k: v for k, v in state.items() if k in target or not _is_head(k, backbone)}
        new_head = [key for key in target if not key.startswith(f"{backbone}.")]
    misfits = [
        *(f"{k}: not in the file" for k in target if k not in state and _matters(k, new_head)),
        *(f"{k}: not in the network" for k in state if k not in target),
        *(
            f"{k}: {tuple(state[k].shape)} in the file, {tuple(target[k].shape)} in the network"
            for k in target
            if k in state and k not in new_head and state[k].shape != target[k].shape
        ),
    ]
    if misfits:
        raise WeightsError(
            f"model.weights={file} does not fit the network: {len(misfits)} of its "
            f"{len(target)} entries differ:{listing(misfits)}"
        )
    if new_head:
        log.info("%s: loaded; initialized at random: %s", file, ", ".join(new_head))
    network.load_state_dict(
        {key: value for key, value in state.items() if key not in new_head}, strict=False
    )


def _is_head(key: str, backbone: str) -> bool:
    return key.removeprefix(f"{backbone}.").split(".")[0] in {"classifier", "fc", "head"}


def _matters(key: str, new_head: list[str]) -> bool:
    return key not in new_head and not key.endswith("num_batches_tracked")


def load_full_state(network: Any, file: str, classes: int) -> None:
    """Copy weights into a network including its head; every entry must match.

    A prefix of all names in the file, as wrappers add it, is dropped.

    Args:
        network: Changed in place.
        file: See `weights.read_state`.
        classes: Number of its outputs.

    Raises:
        WeightsError: If the file does not fit; lists every layer that differs.
    """
    target, state = network.state_dict(), read_state(file)
    while not any(key in target for key in state):
        first, dot, _ = next(iter(state)).partition(".")
        if not dot or not all(key.startswith(f"{first}.") for key in state):
            break
        state = {key.removeprefix(f"{first}."): value for key, value in state.items()}
    misfits = [
        *(f"{k}: not in the file" for k in target
          if k not in state and not k.endswith("num_batches_tracked")),
        *(f"{k}: not in the network" for k in state if k not in target),
        *(f"{k}: {tuple(state[k].shape)} in the file, {tuple(target[k].shape)} in the network"
          for k in target if k in state and state[k].shape != target[k].shape),
    ]  # fmt: skip
    if misfits:
        raise WeightsError(
            f"model.weights={file} does not fit a {type(network).__name__} of {classes} classes: "
            f"{len(misfits)} of its {len(target)} entries differ:{listing(misfits)}\n"
            "All must be equal here: check model, size and classes."
        )
    network.load_state_dict(state, strict=False)
