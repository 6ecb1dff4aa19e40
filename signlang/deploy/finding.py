"""Names of pictures, folders and patterns come in, or bytes on standard input; pictures go out."""

import glob
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from signlang.console import log
from signlang.data.pictures import is_picture_name
from signlang.errors import SettingError

STDIN: Final = "-"
PATTERN: Final = set("*?[")


@dataclass(frozen=True)
class Source:
    """A picture that is to be recognised.

    Attributes:
        name: Its path as it was given or found; `-` for standard input.
        data: Its bytes, if it is no file.
    """

    name: str
    data: bytes | None = None


def sources(paths: Sequence[str], stdin: BinaryIO) -> list[Source]:
    """Find all pictures, in the order given; those of a folder are sorted by name.

    A file is taken whatever it is called, and one that is missing too: it becomes a row with its
    error. Of a folder, files that are not named like pictures, and hidden ones, are passed over.

    Args:
        paths: Files, folders, patterns with `*`, `?`, `[...]` and `**`, or `-`.
        stdin: Holds one path a line, or a picture.

    Raises:
        SettingError: If there is none.
    """
    found = [source for path in paths for source in _sources(path, stdin)]
    if not found:
        raise SettingError(f"There is no picture in {', '.join(paths)}.")
    return found


def _sources(path: str, stdin: BinaryIO) -> Iterator[Source]:
    if path == STDIN:
        yield from _from_stdin(stdin.read())
    elif os.path.isdir(path):  # noqa: PTH112  # names of any length and bytes, without an error
        yield from _in_folder(path)
    elif PATTERN & set(path) and not os.path.lexists(path):
        names = sorted(glob.glob(path, recursive=True))  # noqa: PTH207  # keeps `./` and `../`
        for name in names:
            yield from _in_folder(name) if Path(name).is_dir() else [Source(name)]
        if not names:
            yield Source(path)
    else:
        yield Source(path)


def _in_folder(folder: str) -> Iterator[Source]:
    passed_over, seen = 0, set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_picture_name(Path(name).suffix) and not name.startswith("."):
                yield Source(str(Path(place, name)))
            else:
                passed_over += not name.startswith(".")
    if passed_over:
        log.info("%s: %d files are not named like pictures and are passed over", folder,
                 passed_over)  # fmt: skip


def _from_stdin(data: bytes) -> list[Source]:
    """Take a picture, or else lines of paths."""
    try:
        with Image.open(io.BytesIO(data)):
            return [Source(STDIN, data)]
    except Exception:  # decoders raise anything at what is no picture
        if b"\0" in data:
            return [Source(STDIN, data)]  # neither is it text: decoding will say what is wrong
    lines = os.fsdecode(data).splitlines()
    return [Source(line.strip()) for line in lines if line.strip()]
