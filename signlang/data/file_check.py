"""The check of a data set's files: each is decoded once, and its result kept in the cache.

Results are cached by path, size and modification time, so that a second command on the same folder
decodes nothing.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, Final

from signlang.arrays import Pixels
from signlang.console import log, track
from signlang.data import image_io
from signlang.data.image_io import BadImageError, ImageFacts, Thumbnails
from signlang.data.workers import map_files
from signlang.files import atomic_write, parse_json

VERSION: Final = 1  # of the cached results; raise it when `image_io.inspect_image` changes


def inspect_files(
    root: Path, paths: Sequence[str], cache_file: Path, thumbnails: Thumbnails | None = None
) -> list[ImageFacts | str]:
    """Decode every image without a cached result, in parallel.

    Args:
        root: Folder that the paths are relative to.
        paths: Files.
        cache_file: Cached results; created, updated, and replaced if damaged.
        thumbnails: Gets the images that are decoded.

    Returns:
        For each path its facts, or the reason why it cannot be used.
    """
    previous = _previous_results(cache_file)
    signatures = [_file_signature(root / path) for path in paths]
    entries: dict[str, list[Any]] = {
        path: previous[path]
        for path, signature in zip(paths, signatures, strict=True)
        if signature and path in previous and previous[path][:2] == signature
    }
    missing = [(p, s) for p, s in zip(paths, signatures, strict=True) if p not in entries]
    if missing:
        inspect = partial(_inspect_one, size=thumbnails.size if thumbnails else None)
        inspected = map_files(inspect, [root / path for path, _ in missing])
        for (path, signature), (result, image) in zip(
            missing, track(inspected, "checking images", len(missing)), strict=True
        ):
            # what could not be read, or changed meanwhile, may be there again as it was
            is_unchanged = signature == _file_signature(root / path)
            entries[path] = [*(signature if signature and is_unchanged else [0, 0]), result]
            if thumbnails is not None and image is not None:
                thumbnails.of[result[0]] = image
        text = json.dumps(entries)
        checksum = zlib.crc32(text.encode())
        with atomic_write(cache_file) as temporary:
            temporary.write_text(f'{{"version": {VERSION}, "crc32": {checksum}, {FILES}{text}}}')
    return [_restored(entries[path][2]) for path in paths]


def _inspect_one(path: Path, size: int | None) -> tuple[list[Any] | str, Pixels | None]:
    """Facts of a file and, if a size is given, its image of that size."""
    thumbnails = None if size is None else Thumbnails(size)
    try:
        data = image_io.read_bytes(path)
        facts = image_io.inspect_image(data, path.suffix, thumbnails)
    except BadImageError as error:
        return str(error), None
    return list(astuple(facts)), thumbnails.of[facts.digest] if thumbnails else None


def _restored(result: list[Any] | str) -> ImageFacts | str:
    return result if isinstance(result, str) else ImageFacts(*result)


def _file_signature(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


FILES: Final = '"files": '  # the checksum is of what follows, but for the last brace


def _previous_results(cache_file: Path) -> dict[str, list[Any]]:
    try:
        text = cache_file.read_text()
        content = parse_json(text)
        checksum = zlib.crc32(text.partition(FILES)[2][:-1].encode())
        if content.get("crc32", checksum) != checksum:  # earlier versions wrote none
            log.warning("%s was damaged: checking the images again", cache_file)
            return {}
        return dict(content["files"]) if content["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
