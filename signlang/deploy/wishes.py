"""The words behind `signlang.predict` come in; checked wishes go out. Paths and settings mix."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from signlang.errors import SettingError, suggestion
from signlang.machine import cores

HELP: Final = """python -m signlang.predict bundle=B PATH... : recognises hand signs with a bundle.

  python -m signlang.predict bundle=bundles/digits picture.jpg
  python -m signlang.predict bundle=bundles/digits.zip PICTURES format=csv out=signs.csv
  find . -name '*.png' | python -m signlang.predict bundle=bundles/digits format=jsonl -

A PATH is a picture, a folder (with all folders in it), a pattern such as 'a*/**/*.jpg', or -: the
standard input, one path a line, or a picture itself. What stands behind -- is a path in any case.

  bundle=B           folder or ZIP file that signlang.export wrote
  top=3              classes of an answer
  format=table       table, csv or jsonl; without it, the ending of out decides
  out=FILE           where to write; else to the standard output
  threshold=auto     less probable guesses are called unknown; auto: as the bundle says; none
  precision=fp32     fp32 or int8
  device=cpu         cpu or cuda
  batch_size=64      pictures that are judged together
  workers=auto       threads; auto: one for each processor
  verbose=true       false shows errors only

Exit code: 0 if all pictures could be used, 1 if some could not, 2 for wrong settings.
"""
ENDINGS: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
WORD: Final = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Wishes:
    """What the user wants; see `HELP`."""

    bundle: Path
    paths: tuple[str, ...]
    top: int = 3
    format: str = "table"
    out: Path | None = None
    batch_size: int = 64
    workers: int = 1
    precision: str = "fp32"
    device: str = "cpu"
    threshold: float | None = None  # as the bundle says
    verbose: bool = True


def parsed(words: Sequence[str]) -> Wishes | None:
    """Read the words of a command; None if help is asked for.

    Raises:
        SettingError: Names the word that cannot work.

    >>> parsed(["bundle=b", "x.png", "top=1", "out=a.csv"]).format
    'csv'
    """
    given: dict[str, Any] = {"workers": cores()}
    paths: list[str] = []
    for number, word in enumerate(words):
        if word == "--":
            paths += words[number + 1 :]
            break
        if word in {"--help", "-h"}:
            return None
        setting = WORD.fullmatch(word)
        if setting and setting[1] in READERS:
            given[setting[1]] = _value(*setting.groups())
        elif setting and not Path(word).exists():
            raise SettingError(
                f"There is no setting {setting[1]}. {suggestion(setting[1], READERS)}"
            )
        elif word.startswith("--"):
            raise SettingError(f"{word}: settings are written as key=value, see --help.")
        else:
            paths.append(word)
    if "bundle" not in given:
        raise SettingError("bundle=B is missing: the bundle that signlang.export wrote.")
    if not paths:
        raise SettingError("There is nothing to recognise: name pictures or folders, see --help.")
    if given.get("out") and "format" not in given:
        given["format"] = ENDINGS.get(given["out"].suffix.lower(), "table")
    return Wishes(paths=tuple(paths), **given)


def _value(key: str, text: str) -> Any:
    try:
        return READERS[key](text)
    except ValueError as error:
        raise SettingError(f"{key}={text}: {error}.") from None


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise ValueError("it must be a whole number of at least 1")
    return int(text)


def _workers(text: str) -> int:
    return cores() if text == "auto" else _count(text)


def _threshold(text: str) -> float | None:
    if text in {"auto", "none"}:
        return None if text == "auto" else 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError("it must be a probability from 0 to 1, auto or none")
    return value


def _one_of(*known: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"it must be {', '.join(known[:-1])} or {known[-1]}")
        return text

    return read


def _path(text: str) -> Path:
    if not text:
        raise ValueError("it must name a file or folder")
    return Path(text).expanduser()


READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "bundle": _path,
    "top": _count,
    "format": _one_of("table", "csv", "jsonl"),
    "out": _path,
    "batch_size": _count,
    "workers": _workers,
    "precision": _one_of("fp32", "int8"),
    "device": _one_of("cpu", "cuda"),
    "threshold": _threshold,
    "verbose": lambda text: _one_of("true", "false")(text) == "true",
}
