"""Recognise signs with a bundle: `python -m signlang.predict bundle=B PICTURES`; no torch."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from signlang import console
from signlang.data.files import replaced
from signlang.deploy import answers, bundle, finding, wishes
from signlang.deploy.answers import Answer, Recogniser
from signlang.deploy.wishes import Wishes
from signlang.errors import SettingError, SignlangError

FORMATS = {
    "table": answers.write_table,
    "csv": answers.write_csv,
    "jsonl": answers.write_jsonl,
}


def predict(wanted: Wishes) -> int:
    """Answer for each picture.

    Returns:
        The exit code: 0, or 1 if a picture could not be used.
    """
    loaded = bundle.load(wanted.bundle)
    network = bundle.Network(loaded, wanted.precision, wanted.device, wanted.workers)
    top = min(wanted.top, len(loaded.classes))
    threshold = wanted.threshold
    if threshold is None:
        threshold = loaded.reject_threshold or 0.0
    recogniser = Recogniser(loaded, network, threshold, top, wanted.batch_size, wanted.workers)
    found = finding.sources(wanted.paths, sys.stdin.buffer)
    tally = _Tally()
    with _opened(wanted.out) as stream:
        said = console.track(recogniser.answers(found), "recognising", len(found))
        FORMATS[wanted.format](tally.counted(said), stream, top)
    console.log.info(tally.text())
    return 1 if tally.bad else 0


class _Tally:
    """Counts answers as they pass by."""

    def __init__(self) -> None:
        self.all, self.bad, self.unknown, self.begun = 0, 0, 0, time.perf_counter()

    def counted(self, passing: Iterator[Answer]) -> Iterator[Answer]:
        for answer in passing:
            self.all += 1
            self.bad += bool(answer.error)
            self.unknown += not answer.accepted and not answer.error
            yield answer

    def text(self) -> str:
        seconds = time.perf_counter() - self.begun
        return (
            f"{self.all:,} picture{'s' * (self.all != 1)} in {seconds:.1f} s "
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
            replaced(out) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
        ):
            yield stream
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SettingError(f"out={out} cannot be written ({error.strerror}).") from None


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    try:
        wanted = wishes.parsed(sys.argv[1:] if words is None else words)
        if wanted is None:
            sys.stdout.write(wishes.HELP)
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
