"""Studies of a film come in; accuracy by the distance to the nearest learnt frame goes out.

    python experiments/distance.py experiments/asl_alphabet runs/asl_alphabet

Distances are counted in frames of the data set, within the film of a class, in the order of the
numbers in their names. The table goes into the README of the experiment.
"""

import argparse
import sys
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from signlang import console
from signlang.data.splits import frame_number
from signlang.errors import DataError, SignlangError
from signlang.files import write_between
from signlang.reporting.page import markdown
from signlang.runs.results import Run
from signlang.studies import ranking
from signlang.studies.ranking import Row
from signlang.studies.study import read_study

STARTS: Final = (1, 2, 3, 6, 11)  # of the columns
NAMES: Final = ("1", "2", "3 to 5", "6 to 10", "11 and more")


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Split accuracy by the distance to learnt frames.")
    parser.add_argument(
        "folder", type=Path, help="of the experiment, e.g. experiments/asl_alphabet"
    )
    parser.add_argument("studies", type=Path, nargs="+", help="e.g. runs/asl_alphabet")
    given = parser.parse_args()
    console.start()
    try:
        write_between(given.folder / "README.md", "distance", "\n".join(_lines(given.studies)))
    except SignlangError as error:
        sys.exit(str(error))


def _lines(studies: list[Path]) -> Iterator[str]:
    yield f"| study | network and settings | {' | '.join(NAMES)} |"
    yield f"|---|---|{'---:|' * len(NAMES)}"
    for study in studies:
        for row in ranking.rank_settings(read_study(study)).rows:
            if row.setting.is_complete:
                yield f"| `{study.name}` | {markdown(row.label)} | {' | '.join(_shares(row))} |"


def _shares(row: Row) -> Iterator[str]:
    """Tell the accuracy of each column, and of how many images."""
    images, right = Counter[int](), Counter[int]()
    for run in row.setting.runs:
        for distance, correct in zip(distances(run), run.predictions.correct, strict=True):
            column = bisect(STARTS, distance) - 1
            images[column] += 1
            right[column] += int(correct)
    for column in range(len(STARTS)):
        count = images[column]
        yield f"{right[column] / count:.4f} ({count:,})" if count else ""


def distances(run: Run) -> list[int]:
    """How many frames is each test image from the nearest one of its class that was learnt?"""
    folder = run.folder
    films: dict[str, list[str]] = {}
    for image in sorted(folder.images, key=lambda image: _number(image["path"])):
        films.setdefault(image["label"], []).append(image["path"])
    learnt = {image["path"] for image in folder.images_of("train")}
    found = {}
    for film in films.values():
        known = [place for place, path in enumerate(film) if path in learnt]
        for place, path in enumerate(film):
            near = bisect(known, place)
            found[path] = min(abs(place - k) for k in known[max(near - 1, 0) : near + 1])
    return [found[path] for path in run.predictions.paths]


def _number(path: str) -> int:
    number = frame_number(path)
    if number is None:
        raise DataError(f"{path} has no frame number in its name: it cannot be placed in a film.")
    return number


if __name__ == "__main__":
    main()
