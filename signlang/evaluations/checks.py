"""The configuration of `signlang.evaluate` comes in; settings that cannot work are refused."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, ListConfig

from signlang.errors import SettingError
from signlang.runs import settings
from signlang.runs.settings import value_of

SHARED: Final = ("folds", "seed", "verbose", "data.on_bad_image", "split.name", "split.seed")
OF_WEIGHTS: Final = ("classes", "mean", "std", "size", "swap_axes")
OF_RUNS: Final = ("unseen", "calibrate", "wanted_precision")
FILES: Final = ("run", "bundle", "model.weights", "classes", "mapping", "data.root")


def _three(least: float) -> settings.Rule:
    def holds(value: Any) -> bool:
        numbers = list(value) if isinstance(value, list | ListConfig) else []
        return len(numbers) == 3 and all(
            isinstance(x, int | float) and math.isfinite(x) and x >= least for x in numbers
        )

    return holds, f"must be [R,G,B], three numbers of at least {least:g}"


OPTIONAL: Final[Mapping[str, settings.Rule]] = {
    "fold": settings.RULES["fold"],
    "split.blocks": settings.OPTIONAL["split.blocks"],
    "size": settings.RULES["image_size"],
    "mean": _three(0),
    "std": _three(1e-6),
    "wanted_precision": settings.RULES["wanted_precision"],
    **dict.fromkeys(("swap_axes", "unseen", "calibrate"), settings.RULES["overwrite"]),
}


def check(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, in milliseconds.

    Raises:
        SettingError: Names the setting, what it is and what it must be.
    """
    for key in SHARED:
        _check(key, value_of(cfg, key), settings.RULES[key])
    for key, rule in OPTIONAL.items():
        value = value_of(cfg, key)
        if value is not None:
            _check(key, value, rule)
    _check_candidate(cfg)
    for key in FILES:
        value = value_of(cfg, key)
        if value is not None and not Path(str(value)).expanduser().exists():
            raise SettingError(f"{key}={value}: there is no such file or folder.")
    if cfg.data.name == "folder" and cfg.data.root is None:
        raise SettingError("data=folder needs data.root=DIR, a folder with one folder per sign.")
    if cfg.fold is not None and cfg.fold >= cfg.folds:
        raise SettingError(
            f"fold={cfg.fold}: there are {cfg.folds} folds, counted from 0 to {cfg.folds - 1}."
        )


def _check(key: str, value: Any, rule: settings.Rule) -> None:
    holds, text = rule
    if not holds(value):
        raise SettingError(f"{key}={value}: it {text}.")


def _check_candidate(cfg: DictConfig) -> None:
    """There must be one network, and no setting that is for another kind."""
    kinds = {"run": cfg.run, "bundle": cfg.bundle, "model": value_of(cfg, "model.name")}
    given = [kind for kind, value in kinds.items() if value is not None]
    if len(given) != 1:
        raise SettingError(
            "Which network is to be evaluated? Give one of run=RUN, bundle=BUNDLE, and "
            "model=NAME model.weights=FILE classes=FILE"
            + (f", not {' and '.join(given)}." if given else ".")
        )
    (kind,) = given
    if kind == "model":
        lacking = [key for key in ("model.weights", "classes") if value_of(cfg, key) is None]
        if lacking:
            raise SettingError(
                f"model={cfg.model.name} needs {' and '.join(f'{key}=FILE' for key in lacking)}: "
                "its weights, and the names of its classes in order."
            )
    idle = [*(OF_WEIGHTS if kind != "model" else ()), *(OF_RUNS if kind != "run" else ())]
    for key in idle:
        if cfg[key] not in (None, False):
            only = "model=NAME" if key in OF_WEIGHTS else "run=RUN"
            raise SettingError(f"{key}={cfg[key]} is for {only}, it has no effect with {kind}.")
