"""Where pictures come from: a folder that the user has or nothing comes in, class folders go out.

Each source is called with the user's folder, or None, and the cache folder; what has to be
downloaded or drawn is kept in the cache.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Final

from signlang.console import log, verbose
from signlang.data import cache
from signlang.data import synthetic as drawing
from signlang.errors import DataError, SettingError

DIGITS_URL: Final = "https://github.com/ardamavi/Sign-Language-Digits-Dataset/archive/4b09433.zip"
# An archive that is packed on demand has no lasting checksum; its 2,062 pictures have.
DIGITS_CONTENT: Final = "3e6e0579509c97a3a4c2259a51e64219"
ASL_ALPHABET: Final = "grassknoted/asl-alphabet"


def synthetic(
    root: str | None, cache_dir: str, *, signers: int, takes: int, size: int, seed: int
) -> Path:
    """Draw the built-in data set, or find it in the cache: ten signs, `signers` x `takes` of each.

    Raises:
        SettingError: If a folder is given, or there is nothing to draw.
    """
    if root is not None:
        raise SettingError(
            "data=synthetic draws its own pictures: for a folder of yours say data=folder "
            f"data.root={root}."
        )
    if min(signers, takes) < 1 or size < 16:
        raise SettingError(
            f"data.source: signers={signers} and takes={takes} must be at least 1, "
            f"size={size} at least 16 pixels."
        )
    name = f"v{drawing.VERSION}-signers{signers}-takes{takes}-size{size}-seed{seed}"
    folder = cache.folder(cache_dir, "synthetic") / name
    if not folder.is_dir():
        log.info("drawing %d pictures into %s", len(drawing.SIGNS) * signers * takes, folder)
        drawing.write(folder, signers=signers, takes=takes, size=size, seed=seed)
    return folder


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
    path = Path(root).expanduser()
    if not path.exists():
        raise DataError(f"data.root={root}: there is no such folder or file.")
    inner = [p for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
    if len(inner) == 1 and inner[0].is_dir() and any(p.is_dir() for p in inner[0].iterdir()):
        log.info("taking the classes from %s", inner[0])
        return inner[0]
    return path


def digits(root: str | None, cache_dir: str) -> Path:
    """Find the Sign Language Digits, or download their 2,062 pictures once (25 MB).

    Raises:
        DataError: If the download fails or brings other pictures.
    """
    if root is not None:
        path = Path(root).expanduser()
        return path / "Dataset" if (path / "Dataset").is_dir() else folder(root, cache_dir)
    folder_ = cache.folder(cache_dir, "downloads") / "sign-language-digits"
    if not folder_.is_dir():
        _download_digits(folder_)
    return folder_


def asl_alphabet(root: str | None, cache_dir: str) -> Path:
    """Find the ASL Alphabet in Kaggle's own layout, or download it (1.1 GB) with Kaggle's client.

    Raises:
        DataError: If the download fails, e.g. for want of a network.
    """
    base = Path(root).expanduser() if root is not None else _download_asl_alphabet(cache_dir)
    for inner in ("asl_alphabet_train/asl_alphabet_train", "asl_alphabet_train"):
        if (base / inner).is_dir():
            return base / inner
    return folder(str(base), cache_dir)


def content_of(folder_: Path) -> str:
    """Digest of the names and bytes of all files below a folder, 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=16)
    for file in sorted(p for p in folder_.rglob("*") if p.is_file()):
        state.update(file.relative_to(folder_).as_posix().encode() + b"\0")
        state.update(hashlib.blake2b(file.read_bytes()).digest())
    return state.hexdigest()


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
    found = next(unpacked.rglob("Dataset"), None)
    if found is None or content_of(found) != DIGITS_CONTENT:
        Path(archive).unlink()
        raise DataError(
            f"What {DIGITS_URL} brought are not the 2,062 pictures known by checksum; "
            f"try again. {by_hand}"
        )
    found.rename(target)
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
    import os

    os.environ.setdefault("KAGGLEHUB_CACHE", str(cache.folder(cache_dir, "downloads", "kaggle")))
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
