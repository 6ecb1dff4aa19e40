"""Five folds of Model A, from the first command to the last metric: `speed.py` starts it.

python experiments/speed/study.py published --root digits/Dataset --epochs 3
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from cases import CASES

CASE = CASES["model_a"]
SIDES = ("ours", "ours, one after another", "published", "usual")


def ours(root: Path, epochs: int, stopping: bool, launcher: str) -> list[float]:
    """Train by the public command, and read what it wrote."""
    with TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "signlang.train", "-m", f"hydra/launcher={launcher}",
            "experiment=digits_simple_cnn", "augment=digits", f"batch_size={CASE.batch}",
            f"optimizer.lr={CASE.rate}", f"data.root={root}", f"trainer.max_epochs={epochs}",
            f"runs_dir={place}", "verbose=false", "fold=range(5)",
        ]  # fmt: skip
        if not stopping:
            command += ["callbacks.early_stopping=null"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        files = sorted(Path(place).glob("*/*/fold=*/metrics.json"))
        return [float(json.loads(file.read_text())["test"]["accuracy"]) for file in files]


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Time five folds of Model A.")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--root", type=Path, required=True, help="class folders of the digits")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--stopping", action="store_true", help="early, as the study does")
    given = parser.parse_args()
    begun = time.perf_counter()
    if given.side.startswith("ours"):
        launcher = "local" if given.side == "ours" else "serial"
        accuracies = ours(given.root.resolve(), given.epochs, given.stopping, launcher)
    elif given.side == "published":
        import published

        accuracies = [
            published.fold(CASE, given.root, number, given.epochs, given.stopping)
            for number in range(5)
        ]
    else:
        import usual

        accuracies = [usual.fold(CASE, given.root, number, given.epochs) for number in range(5)]
    print(json.dumps({"seconds": time.perf_counter() - begun, "accuracies": accuracies}))


if __name__ == "__main__":
    main()
