"""What each rule of selecting a checkpoint would have scored on the test fold.

    python experiments/checkpoint_rule/rules.py runs/rule_digits runs/rule_hand runs/rule_asl

It reads the `epochs.csv` that `epochs.EpochRecorder` wrote into the run folders, writes results.csv
(one line for each training and rule) and prints the table of README.md.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from signlang.callbacks.checkpointing import standard_error
from signlang.files import read_csv, write_csv

HERE: Final = Path(__file__).parent
HEADER: Final = ("study", "setting", "fold", "rule", "epoch", "test_accuracy", "test_loss")
Epoch = Mapping[str, float]
PATIENCE: Final = 10
AVERAGE: Final = "average_"


def rules(images: int) -> dict[str, Callable[[Sequence[Epoch]], tuple[str, Epoch]]]:
    """Each rule maps the epochs of a training to the weights and the epoch that it selects.

    Args:
        images: Of the validation subset.
    """

    def highest(
        key: Callable[[Epoch], tuple[float, ...]], weights: str = ""
    ) -> Callable[[Sequence[Epoch]], tuple[str, Epoch]]:
        return lambda epochs: (weights, max(epochs, key=key))  # the earliest of equals

    def within(weights: str, errors: float) -> Callable[[Sequence[Epoch]], tuple[str, Epoch]]:
        def select(epochs: Sequence[Epoch]) -> tuple[str, Epoch]:
            name = f"{weights}validation_accuracy"
            best = max(e[name] for e in epochs)
            margin = errors * standard_error(best, images)
            return weights, [e for e in epochs if e[name] >= best - margin - 1e-9][-1]

        return select

    return {
        "accuracy": highest(lambda e: (e["validation_accuracy"],)),
        f"accuracy, stopped after {PATIENCE} epochs": lambda epochs: (
            "",
            max(stopped(epochs), key=lambda e: e["validation_accuracy"]),
        ),
        "accuracy, the latest of equals": within("", 0),
        "accuracy, then loss": highest(lambda e: (e["validation_accuracy"], -e["validation_loss"])),
        "accuracy, the latest within one standard error": within("", 1),
        "accuracy, the latest within two standard errors": within("", 2),
        "loss": highest(lambda e: (-e["validation_loss"],)),
        "last epoch": highest(lambda e: (e["epoch"],)),
        "average of weights, last epoch": highest(lambda e: (e["epoch"],), AVERAGE),
        "average of weights, loss": highest(lambda e: (-e["average_validation_loss"],), AVERAGE),
        "average of weights, accuracy, then loss": highest(
            lambda e: (e["average_validation_accuracy"], -e["average_validation_loss"]), AVERAGE
        ),
        "average of weights, the latest within one standard error": within(AVERAGE, 1),
    }


def stopped(epochs: Sequence[Epoch]) -> Sequence[Epoch]:
    """The epochs until the accuracy has not risen for `PATIENCE` of them."""
    best, waited = -1.0, 0
    for number, epoch in enumerate(epochs, start=1):
        waited = 0 if epoch["validation_accuracy"] > best else waited + 1
        best = max(best, epoch["validation_accuracy"])
        if waited == PATIENCE:
            return epochs[:number]
    return epochs


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Compare rules of selecting a checkpoint.")
    parser.add_argument("studies", nargs="+", type=Path, help="folders of studies")
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    arguments = parser.parse_args()
    rows: list[tuple[str, str, str, str, int, float, float]] = []
    for study in arguments.studies:
        for file in sorted(study.glob("*/fold=*/epochs.csv")):
            epochs = [{k: float(v) for k, v in row.items()} for row in read_csv(file)]
            subsets = [row["subset"] for row in read_csv(file.parent / "data.csv")]
            for rule, select in rules(subsets.count("validation")).items():
                weights, best = select(epochs)
                rows.append((
                    study.name, re.split(r"[+,]", file.parent.parent.name)[0],
                    file.parent.name.partition("=")[2], rule, int(best["epoch"]),
                    round(best[f"{weights}test_accuracy"], 4),
                    round(best[f"{weights}test_loss"], 4),
                ))  # fmt: skip
    write_csv(arguments.out, HEADER, rows)
    print(table(rows))


def table(rows: Sequence[tuple[str, str, str, str, int, float, float]]) -> str:
    """Mean accuracy and loss of each rule, and its gain over `accuracy` with a standard error."""
    settings = list(dict.fromkeys((row[0], row[1]) for row in rows))
    scores = {
        rule: {row[:3]: (row[5], row[6]) for row in rows if row[3] == rule}
        for rule in dict.fromkeys(row[3] for row in rows)
    }
    lines = ["| rule | " + " | ".join(f"{a}: {b.split(',')[0]}" for a, b in settings)
             + " | mean | gain in points | loss |",
             "|---" * (len(settings) + 4) + "|"]  # fmt: skip
    base = scores["accuracy"]
    for rule, values in scores.items():
        columns = [
            float(np.mean([v[0] for key, v in values.items() if key[:2] == setting]))
            for setting in settings
        ]
        gains = 100 * np.array([values[key][0] - base[key][0] for key in values])
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        loss = float(np.mean([v[1] for v in values.values()]))
        lines.append(
            f"| {rule} | " + " | ".join(f"{value:.4f}" for value in columns)
            + f" | {np.mean(columns):.4f} | {gains.mean():+.2f} ± {error:.2f} | {loss:.4f} |"
        )  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
