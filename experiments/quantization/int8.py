"""What int8 costs: export runs with `quantize=true`, and count what each precision recognises.

    python experiments/quantization/int8.py RUN... [--out results.csv]

RUN is a finished run folder, `.../fold=<k>`. The runs of a setting are added up: `results.csv` has
one line for each network and data set.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from signlang.files import write_csv

HERE: Final = Path(__file__).parent
HEADER: Final = (
    "data", "network", "folds", "images", "fp32_correct", "int8_correct", "loss", "layers",
    "fp32_mb", "int8_mb", "fp32_ms", "int8_ms",
)  # fmt: skip


def exported(run: Path) -> dict[str, Any]:
    """`bundle.json` and `metrics.json` of a run that is exported with int8, whatever that costs.

    Raises:
        SystemExit: If the export fails; its output is shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        words = [
            sys.executable, "-m", "signlang.export", f"run={run}", f"out={out}", "quantize=true",
            "int8_loss=0.99",
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{run}: {done.stderr or done.stdout}")
        manifest = json.loads((out / "bundle.json").read_text("utf-8"))
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    return {"manifest": manifest, "metrics": metrics}


def line(data: str, network: str, bundles: list[dict[str, Any]]) -> list[object]:
    """The line of a network on a data set, of the bundles of its folds."""
    every = [one["manifest"] for one in bundles]
    images = [one["accuracy"]["images"] for one in every]
    correct = [
        sum(round(one["accuracy"][precision] * one["accuracy"]["images"]) for one in every)
        for precision in ("fp32", "int8")
    ]
    layers = sorted({one["accuracy"]["int8_layers"] for one in every})
    costs = [
        sum(one[key][precision] for one in every) / len(every)
        for key in ("size_mb", "latency_ms")
        for precision in ("fp32", "int8")
    ]
    loss = (correct[0] - correct[1]) / sum(images)
    return [
        data, network, len(every), sum(images), *correct, f"{loss:.4f}", "; ".join(layers),
        *(f"{cost:.2f}" for cost in costs),
    ]  # fmt: skip


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    given = parser.parse_args()
    settings: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in given.runs:
        bundle = exported(run)
        metrics = bundle["metrics"]
        settings[str(metrics["data"]), str(metrics["model"])].append(bundle)
        print(run, bundle["manifest"]["accuracy"], flush=True)
    lines = [line(*key, bundles) for key, bundles in settings.items()]
    write_csv(given.out, HEADER, lines)
    for one in lines:
        print(*one, sep=" | ")


if __name__ == "__main__":
    main()
