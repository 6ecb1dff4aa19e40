"""The configuration of `signlang.describe` comes in; settings that cannot work are refused."""

from pathlib import Path
from typing import Final

from omegaconf import DictConfig

from signlang.errors import SettingError
from signlang.runs import settings

SHARED: Final = ("folds", "seed", "verbose", "split.name", "split.seed")
OWN: Final[dict[str, settings.Rule]] = {
    "near": (
        lambda x: isinstance(x, int | float) and not isinstance(x, bool) and 0.5 <= x <= 1,
        "must be a correlation from 0.5 to 1, where 1 is the same picture",
    ),
    "detail": (
        lambda x: isinstance(x, int | float) and not isinstance(x, bool) and x > 0,
        "must be a number of standard deviations above 0",
    ),
    "samples": (
        lambda x: isinstance(x, int) and not isinstance(x, bool) and 1 <= x <= 100,
        "must be a whole number from 1 to 100",
    ),
}


def check(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, in milliseconds.

    Raises:
        SettingError: Names the setting, what it is and what it must be.
    """
    for key, (holds, text) in {**{key: settings.RULES[key] for key in SHARED}, **OWN}.items():
        value = settings.value_of(cfg, key)
        if not holds(value):
            raise SettingError(f"{key}={value}: it {text}.")
    blocks = settings.value_of(cfg, "split.blocks")
    holds, text = settings.OPTIONAL["split.blocks"]
    if blocks is not None and not holds(blocks):
        raise SettingError(f"split.blocks={blocks}: it {text}.")
    root = settings.value_of(cfg, "data.root")
    if root is not None and not Path(str(root)).expanduser().exists():
        raise SettingError(f"data.root={root}: there is no such file or folder.")
