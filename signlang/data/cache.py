"""The folder for what can be made again: decoded pictures, findings, downloads, drawn data sets."""

import os
from pathlib import Path

from signlang.errors import SettingError


def folder(cache_dir: str | os.PathLike[str], *parts: str) -> Path:
    """Make a folder of the cache and return it.

    Raises:
        SettingError: If it cannot be made or written to.
    """
    path = Path(cache_dir).expanduser().joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"The cache folder {path} cannot be made ({error.strerror}): "
            "choose another with cache_dir=DIR or the environment variable SIGNLANG_CACHE."
        ) from None
    if not os.access(path, os.W_OK):
        raise SettingError(
            f"The cache folder {path} cannot be written to: "
            "choose another with cache_dir=DIR or the environment variable SIGNLANG_CACHE."
        )
    return path
