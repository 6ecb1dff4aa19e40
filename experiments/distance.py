"""Accuracy by the distance of a test frame to the nearest training frame of its class.

    python experiments/distance.py experiments/asl_alphabet runs/asl_alphabet

Distances are counted in frames of the data set, within the video of a class, in the order of the
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
from signlang.data.index import frame_number
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
    parser = argparse.ArgumentParser(
        description="Split accuracy by the distance to training frames."
    )
    parser.add_argument(
        "folder", type=Path, help="of the experiment, e.g. experiments/asl_alphabet"
    )
    parser.add_argument("studies", type=Path, nargs="+", help="e.g. runs/asl_alphabet")
    arguments = parser.parse_args()
    console.start()
    try:
        write_between(
            arguments.folder / "README.md", "distance", "\n".join(_lines(arguments.studies))
        )
    except SignlangError as error:
        sys.exit(str(error))


def _lines(studies: list[Path]) -> Iterator[str]:
    yield f"| study | network and settings | {' | '.join(NAMES)} |"
    yield f"|---|---|{'---:|' * len(NAMES)}"
    for study in studies:
        for row in ranking.rank_settings(read_study(study)).rows:
            if row.setting.is_complete:
                yield f"| `{study.name}` | {markdown(row.label)} | {' | '.join(_accuracies(row))} |"


def _accuracies(row: Row) -> Iterator[str]:
    """Accuracy and number of images of each column."""
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
    """Distance of each test image to the nearest training frame of its class, in frames."""
    folder = run.folder
    videos: dict[str, list[str]] = {}
    for image in sorted(folder.images, key=lambda image: _number(image["path"])):
        videos.setdefault(image["label"], []).append(image["path"])
    trained = {image["path"] for image in folder.images_of("train")}
    result = {}
    for video in videos.values():
        positions = [place for place, path in enumerate(video) if path in trained]
        for place, path in enumerate(video):
            near = bisect(positions, place)
            result[path] = min(abs(place - k) for k in positions[max(near - 1, 0) : near + 1])
    return [result[path] for path in run.predictions.paths]


def _number(path: str) -> int:
    number = frame_number(path)
    if number is None:
        raise DataError(f"{path} has no frame number in its name: it has no place in a video.")
    return number


if __name__ == "__main__":
    main()
