"""Scanning of class folders and CSV tables into entries of path, label and signer."""

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from signlang.console import log
from signlang.data.image_io import is_image_name, looks_like_image
from signlang.errors import DataError, listing

JUNK: Final = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}  # files of operating systems
SUBSET_NAMES: Final = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}


@dataclass(frozen=True)
class ImageEntry:
    """Path, label and signer of one image."""

    path: str
    label: str
    signer: str = ""


def list_folder(root: Path) -> list[ImageEntry]:
    """List the images below a folder that has one folder per class.

    Images may lie in folders of any depth below their class; links are followed; hidden files and
    files of operating systems are skipped. A file without an image suffix is opened, and skipped
    with a log line if it holds no image.

    Raises:
        DataError: If there is no such folder, it has no class folders, some class folder is empty,
            or its folders look like subsets (`train`, `test`) rather than classes.
    """
    names, folders = _content(root)
    entries: list[ImageEntry] = []
    skipped: list[str] = []
    empty: list[str] = []
    for name in folders:
        label = unicodedata.normalize("NFC", name)
        before = len(entries)
        for file in _files_below(root / name):
            path = file.relative_to(root).as_posix()
            if is_image_name(file.suffix) or looks_like_image(file):
                entries.append(ImageEntry(path, label))
            else:
                skipped.append(path)
        if len(entries) == before:
            empty.append(name)
    if empty:
        raise DataError(
            f"{len(empty)} of the {len(folders)} class folders of {root} hold no image: "
            f"{', '.join(empty)}. Fill or remove them."
        )
    skipped += [n for n in names if n not in folders and is_image_name(Path(n).suffix)]
    if skipped:
        log.warning(
            "%d files of %s are no images of a class and were skipped:%s",
            len(skipped),
            root,
            listing(skipped, most=5),
        )
    return entries


def class_names(root: Path) -> list[str]:
    """Names of the classes of a data set, without a look into the folders or at the images.

    Args:
        root: A folder with one folder per class, or a CSV file.

    Raises:
        DataError: As `list_folder` and `list_csv`.
    """
    if root.is_file():
        return sorted({entry.label for entry in list_csv(root)})
    return sorted({unicodedata.normalize("NFC", name) for name in _content(root)[1]})


def _content(root: Path) -> tuple[list[str], list[str]]:
    """All names in a folder but junk, and those of the class folders."""
    if not root.is_dir():
        raise DataError(
            f"There is no folder {root}: give the folder of class folders as data.root."
        )
    try:
        names = sorted(p.name for p in root.iterdir() if not _is_junk(p.name))
    except OSError as error:
        raise DataError(f"The folder {root} cannot be read: {error.strerror}.") from None
    folders = [name for name in names if (root / name).is_dir()]
    if not folders:
        raise DataError(
            f"{root} has no folders in it: expected one folder of images per sign, "
            "or a CSV file with the columns path,label."
        )
    _refuse_subset_folders(root, folders)
    return names, folders


def list_csv(file: Path) -> list[ImageEntry]:
    """List the images of a CSV file with the columns path,label and, if known, signer.

    Paths are relative to the file's folder, or absolute; missing files are reported later, when
    every image is opened.

    Raises:
        DataError: If a column or a value is missing, or a path is named twice.
    """
    rows = _rows(file, required=("path", "label"))
    missing = [f"line {n}" for n, row in rows if not (row["path"] and row["label"])]
    if missing:
        raise DataError(f"{file}: no path or no label in:{listing(missing)}")
    repeated = [path for path, n in Counter(row["path"] for _, row in rows).items() if n > 1]
    if repeated:
        raise DataError(f"{file} names {len(repeated)} images more than once:{listing(repeated)}")
    return [
        ImageEntry(row["path"], unicodedata.normalize("NFC", row["label"]), row.get("signer") or "")
        for _, row in rows
    ]


def read_signers(root: Path, signers: str | None, paths: list[str]) -> dict[str, str] | None:
    """Read the signers of images.

    Args:
        root: The folder of class folders.
        signers: A CSV file `path,signer`, paths relative to `root`; `auto` takes `signers.csv` from
            `root` or the folder above it if it names an image of `root`; None reads nothing.
        paths: The images of the data set.

    Returns:
        The signer by path, or None if signers are unknown.

    Raises:
        DataError: If the file is missing or unreadable, or leaves images without a signer.
    """
    if not signers:
        return None
    if signers == "auto":
        for file in (root / "signers.csv", root.parent / "signers.csv"):
            if file.is_file():
                known = _signers_in(file)
                if any(path in known for path in paths):
                    return _complete(file, known, paths)
        return None
    file = Path(signers).expanduser()
    if not file.is_file():
        raise DataError(f"There is no file {file}: data.signers names a CSV file path,signer.")
    return _complete(file, _signers_in(file), paths)


def _signers_in(file: Path) -> dict[str, str]:
    rows = _rows(file, required=("path", "signer"))
    return {row["path"]: row["signer"] for _, row in rows if row["signer"]}


def _complete(file: Path, known: dict[str, str], paths: list[str]) -> dict[str, str]:
    unknown = [path for path in paths if path not in known]
    if unknown:
        raise DataError(
            f"{file} has no signer for {len(unknown)} of {len(paths)} images:"
            f"{listing(unknown)}\nAdd them, or ignore signers: data.signers=null."
        )
    return known


def _rows(file: Path, required: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            absent = [name for name in required if name not in columns]
            if absent:
                raise DataError(
                    f"{file} has no column {' and no column '.join(absent)}: its first line must "
                    f"be {','.join(required)}, separated by commas; it is "
                    f"{','.join(columns) or 'empty'}."
                )
            return [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k})
                    for row in reader]  # fmt: skip
    except (OSError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV: {error}.") from None


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield all files in sorted order; follow links to folders, but no folder inside itself."""
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        above = {here.resolve(), *here.resolve().parents}
        folders[:] = sorted(
            name for name in folders
            if not _is_junk(name) and (here / name).resolve() not in above
        )  # fmt: skip
        for name in sorted(files):
            if not _is_junk(name):
                yield here / name


def _refuse_subset_folders(root: Path, folders: list[str]) -> None:
    """Refuse a folder whose folders are subsets of a data set: they would become classes."""
    subsets = [
        name for name in folders if SUBSET_NAMES & set(name.lower().replace("-", "_").split("_"))
    ]
    if len(subsets) == len(folders) and any(
        inner.is_dir() for name in subsets for inner in (root / name).iterdir()
    ):
        raise DataError(
            f"The folders of {root} look like subsets of a data set, not like signs: "
            f"{', '.join(subsets)}. Give the one to train on, e.g. data.root={root / subsets[0]}; "
            "it is split into folds here."
        )
