"""A configuration comes in; settings that cannot work are refused before anything is read."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from signlang.errors import SettingError, suggestion
from signlang.models.options import NORMALISATIONS, OPTIMIZERS, SMALLEST_SIDE, check_size

Rule = tuple[Callable[[Any], bool], str]


def _whole(least: int) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return holds, f"must be a whole number of at least {least}"


def _number(test: Callable[[float], bool], text: str) -> Rule:
    def holds(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and test(float(value))

    return holds, f"must be {text}"


def _flag() -> Rule:
    return lambda value: isinstance(value, bool), "must be true or false"


def _word(words: tuple[str, ...]) -> Rule:
    return lambda value: value in words, f"must be one of {', '.join(words)}"


RULES: Final[Mapping[str, Rule]] = {
    "folds": _whole(2),
    "fold": _whole(0),
    "seed": _whole(0),
    "batch_size": _whole(1),
    "workers": _whole(0),
    "image_size": _whole(1),
    "overwrite": _flag(),
    "verbose": _flag(),
    "label_smoothing": _number(lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "wanted_precision": _number(lambda x: 0 < x < 1, "a number between 0 and 1"),
    "optimizer.name": _word(OPTIMIZERS),
    "optimizer.lr": _number(lambda x: x > 0, "a number above 0"),
    "trainer.max_epochs": _whole(1),
    "model.pretrained": _flag(),
    "model.normalisation": _word((*NORMALISATIONS, "training")),
    "data.on_bad_image": _word(("error", "exclude")),
    "split.name": _word(("stratified", "signer", "blocks")),
    "split.seed": _whole(0),
}
OPTIONAL: Final[Mapping[str, Rule]] = {
    "optimizer.weight_decay": _number(lambda x: x >= 0, "a number of at least 0"),
    "split.blocks": _whole(2),
    "augment.background_weight": _number(lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "data.stored_size": _whole(1),
}


def check(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, without reading data or importing torch.

    Raises:
        SettingError: Names the setting, what it is and what it must be.
    """
    for key, (holds, text) in RULES.items():
        value = value_of(cfg, key)
        if not holds(value):
            raise SettingError(f"{key}={value}: it {text}.")
    for key, (holds, text) in OPTIONAL.items():
        value = value_of(cfg, key)
        if value is not None and not holds(value):
            raise SettingError(f"{key}={value}: it {text}.")
    _check_fold(cfg)
    _check_validation(cfg.split.validation)
    _check_network(cfg)
    _check_files(cfg)


def value_of(cfg: DictConfig, key: str) -> Any:
    """Value of a dotted key, None where there is none, resolved.

    Raises:
        SettingError: If it is mandatory and missing, or refers to something that is not there.
    """
    try:
        return OmegaConf.select(cfg, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise SettingError(f"{key} is missing: {first}.") from None


def _check_fold(cfg: DictConfig) -> None:
    if cfg.fold >= cfg.folds:
        raise SettingError(
            f"fold={cfg.fold}: there are {cfg.folds} folds, counted from 0 to {cfg.folds - 1}."
        )


def _check_validation(share: Any) -> None:
    if share == "fold":
        return
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 0.5:
        raise SettingError(
            f"split.validation={share}: it must be a share of the training folds above 0 and up to "
            "0.5, or the word fold (the test fold also chooses the checkpoint)."
        )


def _check_network(cfg: DictConfig) -> None:
    name, size = cfg.model.name, cfg.image_size
    if name not in SMALLEST_SIDE:
        raise SettingError(f"model.name={name}: {suggestion(name, SMALLEST_SIDE)}")
    check_size(name, size)
    if name == "timm" and not isinstance(value_of(cfg, "model.architecture"), str):
        raise SettingError("model=timm needs model.architecture=NAME, e.g. efficientnet_b0.")


def _check_files(cfg: DictConfig) -> None:
    for key in ("model.weights", "data.root", "augment.backgrounds"):
        value = value_of(cfg, key)
        if value is not None and not Path(str(value)).expanduser().exists():
            raise SettingError(f"{key}={value}: there is no such file or folder.")
    if cfg.data.name == "folder" and cfg.data.root is None:
        raise SettingError("data=folder needs data.root=DIR, a folder with one folder per sign.")
    if cfg.split.name == "signer" and not cfg.data.signers:
        raise SettingError(
            "split=signer needs data.signers=FILE, a CSV path,signer: who is in each picture."
        )
    precision, known = cfg.trainer.precision, ("auto", "32-true", "bf16-mixed")
    if str(precision) not in known:
        raise SettingError(f"trainer.precision={precision}: {suggestion(str(precision), known)}")
