"""Data sources: user folders, downloads, the built-in data set, and the images of a trained run.

The contract of a source: what `data.source._target_` names is called with `root` (`data.root`, the
user's folder as text, or None) and `cache_dir` (the folder for generated files), as far as
its signature names them, and with its own arguments of the node; it returns the path of a folder
with one folder of images per class, or of a CSV file path,label[,signer]. What it downloads or
draws belongs below `cache_dir`, and the second call must find it there. A source that is not one of
signlang's own is called by `train`, `describe` and `evaluate` only, never for a trained run.
"""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageOps

from signlang import files
from signlang.components import TARGET, build, read_saved_config, saved_value
from signlang.console import log, verbose
from signlang.data.boxes import Crop
from signlang.data.image_io import BadImageError, decode_crop, read_bytes
from signlang.data.synthetic import generator as drawing
from signlang.errors import DataError, SettingError, SignlangError
from signlang.files import content_digest, expanded

DIGITS_URL: Final = "https://github.com/ardamavi/Sign-Language-Digits-Dataset/archive/4b09433.zip"
# An archive that is packed on demand has no lasting checksum; its 2,062 images have.
DIGITS_CONTENT: Final = "3e6e0579509c97a3a4c2259a51e64219"
ASL_ALPHABET: Final = "grassknoted/asl-alphabet"


@dataclass(frozen=True)
class JoinedRoot:
    """The folders of joined data sets; a path below it starts with the name of its set.

    Attributes:
        roots: Name and folder of each set.

    >>> print(JoinedRoot((("a", Path("/x")), ("b", Path("/y")))) / "b/1.jpg")
    /y/1.jpg
    """

    roots: tuple[tuple[str, Path], ...]

    def __truediv__(self, path: str) -> Path:
        """The file of a path.

        Raises:
            DataError: If it starts with the name of no set.
        """
        name, _, rest = path.partition("/")
        for set_name, root in self.roots:
            if set_name == name:
                return root / rest
        raise DataError(f"{path} is of none of the sets {self}.")

    def __str__(self) -> str:
        """The names of the sets."""
        return ", ".join(name for name, _ in self.roots)


Root = Path | JoinedRoot


def open_source(node: Mapping[str, Any], root: str | None, cache_dir: str) -> Path:
    """Find the images of a data set: the folder or CSV file that its source returns.

    Args:
        node: `data.source` of the configuration, resolved.
        root: `data.root`.
        cache_dir: Folder for generated files.

    Raises:
        SettingError: If the source breaks the contract.
        DataError: If what it returns is not there.
    """
    result = build(node, {"root": root, "cache_dir": cache_dir}, key="data.source")
    if not isinstance(result, str | os.PathLike):
        raise SettingError(
            f"data.source: {node[TARGET]} returns {type(result).__name__}; it must return the path "
            "of a folder with one folder per sign, or of a CSV file."
        )
    path = expanded(result)
    if not path.exists():
        raise DataError(f"data.source: {node[TARGET]} returns {path}, which is not there.")
    return path


def synthetic(
    root: str | None, cache_dir: str, *, signers: int, takes: int, size: int, seed: int
) -> Path:
    """Draw the built-in data set, or find it in the cache: ten signs, `signers` x `takes` of each.

    Raises:
        SettingError: If a folder is given, or there is nothing to draw.
    """
    if root is not None:
        raise SettingError(
            "data=synthetic draws its own images: for a folder of yours set data=folder "
            f"data.root={root}."
        )
    if min(signers, takes) < 1 or size < 16:
        raise SettingError(
            f"data.source: signers={signers} and takes={takes} must be at least 1, "
            f"size={size} at least 16 pixels."
        )
    folder = files.cache_folder(cache_dir, "synthetic") / _drawn_name(signers, takes, size, seed)
    if not folder.is_dir():
        log.info("drawing %d images into %s", len(drawing.SIGNS) * signers * takes, folder)
        drawing.write_dataset(folder, signers=signers, takes=takes, size=size, seed=seed)
    return folder


def _drawn_name(signers: int, takes: int, size: int, seed: int) -> str:
    return f"v{drawing.VERSION}-signers{signers}-takes{takes}-size{size}-seed{seed}"


def joined(root: str | None, cache_dir: str) -> Path:
    """Stand for several data sets, which `data.sets` names.

    Raises:
        SettingError: Always: without `data.sets` there is nothing to join.
    """
    raise SettingError("data=joined needs data.sets=[SET,SET...], names of data sets or folders.")


def folder(root: str | None, cache_dir: str) -> Path:
    """Take a folder of class folders, or a CSV file, as it is.

    A folder that holds nothing but one folder of class folders is stepped into, as archives unpack
    so.

    Raises:
        SettingError: If none is given.
        DataError: If it is not there.
    """
    if root is None:
        raise SettingError("data=folder needs data.root=DIR, a folder with one folder per sign.")
    path = expanded(root)
    if not path.exists():
        raise DataError(f"data.root={root}: there is no such folder or file.")
    try:
        inner = [p for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
        if len(inner) == 1 and inner[0].is_dir() and any(p.is_dir() for p in inner[0].iterdir()):
            log.info("taking the classes from %s", inner[0])
            return inner[0]
    except OSError as error:
        raise DataError(
            f"data.root={root}: {error.filename} cannot be read ({error.strerror}). Allow it "
            "(chmod -R u+rX FOLDER), or give another folder."
        ) from None
    return path


def digits(root: str | None, cache_dir: str) -> Path:
    """Find the Sign Language Digits, or download their 2,062 images once (25 MB).

    Raises:
        DataError: If the download fails or brings other images.
    """
    if root is not None:
        path = expanded(root)
        return path / "Dataset" if (path / "Dataset").is_dir() else folder(root, cache_dir)
    folder_ = files.cache_folder(cache_dir, "downloads") / "sign-language-digits"
    if not folder_.is_dir():
        _download_digits(folder_)
    return folder_


def asl_alphabet(root: str | None, cache_dir: str) -> Path:
    """Find the ASL Alphabet in Kaggle's own layout, or download it (1.1 GB) with Kaggle's client.

    Raises:
        DataError: If the download fails, e.g. for want of a network.
    """
    base = expanded(root) if root is not None else _download_asl_alphabet(cache_dir)
    for inner in ("asl_alphabet_train/asl_alphabet_train", "asl_alphabet_train"):
        if (base / inner).is_dir():
            return base / inner
    return folder(str(base), cache_dir)


def _download_digits(target: Path) -> None:
    import pooch

    by_hand = f"By hand: unpack {DIGITS_URL} and give its folder Dataset as data.root."
    log.info("downloading the Sign Language Digits into %s", target)
    try:
        archive = pooch.retrieve(
            DIGITS_URL, None, "digits.zip", target.parent, progressbar=verbose()
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise DataError(
            f"The Sign Language Digits cannot be downloaded ({type(error).__name__}). {by_hand}"
        ) from None
    unpacked = unpack(Path(archive), target.with_name(f"{target.name}.unpacked"))
    images = next(unpacked.rglob("Dataset"), None)
    if images is None or content_digest(images) != DIGITS_CONTENT:
        Path(archive).unlink()
        raise DataError(
            f"What {DIGITS_URL} brought are not the 2,062 images known by checksum; "
            f"try again. {by_hand}"
        )
    images.rename(target)
    Path(archive).unlink()


def unpack(archive: Path, target: Path) -> Path:
    """Unpack a ZIP file into a folder.

    Raises:
        DataError: If it is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(target)  # zipfile keeps names below the target
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        archive.unlink(missing_ok=True)
        raise DataError(f"The download {archive.name} is damaged ({error}): try again.") from None
    return target


def _download_asl_alphabet(cache_dir: str) -> Path:
    os.environ.setdefault(
        "KAGGLEHUB_CACHE", str(files.cache_folder(cache_dir, "downloads", "kaggle"))
    )
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(ASL_ALPHABET))
    except Exception as error:
        raise DataError(
            f"The ASL Alphabet cannot be downloaded ({type(error).__name__}). By hand: download "
            f"https://www.kaggle.com/datasets/{ASL_ALPHABET} in a browser, unpack it, and give the "
            "folder as data.root. With a Kaggle account: put its API token where Kaggle says "
            "(~/.kaggle/kaggle.json) and try again."
        ) from error


THUMBNAIL_SIZE: Final = 180  # pixels of an image in a report
BACKGROUND: Final = (240, 241, 243)
# how each of our sources finds the images below a folder that the user gave
FINDERS: Final = {
    f"{__name__}.{source.__name__}": source for source in (folder, digits, asl_alphabet)
}
# where a source keeps what it downloads, below the cache folder
DOWNLOADS: Final = {
    f"{__name__}.digits": "downloads/sign-language-digits",
    f"{__name__}.asl_alphabet": ("downloads/kaggle/datasets/grassknoted/asl-alphabet/versions/*"),
}
MOST_DRAWN: Final = 100_000  # images that a run folder may ask to have drawn again
LARGEST_DRAWN: Final = 1024  # their size in pixels, likewise


def images_root(run: Path, cache_dir: str | None = None) -> Root:
    """Find the folder to which the paths of a run's images are relative.

    A run folder may come from elsewhere: no code that it names is called, nothing is downloaded,
    and nothing is written to a folder that it names.

    Args:
        run: Its folder.
        cache_dir: The caller's own cache, in which images of the built-in data set may be drawn
            again; None: they must be there.

    Raises:
        DataError: If it is not known, or not there any more.
    """
    file = run / ".hydra" / "config.yaml"
    try:
        roots = _saved_roots(read_saved_config(file), run, cache_dir)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{file} does not contain their folder ({type(error).__name__}).") from None
    except SignlangError as error:
        raise DataError(str(error)) from None
    missing = [root for root in roots.values() if not root.exists()]
    if missing:
        raise DataError(f"{missing[0]} is not there any more.")
    folders = {name: root.parent if root.is_file() else root for name, root in roots.items()}
    return folders[""] if "" in folders else JoinedRoot(tuple(folders.items()))


def _saved_roots(config: Mapping[str, Any], run: Path, cache_dir: str | None) -> dict[str, Path]:
    """Where the images lie according to the saved configuration, by the name of their set."""
    sets = saved_value(config, "data.sets")
    if not sets:
        return {"": _saved_root(config, config.get("data") or {}, run, cache_dir)}
    if not isinstance(sets, dict) or not all(
        isinstance(settings, dict) for settings in sets.values()
    ):
        raise TypeError("data.sets is no mapping")
    return {
        str(name): _saved_root(config, settings, run, cache_dir) for name, settings in sets.items()
    }


def _saved_root(
    config: Mapping[str, Any], data: Mapping[str, Any], run: Path, cache_dir: str | None
) -> Path:
    """Where the images of a set lie according to the saved configuration."""
    saved_root = saved_value(data, "root")
    cache = str(saved_value(config, "cache_dir"))
    source = saved_value(data, "source") or {}
    if not isinstance(source, dict):
        raise TypeError("data.source is no mapping")
    target = str(source.get("_target_", ""))
    if target == f"{__name__}.synthetic" and saved_root is None:
        return _drawn_root(source, cache, cache_dir)
    if saved_root is None and target in DOWNLOADS:
        folders = sorted(expanded(cache).glob(DOWNLOADS[target]), key=_version)
        if not folders:
            raise DataError(f"They are not in the cache {cache} any more.")
        saved_root = str(folders[-1])
    if saved_root is None:
        raise DataError(f"Only {target or 'the run'} knows where they lie.")
    run_folder = str(saved_value(config, "run_folder") or "")
    root = _absolute(expanded(str(saved_root)), run, run_folder)
    return FINDERS[target](str(root), "") if target in FINDERS else root


def _drawn_root(source: Mapping[Any, Any], cache: str, cache_dir: str | None) -> Path:
    """The folder of a drawn data set: the run's, or one in the caller's own cache."""
    keys = ("signers", "takes", "size", "seed")
    options = {key: source[key] for key in keys if type(source.get(key)) is int}
    if len(options) < len(keys):
        raise TypeError("data.source lacks whole numbers")
    saved_folder = expanded(cache) / "synthetic" / _drawn_name(**options)
    if saved_folder.is_dir() or cache_dir is None:
        return saved_folder
    count = len(drawing.SIGNS) * options["signers"] * options["takes"]
    if count > MOST_DRAWN or options["size"] > LARGEST_DRAWN:
        raise DataError(
            f"{saved_folder} is not there any more, and is too large to be drawn again."
        )
    return synthetic(None, cache_dir, **options)


def _absolute(root: Path, run: Path, run_folder: str) -> Path:
    """A relative folder was meant from where the command was typed, above the run folder."""
    here = run.resolve()
    if root.is_absolute() or not run_folder or not str(here).endswith(f"/{run_folder}"):
        return root
    return Path(str(here).removesuffix(run_folder)) / root


def _version(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdecimal() else 0, path.name)


def read_thumbnails(
    root: Root, paths: Sequence[str], crops: Mapping[str, Crop] | None = None
) -> list[Image.Image | None]:
    """Read images as thumbnails, padded, cut to their crops; None for each missing one."""
    return [_thumbnail(root, path, (crops or {}).get(path)) for path in paths]


def _thumbnail(root: Root, path: str, crop: Crop | None) -> Image.Image | None:
    try:
        image = decode_crop(read_bytes(root / path), crop)
    except (BadImageError, DataError, OSError, ValueError):
        return None
    return ImageOps.pad(
        image, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BICUBIC, color=BACKGROUND
    )
