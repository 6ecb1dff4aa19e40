"""Multiply the runs of a setting: the same folds under other learning rates, for `compare`.

The copies hold what a training leaves, but for checkpoints and dashboards, which `compare` does not
read. In each a few predictions are exchanged, so that settings are not equally accurate.
"""

import argparse
import csv
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from signlang.files import parse_json, write_csv, write_json
from signlang.metrics.classification import classification_metrics
from signlang.runs.folder import CHECKED, CHECKSUMS, RunFolder
from signlang.runs.identity import fingerprint
from signlang.runs.results import read_predictions

EXCHANGED = 0.1  # of the predictions


def parse() -> argparse.Namespace:
    """What is multiplied, and how often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setting", type=Path, help="a folder with fold=0, fold=1, ...")
    parser.add_argument("study", type=Path, help="where the copies go")
    parser.add_argument("--settings", type=int, default=2000)
    return parser.parse_args()


def exchange(rows: Sequence[list[str]], draw: random.Random) -> None:
    """Exchange what was predicted for some pairs of images; columns 2 and later."""
    for _ in range(max(1, int(EXCHANGED * len(rows) / 2))):
        one, other = draw.sample(range(len(rows)), 2)
        rows[one][2:], rows[other][2:] = rows[other][2:], rows[one][2:]


def clone(run: Path, target: Path, rate: float, draw: random.Random) -> None:
    """Copy a run folder as one that was trained with another learning rate."""
    target.mkdir(parents=True)
    for name in CHECKED:
        shutil.copyfile(run / name, target / name)
    record = parse_json((run / "record.json").read_text())
    record["settings"]["optimizer.lr"] = rate
    kept = [word for word in record["overrides"] if not word.startswith("optimizer.lr=")]
    record["overrides"] = [*kept, f"optimizer.lr={rate}"]
    record["fingerprint"] = fingerprint(record["settings"], record["data"]["fingerprint"])
    write_json(target / "record.json", record)
    with (run / "predictions.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    exchange(rows, draw)
    write_csv(target / "predictions.csv", header, rows)
    metrics = parse_json((run / "metrics.json").read_text())
    changed = read_predictions(RunFolder(target), metrics["fold"])
    metrics["test"] |= classification_metrics(changed.probabilities, changed.labels)
    metrics["fingerprint"] = record["fingerprint"]
    RunFolder(target).finish({key: v for key, v in metrics.items() if key != CHECKSUMS})


def main() -> None:
    """Write the study."""
    options, draw = parse(), random.Random(0)
    for number in range(options.settings):
        rate = round(1e-5 * (number + 1), 6)
        for run in sorted(options.setting.glob("fold=*")):
            clone(run, options.study / f"simple_cnn+lr={rate}" / run.name, rate, draw)


if __name__ == "__main__":
    main()
