"""Weights that somebody else trained come in, described by settings; a network goes out."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from signlang.errors import SettingError, WeightsError, listing
from signlang.evaluations.candidates import Candidate, shown_to
from signlang.evaluations.matching import read_classes
from signlang.models.options import NORMALISATIONS, check_size


def of_weights(cfg: DictConfig) -> Candidate:
    """Somebody else's network: every layer of the file must be one of the network, and vice versa.

    Raises:
        SettingError: If its preprocessing is unknown or impossible.
        WeightsError: If the file cannot be read or does not fit.
    """
    from signlang.models.classifier import Classifier

    classes = read_classes(Path(str(cfg.classes)).expanduser())
    options: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    size = int(cfg.size or options["image_size"])
    check_size(options["name"], size)
    mean, std = _normalisation(cfg)
    kept: dict[str, Any] = {k: options[k] for k in ("name", "architecture") if k in options}
    model = Classifier({**kept, "image_size": size}, classes, mean, std, {"name": "adam"})
    load_all(model.network, str(cfg.model.weights), len(classes))
    file = Path(str(cfg.model.weights)).expanduser()
    return Candidate(
        kind="weights",
        name=f"{options.get('architecture', options['name'])}-{file.stem}",
        path=file,
        classes=classes,
        sides=(size,),
        judge=shown_to(model, swap_axes=cfg.swap_axes),
        calibration=None,
        facts={
            "model": options.get("architecture", options["name"]), "mean": mean, "std": std,
            "swap_axes": cfg.swap_axes,
        },
    )  # fmt: skip


def load_all(network: Any, file: str, classes: int) -> None:
    """Copy weights into a network, the head too; nothing may be missing or left over.

    A word that all names of the file begin with, as wrappers add it, is dropped.

    Args:
        network: Changed in place.
        file: See `weights.read_state`.
        classes: How many outputs it has.

    Raises:
        WeightsError: Names every layer that does not fit.
    """
    from signlang.models.weights import read_state

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


def _normalisation(cfg: DictConfig) -> tuple[list[float], list[float]]:
    """Mean and deviation: those given, else those that the network is known for."""
    known = NORMALISATIONS.get(cfg.model.normalisation)
    if known is None and (cfg.mean is None or cfg.std is None):
        raise SettingError(
            f"model.normalisation={cfg.model.normalisation} is not known without the training "
            "pictures: give mean=[R,G,B] and std=[R,G,B], of pixels from 0 to 1."
        )
    mean, std = known or ([], [])
    return (
        list(map(float, mean if cfg.mean is None else cfg.mean)),
        list(map(float, std if cfg.std is None else cfg.std)),
    )
