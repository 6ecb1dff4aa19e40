"""A folder or a ZIP file comes in; the bytes of one file in it go out, and nothing is unpacked."""

import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

from signlang.deploy import manifest
from signlang.errors import BundleError

MANIFEST: Final = "bundle.json"
AGAIN: Final = "Copy it anew, or export the run again."


def read(path: Path, name: str, most: int) -> bytes:
    """Read a file of a bundle.

    Args:
        path: A folder, or a ZIP file with its files at the top or in one folder.
        name: Of the file.
        most: Bytes that it may have; a small ZIP file can hold a bomb.

    Raises:
        BundleError: If it is missing, damaged, too large, or lies outside of the bundle.
    """
    if not manifest.is_plain(name):
        raise BundleError(f"{path} names a file outside of itself, {name!r}: it is not used.")
    try:
        if path.is_dir():
            return _from_folder(path / name, most)
        if path.is_file():
            return _from_zip(path, name, most)
    except FileNotFoundError:
        raise BundleError(_missing(path, name)) from None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise BundleError(f"{path} is damaged: {name} cannot be read ({reason}). {AGAIN}") from None
    raise BundleError(f"bundle={path}: there is no such folder or ZIP file.")


def _missing(path: Path, name: str) -> str:
    if name == MANIFEST:
        run = " It is a run: export it first." if (path / "record.json").is_file() else ""
        return f"{path} is no bundle: it has no {MANIFEST}.{run}"
    return f"{path} is incomplete: {name} is missing. {AGAIN}"


def _from_folder(file: Path, most: int) -> bytes:
    if file.stat().st_size > most:
        raise BundleError(f"{file} has more bytes than {most:,}: it is no part of a bundle.")
    return file.read_bytes()


def _from_zip(path: Path, name: str, most: int) -> bytes:
    if not zipfile.is_zipfile(path):
        raise BundleError(f"{path} is no bundle: neither a folder nor a (complete) ZIP file.")
    with zipfile.ZipFile(path) as archive:
        odd = [info.filename for info in archive.infolist() if not manifest.is_plain(info.filename)]
        if odd:
            raise BundleError(f"{path} holds a file outside of itself, {odd[0]!r}: it is not used.")
        tops = [i for i in archive.infolist() if PurePosixPath(i.filename).name == MANIFEST]
        inside = PurePosixPath(tops[0].filename).parent if len(tops) == 1 else PurePosixPath()
        try:
            entry = archive.getinfo(str(inside / name))
        except KeyError:
            raise FileNotFoundError(name) from None
        if entry.file_size > most:
            raise BundleError(f"{name} of {path} has more bytes than {most:,}: it is not used.")
        return archive.read(entry)  # zipfile stops where the entry says that it ends
