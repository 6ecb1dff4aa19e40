"""Accuracy of one network and of the mean of several seeds, for what `leave_out.py` trained.

    python experiments/generalisation/ensembles.py 1=OUT 2=OTHER

Each OUT is named by its hands.views. It writes ensembles.csv: for each choice of trained sets and
each tested one, mean and range over the seeds, and the accuracy of their mean probabilities.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from signlang.files import write_csv

HERE: Final = Path(__file__).parent
HEADER: Final = (
    "views", "variant", "trained", "tested", "seeds", "mean", "lowest", "highest", "together",
)  # fmt: skip


def rows_of(views: str, folder: Path) -> list[list[Any]]:
    """A row for each variant, choice of trained sets and tested set."""
    table, found = np.load(folder / "labels.npz"), defaultdict(list)
    for file in sorted(folder.glob("*, *, [0-9].npz")):
        found[tuple(file.stem.rsplit(", ", 2)[:2])].append(np.load(file))
    lines = []
    for (variant, trained), seeds in sorted(found.items()):
        rows = seeds[0]["rows"]
        labels, sets = table["labels"][rows], table["sets"][rows]
        outputs = np.array([one["probabilities"] for one in seeds])
        for tested in np.unique(sets).tolist():
            here = sets == tested
            each = (outputs[:, here].argmax(2) == labels[here]).mean(axis=1)
            together = (outputs[:, here].mean(axis=0).argmax(1) == labels[here]).mean()
            figures = (each.mean(), each.min(), each.max(), together)
            lines.append([views, variant, trained, tested, len(seeds),
                          *(f"{figure:.4f}" for figure in figures)])  # fmt: skip
    return lines


def main() -> None:
    """Print and write the table."""
    named = (word.split("=", 1) for word in sys.argv[1:])
    lines = [line for views, folder in named for line in rows_of(views, Path(folder))]
    write_csv(HERE / "ensembles.csv", HEADER, lines)
    for line in lines:
        print(*line, sep=" | ")


if __name__ == "__main__":
    main()
