"""Loading of pretrained weights from files and hubs, with checks of names and shapes."""

import pickle
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from signlang.console import log
from signlang.errors import SettingError, WeightsError, first_line, listing
from signlang.files import expanded, file_digest
from signlang.system import ending_at_once

State = Mapping[str, torch.Tensor]


RESPONSE: Final = 5.0  # seconds that a hub has to respond; it would retry for most of a minute
STALLED: Final = 20.0  # seconds without a byte that end a download


@dataclass(frozen=True)
class HubWeights:
    """Pretrained weights of a hub, in its cache on this machine.

    Attributes:
        name: At the hub, as `timm/resnet18.a1_in1k`.
        file: In the cache.
    """

    name: str
    file: Path

    @cached_property
    def text(self) -> str:
        """Name, and digest of the content."""
        return f"{self.name} {file_digest(str(self.file)).split()[-1]}"


@cache
def timm_weights(architecture: str) -> HubWeights | None:
    """Weights of a network of timm, from the caches of the hubs or downloaded; None: it has none.

    Raises:
        SettingError: If timm knows no such weights (what stands behind a dot in its name).
        WeightsError: If they are in no cache, and cannot be downloaded.
    """
    from timm.models import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(architecture)
    except RuntimeError as error:
        network = architecture.partition(".")[0]
        raise SettingError(
            f"model.architecture={architecture}: {error} {network} alone takes its usual weights."
        ) from None
    if config is None or not config.has_weights or str(config.custom_load) == "hf":
        return None
    url = config.url if isinstance(config.url, str) and not config.custom_load else ""
    if not config.hf_hub_id:
        return _torch_hub_weights(url, "", architecture) if url else None
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = config.hf_hub_id.partition("@")
    file_name = config.hf_hub_filename
    files = [file_name] if file_name else ["model.safetensors", "pytorch_model.bin"]
    cache_dir, version = constants.HF_HUB_CACHE, revision or None
    for file in files:
        cached = try_to_load_from_cache(repository, file, cache_dir, version)
        if isinstance(cached, str):
            return HubWeights(repository, Path(cached))
    if url and _torch_cache(url).is_file():
        return _torch_hub_weights(url, "", architecture)
    with downloading(architecture, constants.ENDPOINT):
        for file in files:
            with suppress(EntryNotFoundError):
                path = hf_hub_download(
                    repository, file, revision=version, cache_dir=cache_dir, etag_timeout=RESPONSE
                )
                return HubWeights(repository, Path(path))
    return None


@cache
def torchvision_weights(url: str, network: str) -> HubWeights:
    """Weights of a network of torchvision: from the cache of torch's hub, else downloaded.

    Raises:
        WeightsError: If they are not in the cache, and cannot be downloaded.
    """
    return _torch_hub_weights(url, "torchvision/", network)


def _torch_hub_weights(url: str, origin: str, network: str) -> HubWeights:
    file = _torch_cache(url)
    if not file.is_file():
        with downloading(network, url):
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = torch.hub.HASH_REGEX.search(file.name)
            prefix = digest.group(1) if digest else None
            torch.hub.download_url_to_file(url, str(file), prefix, progress=False)
    return HubWeights(origin + file.name, file)


def _torch_cache(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


@contextmanager
def downloading(network: str, url: str) -> Iterator[None]:
    """Turn errors of a download into one sentence, at once where its server does not respond.

    Raises:
        WeightsError: With both ways out.
    """
    default_timeout = socket.getdefaulttimeout()
    try:
        with ending_at_once():
            failure = _no_response(url)
            if failure:
                raise ConnectionError(failure)
            log.info("downloading the pretrained weights of %s", network)
            socket.setdefaulttimeout(STALLED)  # torch's hub sets none
            yield
    except Exception as error:  # of whichever client the hub uses
        reason = str(error) if isinstance(error, ConnectionError) else type(error).__name__
        raise WeightsError(
            f"The pretrained weights of {network} are in no cache of this machine and cannot be "
            f"downloaded ({reason}): give a file with model.weights=FILE, or train from scratch: "
            "model.pretrained=false."
        ) from error
    finally:
        socket.setdefaulttimeout(default_timeout)


@cache
def _no_response(url: str) -> str:
    """Why a server cannot be asked; empty if it responds. Asked once in a process.

    A thread asks it: looking up the name has no timeout of its own.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    late = f"no response within {RESPONSE:g} s"
    reasons = [late]

    def send_request() -> None:
        try:
            get_session().head(url, timeout=RESPONSE)
            reasons.append("")
        except Exception as error:  # of whichever client the hub uses
            name = type(error).__name__
            reasons.append(late if "Timeout" in name else name)

    thread = threading.Thread(target=send_request, daemon=True)
    thread.start()
    thread.join(RESPONSE)
    return reasons[-1]


def read_state(file: str) -> dict[str, torch.Tensor]:
    """Read a safetensors file, or a state dict saved by torch (never anything else of a pickle).

    A state dict inside a Lightning checkpoint or under the usual keys is read too.

    Raises:
        WeightsError: If the file is missing or holds no state dict.
    """
    path = expanded(file)
    if not path.is_file():
        raise WeightsError(f"model.weights={file}: there is no such file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch would advise to execute what the file holds
        raise WeightsError(
            f"model.weights={file} is no safetensors file and no plain state dict: it is damaged, "
            "or holds more than tensors, which could run code. Save the weights alone, with "
            "torch.save(model.state_dict(), FILE)."
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = first_line(error)
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
    if any(str(key).startswith("network.") for key in tensors):  # a checkpoint of ours
        tensors = {k: v for k, v in tensors.items() if not str(k).startswith("loss.")}
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
        *(f"{k}: not in the file" for k in target if k not in state and _is_required(k, new_head)),
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


def _is_required(key: str, new_head: list[str]) -> bool:
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
