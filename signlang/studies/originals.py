"""A run folder comes in; the pictures that it was trained and tested on are found again, if there.

Nothing is downloaded, and of what the folder says only the program's own sources are called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image, ImageOps
from yaml import YAMLError

from signlang.data import sources
from signlang.data.pictures import BadPictureError, decode, read_bytes
from signlang.errors import DataError, SignlangError

SIDE: Final = 180  # pixels of a picture in a report
BACKGROUND: Final = (240, 241, 243)
OURS: Final = {
    f"{sources.__name__}.{source.__name__}": source
    for source in (sources.folder, sources.digits, sources.asl_alphabet, sources.synthetic)
}
# where a source keeps what it downloads, below the cache folder
DOWNLOADS: Final = {
    f"{sources.__name__}.digits": "downloads/sign-language-digits",
    f"{sources.__name__}.asl_alphabet": (
        "downloads/kaggle/datasets/grassknoted/asl-alphabet/versions/*"
    ),
}


def root_of(run: Path) -> Path:
    """Find the folder to which the paths of a run's pictures are relative.

    Raises:
        DataError: If it is not known, or not there any more.
    """
    file = run / ".hydra" / "config.yaml"
    try:
        config = OmegaConf.load(file)
        root = _source(config, run)
    except (OSError, OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise DataError(f"{file} does not say where they lie ({type(error).__name__}).") from None
    except SignlangError as error:
        raise DataError(str(error)) from None
    if not root.exists():
        raise DataError(f"{root} is not there any more.")
    return root.parent if root.is_file() else root


def _source(config: Any, run: Path) -> Path:
    """Call the source of the saved configuration as `data.fold` does, without any network."""
    given = OmegaConf.select(config, "data.root")
    cache_dir = str(OmegaConf.select(config, "cache_dir"))
    source = OmegaConf.to_container(OmegaConf.select(config, "data.source") or OmegaConf.create())
    if not isinstance(source, dict):
        raise TypeError("data.source is no mapping")
    options = {str(key): value for key, value in source.items()}
    target = str(options.pop("_target_", ""))
    options.pop("_partial_", None)
    if given is None and target in DOWNLOADS:
        places = sorted(Path(cache_dir).expanduser().glob(DOWNLOADS[target]), key=_version)
        if not places:
            raise DataError(f"They are not in the cache {cache_dir} any more.")
        given = str(places[-1])
    if given is not None:
        place = str(OmegaConf.select(config, "run_folder") or "")
        given = str(_absolute(Path(str(given)).expanduser(), run, place))
    if target in OURS:
        return OURS[target](given, cache_dir, **options)
    if given is None:
        raise DataError(f"Only {target or 'the run'} knows where they lie.")
    return Path(given)


def _absolute(root: Path, run: Path, run_folder: str) -> Path:
    """A relative folder was meant from where the command was typed, above the run folder."""
    here = run.resolve()
    if root.is_absolute() or not run_folder or not str(here).endswith(f"/{run_folder}"):
        return root
    return Path(str(here).removesuffix(run_folder)) / root


def _version(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdecimal() else 0, path.name)


def read_pictures(root: Path, paths: Sequence[str]) -> list[Image.Image | None]:
    """Read pictures into squares, their own proportions kept; None for each that is not there."""
    return [_small(root / path) for path in paths]


def _small(file: Path) -> Image.Image | None:
    try:
        picture = decode(read_bytes(file))
    except (BadPictureError, OSError, ValueError):
        return None
    return ImageOps.pad(picture, (SIDE, SIDE), Image.Resampling.BICUBIC, color=BACKGROUND)
