"""Files come in, facts or problems of each go out: every picture is decoded once before training.

What was found is remembered by path, size and modification time, so that the second command on the
same folder decodes nothing.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

from signlang.console import track
from signlang.data import pictures
from signlang.data.files import replaced
from signlang.data.pictures import BadPictureError, Facts

VERSION: Final = 1  # of the memory; raise it when `pictures.inspect` judges differently


def inspect(root: Path, paths: Sequence[str], memory: Path) -> list[Facts | str]:
    """Decode every picture that is not remembered, in parallel.

    Args:
        root: What the paths are relative to.
        paths: Files.
        memory: A file that keeps the findings; made, renewed, and replaced when it is damaged.

    Returns:
        For each path its facts, or a sentence on why it cannot be used.
    """
    known = _remembered(memory)
    stamps = [_stamp(root / path) for path in paths]
    found: dict[str, list[Any]] = {
        path: known[path]
        for path, stamp in zip(paths, stamps, strict=True)
        if stamp and path in known and known[path][:2] == stamp
    }
    missing = [(p, s) for p, s in zip(paths, stamps, strict=True) if p not in found]
    if missing:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(lambda item: _inspect_one(root / item[0]), missing)
            for (path, stamp), result in zip(
                missing, track(results, "checking pictures", len(missing)), strict=True
            ):
                found[path] = [*(stamp or [0, 0]), result]
        with replaced(memory) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, "files": found}))
    return [_revived(found[path][2]) for path in paths]


def _inspect_one(path: Path) -> list[Any] | str:
    try:
        return list(astuple(pictures.inspect(pictures.read_bytes(path), path.suffix)))
    except BadPictureError as error:
        return str(error)


def _revived(result: list[Any] | str) -> Facts | str:
    return result if isinstance(result, str) else Facts(*result)


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _remembered(memory: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(memory.read_text())
        return dict(content["files"]) if content["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
