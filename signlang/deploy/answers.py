"""Pictures come in; what a bundle says of each goes out, as a table, CSV or lines of JSON."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from signlang.data.pictures import BadPictureError, read_bytes, resized
from signlang.data.streaming import batches, in_order
from signlang.deploy.bundle import Bundle, Network, Pixels, read_picture
from signlang.deploy.finding import Source

UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Answer:
    """What is said of one picture.

    Attributes:
        path: Its name.
        ranked: The most probable classes with their probabilities, the most probable first; empty
            for a picture that cannot be used.
        accepted: Whether the first of them reaches the threshold.
        error: Why the picture cannot be used, or nothing.
    """

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    accepted: bool = False
    error: str = ""

    @property
    def guess(self) -> str:
        """The most probable class."""
        return self.ranked[0][0] if self.ranked else ""

    @property
    def label(self) -> str:
        """The guess, or `unknown` if it is too improbable; empty for a bad picture."""
        return self.guess if self.accepted or not self.ranked else UNKNOWN


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A bundle with how it is to be used.

    Attributes:
        bundle: It.
        network: Its network.
        threshold: Guesses of a lower probability are called unknown; 0 accepts all.
        top: Classes of an answer.
        batch_size: Pictures that are judged together.
        workers: Threads that decode.
    """

    bundle: Bundle
    network: Network
    threshold: float
    top: int
    batch_size: int
    workers: int

    def answers(self, sources: Iterable[Source]) -> Iterator[Answer]:
        """Answer for each picture, in order; a bad one is answered with its error.

        Threads decode pictures, and squeeze them as the graph would, while others are judged.
        """
        read = in_order(self._read, sources, self.workers, ahead=2 * self.batch_size)
        for batch in batches(read, self.batch_size):
            yield from self._judged(batch)

    def _read(self, source: Source) -> tuple[Source, Pixels | str]:
        try:
            data = read_bytes(Path(source.name)) if source.data is None else source.data
            picture = Image.fromarray(read_picture(data))
            return source, resized(picture, self.bundle.sides[0])
        except BadPictureError as error:
            return source, str(error)
        except ValueError as error:  # a name with a null byte
            return source, f"no such file ({error})"

    def _judged(self, batch: Sequence[tuple[Source, Pixels | str]]) -> Iterator[Answer]:
        good = [pixels for _, pixels in batch if not isinstance(pixels, str)]
        said = iter(self.network(np.stack(good)) if good else ())
        for source, pixels in batch:
            if isinstance(pixels, str):
                yield Answer(source.name, error=pixels)
            else:
                yield self._ranked(source.name, next(said))

    def _ranked(self, name: str, probabilities: npt.NDArray[np.float32]) -> Answer:
        order = np.argsort(-probabilities, kind="stable")[: self.top]
        ranked = tuple((self.bundle.classes[k], float(probabilities[k])) for k in order)
        return Answer(name, ranked, ranked[0][1] >= self.threshold)


def write_csv(answers: Iterable[Answer], stream: TextIO, top: int) -> None:
    """Write path,label,guess,confidence,guess_2,confidence_2,...,error as they come."""
    writer = csv.writer(stream, lineterminator="\n")
    more = [f"{word}_{place}" for place in range(2, top + 1) for word in ("guess", "confidence")]
    writer.writerow(["path", "label", "guess", "confidence", *more, "error"])
    for answer in answers:
        pairs = [[name, f"{share:.6f}"] for name, share in answer.ranked]
        cells = list(chain(*pairs)) or [""] * 2 * top
        writer.writerow([answer.path, answer.label, *cells, answer.error])


def write_jsonl(answers: Iterable[Answer], stream: TextIO, top: int) -> None:
    """Write one JSON object a line, as they come."""
    for answer in answers:
        ranked = [{"class": name, "probability": round(p, 6)} for name, p in answer.ranked]
        row = {
            "path": answer.path,
            "label": answer.label or None,
            "guess": answer.guess or None,
            "confidence": ranked[0]["probability"] if ranked else None,
            "top": ranked,
            "error": answer.error or None,
        }
        stream.write(json.dumps(row) + "\n")


def write_table(answers: Iterable[Answer], stream: TextIO, top: int) -> None:
    """Write aligned columns for people, once all answers are there."""
    rows = [["path", "label", "confidence", *(f"{place}." for place in range(2, top + 1))]]
    for answer in answers:
        others = [f"{name} {share:.4f}" for name, share in answer.ranked[1:]]
        label = answer.label if answer.accepted else f"{UNKNOWN} ({answer.guess}?)"
        rows.append(
            [answer.path, "-", answer.error]
            if answer.error
            else [answer.path, label, f"{answer.ranked[0][1]:.4f}", *others]
        )
    # sentences of errors, in the third place, run over what follows
    fitted = [row for row in rows if row[1] != "-"]
    wide = [max(map(len, column)) for column in zip(*fitted, strict=True)]
    wide[0] = max(len(row[0]) for row in rows)
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, wide, strict=False)]
        stream.write("  ".join(cells).rstrip() + "\n")
