"""Writing files so that a reader sees the old content or the new, never a part."""

import csv
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from signlang.errors import DataError

PICTURES: Final = ("path", "label", "signer", "part")  # columns of a run's data.csv


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Yield a temporary name beside a file; what is written there replaces the file at the end.

    The old content stays if the process is killed, the disk is full, or the block raises.
    """
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Replace a CSV file; names that are not valid UTF-8 survive as they are."""
    with (
        replaced(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(file: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file that `write_csv` wrote; none if there is no such file."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def write_json(file: Path, content: Any) -> None:
    """Replace a JSON file, indented for people."""
    with replaced(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_between(file: Path, name: str, text: str) -> None:
    """Replace what stands between the marks `<!-- name: begin -->` and `<!-- name: end -->`.

    Raises:
        DataError: If the file lacks one of them.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = file.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise DataError(f"{file} lacks the lines {begin} and {end}.")
    with replaced(file) as temporary:
        temporary.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", "utf-8")
