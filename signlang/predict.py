"""Recognise signs with a bundle: `python -m signlang.predict BUNDLE IMAGES`; no torch."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Final, Literal, TextIO

from pydantic import ConfigDict, Field

from signlang import command_line, console, system
from signlang.constraints import Count, ExistingPath, Probability, Strict, validated
from signlang.errors import SettingError, SignlangError
from signlang.files import atomic_write, is_bundle
from signlang.inference import predictor
from signlang.inference.predictor import Prediction, Predictor
from signlang.system import cpu_count

HELP: Final = """python -m signlang.predict BUNDLE PATH...: recognises signs with a bundle.

  python -m signlang.predict bundles/digits image.jpg
  python -m signlang.predict bundle=digits.zip IMAGES format=csv out=signs.csv
  find . -name '*.png' | python -m signlang.predict bundle=B format=jsonl -

A PATH is an image, a folder (with all folders in it), a pattern such as
'a*/**/*.jpg', or -: the standard input, one path a line, or an image itself.
What stands behind -- is a path in any case. Without bundle=B the first PATH is
the bundle.

  bundle=B         folder or ZIP file that signlang.export wrote
  top=3            classes of an answer
  format=table     table, csv or jsonl; without it, the ending of out decides
  out=FILE         where to write; else to the standard output
  threshold=auto   predictions below it are unknown; none: no prediction is;
                   auto: that of the bundle, 0.5 if it has none
  precision=fp32   fp32 or int8
  device=cpu       cpu or cuda
  batch_size=64    images that are predicted together
  workers=auto     threads; auto: one for each processor
  verbose=true     false shows errors only

Exit code: 0 if all images could be used, 1 if some could not, 2 for wrong
settings.
"""
ENDINGS: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FORMATS: Final = {
    "table": predictor.write_table,
    "csv": predictor.write_csv,
    "jsonl": predictor.write_jsonl,
}


class PredictConfig(Strict):
    """The settings; `HELP` documents each. Their values come as the text of a word."""

    model_config = ConfigDict(strict=False)

    bundle: Annotated[
        ExistingPath, Field(description="the folder or ZIP file that signlang.export wrote")
    ]
    top: Count = 3
    format: Literal["table", "csv", "jsonl"] | None = None
    out: Annotated[Path, Field(description="the path of a file")] | None = None
    threshold: Literal["auto", "none"] | Probability = "auto"
    precision: Literal["fp32", "int8"] = "fp32"
    device: Literal["cpu", "cuda"] = "cpu"
    batch_size: Count = 64
    workers: Literal["auto"] | Count = "auto"
    verbose: bool = True

    @property
    def table(self) -> str:
        """The format: the one asked for, else that of the ending of `out`."""
        ending = self.out.suffix.lower() if self.out else ""
        return self.format or ENDINGS.get(ending, "table")

    @property
    def least(self) -> float | None:
        """Probability below which a guess is called unknown; None leaves it to the bundle."""
        if isinstance(self.threshold, str):
            return None if self.threshold == "auto" else 0.0
        return self.threshold


def parse_arguments(words: Sequence[str]) -> tuple[PredictConfig, list[str]]:
    """Read the words of a command: settings and paths.

    Raises:
        SettingError: Names the word that cannot work.

    >>> config, paths = parse_arguments(["bundle=.", "x.png", "top=1", "out=a.csv"])
    >>> config.table, paths
    ('csv', ['x.png'])
    """
    fields = PredictConfig.model_fields
    settings, paths, _ = command_line.sort_words(words, known=fields)
    pairs = [word.partition("=") for word in settings]
    for key, _, value in pairs:
        if not value:
            raise SettingError(f"{key}=: its value is missing, see --help.")
    # null is the word of the other commands for what has not been chosen
    chosen = {key: value for key, _, value in pairs if value != "null"}
    if "bundle" not in chosen and paths and is_bundle(Path(paths[0])):
        chosen["bundle"], *paths = paths
    config = validated(PredictConfig, chosen)
    if not paths:
        raise SettingError("There is nothing to recognise: name images or folders, see --help.")
    return config, paths


def predict(config: PredictConfig, paths: Sequence[str]) -> int:
    """Predict each image.

    Returns:
        The exit code: 0, or 1 if an image could not be used.
    """
    loaded = Predictor.from_bundle(
        config.bundle,
        precision=config.precision,
        device=config.device,
        threshold=config.least,
        top=config.top,
        batch_size=config.batch_size,
        workers=cpu_count() if config.workers == "auto" else config.workers,
    )
    if config.threshold == "auto" and loaded.bundle.no_threshold:
        console.log.info("%s; threshold=none calls none unknown", loaded.bundle.fallback_text)
    sources = predictor.find_sources(paths, sys.stdin.buffer)
    tally = _Tally()
    with _open_output(config.out) as stream:
        predictions = console.track(loaded.stream(sources), "recognising", len(sources))
        counted_predictions = tally.count(predictions)
        FORMATS[config.table](counted_predictions, stream, loaded.top, loaded.hands is not None)
    console.log.info(tally.text())
    return 1 if tally.bad else 0


class _Tally:
    """Counts predictions while they are written."""

    def __init__(self) -> None:
        self.total, self.bad, self.unknown, self.started = 0, 0, 0, time.perf_counter()
        self.without_hand = 0

    def count(self, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        for prediction in predictions:
            self.total += 1
            self.bad += bool(prediction.error)
            self.unknown += prediction.unknown
            self.without_hand += prediction.hand is False
            yield prediction

    def text(self) -> str:
        seconds = time.perf_counter() - self.started
        return (
            f"{self.total:,} image{'s' * (self.total != 1)} in {seconds:.1f} s "
            f"({60 * self.total / seconds:,.0f} a minute), "
            f"{self.unknown:,} unknown, {self.bad:,} could not be used"
            + f", no hand found in {self.without_hand:,}"
            * bool(self.without_hand)
        )


@contextmanager
def _open_output(out: Path | None) -> Iterator[TextIO]:
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
    except OSError as error:
        raise SettingError(f"out={out} cannot be written ({error.strerror}).") from None


@command_line.standard_streams()
def main() -> None:
    """Entry point of the command."""
    words = sys.argv[1:]
    if command_line.VERSION in words:
        sys.stdout.write(command_line.version_line())
        return
    if not {*command_line.HELP}.isdisjoint(words):
        sys.stdout.write(HELP)
        return
    system.restore_signals()
    try:
        config, paths = parse_arguments(words)
        console.start(config.verbose)
        sys.exit(predict(config, paths))
    except SignlangError as error:
        console.show_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
