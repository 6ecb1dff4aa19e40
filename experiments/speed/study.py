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
VARIANTS = ("ours", "ours, one after another", "published", "usual")


def ours(root: Path, epochs: int, stopping: bool, launcher: str) -> list[float]:
    """Train by the public command, and read the accuracies."""
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
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--root", type=Path, required=True, help="class folders of the digits")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--stopping", action="store_true", help="stop early, as the study does")
    arguments = parser.parse_args()
    started = time.perf_counter()
    if arguments.variant.startswith("ours"):
        launcher = "local" if arguments.variant == "ours" else "serial"
        accuracies = ours(arguments.root.resolve(), arguments.epochs, arguments.stopping, launcher)
    elif arguments.variant == "published":
        import published

        accuracies = [
            published.fold(CASE, arguments.root, number, arguments.epochs, arguments.stopping)
            for number in range(5)
        ]
    else:
        import usual

        accuracies = [
            usual.fold(CASE, arguments.root, number, arguments.epochs) for number in range(5)
        ]
    print(json.dumps({"seconds": time.perf_counter() - started, "accuracies": accuracies}))


if __name__ == "__main__":
    main()
