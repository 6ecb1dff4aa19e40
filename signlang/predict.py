"""Recognise signs with a bundle: `python -m signlang.predict bundle=B IMAGES`; no torch."""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, TextIO

from signlang import console
from signlang.errors import SettingError, SignlangError, suggestion
from signlang.files import atomic_write
from signlang.inference import predictor
from signlang.inference.predictor import Prediction, Predictor
from signlang.system import cpu_count

HELP: Final = """python -m signlang.predict bundle=B PATH... : recognises hand signs with a bundle.

  python -m signlang.predict bundle=bundles/digits image.jpg
  python -m signlang.predict bundle=bundles/digits.zip IMAGES format=csv out=signs.csv
  find . -name '*.png' | python -m signlang.predict bundle=bundles/digits format=jsonl -

A PATH is an image, a folder (with all folders in it), a pattern such as 'a*/**/*.jpg', or -: the
standard input, one path a line, or an image itself. What stands behind -- is a path in any case.

  bundle=B           folder or ZIP file that signlang.export wrote
  top=3              classes of an answer
  format=table       table, csv or jsonl; without it, the ending of out decides
  out=FILE           where to write; else to the standard output
  threshold=auto     less probable guesses are called unknown; auto: as the bundle says; none
  precision=fp32     fp32 or int8
  device=cpu         cpu or cuda
  batch_size=64      images that are judged together
  workers=auto       threads; auto: one for each processor
  verbose=true       false shows errors only

Exit code: 0 if all images could be used, 1 if some could not, 2 for wrong settings.
"""
ENDINGS: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
WORD: Final = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class PredictConfig:
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


def parse_arguments(words: Sequence[str]) -> PredictConfig | None:
    """Read the words of a command; None if help is asked for.

    Raises:
        SettingError: Names the word that cannot work.

    >>> parse_arguments(["bundle=b", "x.png", "top=1", "out=a.csv"]).format
    'csv'
    """
    given: dict[str, Any] = {"workers": cpu_count()}
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
        raise SettingError("There is nothing to recognise: name images or folders, see --help.")
    if given.get("out") and "format" not in given:
        given["format"] = ENDINGS.get(given["out"].suffix.lower(), "table")
    return PredictConfig(paths=tuple(paths), **given)


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
    return cpu_count() if text == "auto" else _count(text)


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
FORMATS = {
    "table": predictor.write_table,
    "csv": predictor.write_csv,
    "jsonl": predictor.write_jsonl,
}


def predict(wanted: PredictConfig) -> int:
    """Predict each image.

    Returns:
        The exit code: 0, or 1 if an image could not be used.
    """
    network = Predictor.from_bundle(
        wanted.bundle,
        precision=wanted.precision,
        device=wanted.device,
        threshold=wanted.threshold,
        top=wanted.top,
        batch_size=wanted.batch_size,
        workers=wanted.workers,
    )
    sources = predictor.find_sources(wanted.paths, sys.stdin.buffer)
    tally = _Tally()
    with _opened(wanted.out) as stream:
        predictions = console.track(network.stream(sources), "recognising", len(sources))
        FORMATS[wanted.format](tally.counted(predictions), stream, network.top)
    console.log.info(tally.text())
    return 1 if tally.bad else 0


class _Tally:
    """Counts predictions as they pass by."""

    def __init__(self) -> None:
        self.all, self.bad, self.unknown, self.begun = 0, 0, 0, time.perf_counter()

    def counted(self, passing: Iterator[Prediction]) -> Iterator[Prediction]:
        for prediction in passing:
            self.all += 1
            self.bad += bool(prediction.error)
            self.unknown += prediction.unknown
            yield prediction

    def text(self) -> str:
        seconds = time.perf_counter() - self.begun
        return (
            f"{self.all:,} image{'s' * (self.all != 1)} in {seconds:.1f} s "
            f"({60 * self.all / seconds:,.0f} a minute), "
            f"{self.unknown:,} unknown, {self.bad:,} could not be used"
        )


@contextmanager
def _opened(out: Path | None) -> Iterator[TextIO]:
    """Yield the standard output, or a file that replaces `out` at the end."""
    if out is None:
        if isinstance(sys.stdout, TextIOWrapper):
            utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
            sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        with (
            atomic_write(out) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
        ):
            yield stream
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SettingError(f"out={out} cannot be written ({error.strerror}).") from None


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    try:
        wanted = parse_arguments(sys.argv[1:] if words is None else words)
        if wanted is None:
            sys.stdout.write(HELP)
            sys.exit(0)
        console.start(wanted.verbose)
        sys.exit(predict(wanted))
    except SignlangError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    except BrokenPipeError:  # who read us, `head` for one, has seen enough
        with suppress(OSError):
            sys.stdout.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
