"""Training raced against what a user would take instead: accuracy over wall-clock time.

    python experiments/peers/race.py --data digits/Dataset --environments DIR

Every contender is a process of its own, in an environment of its own below DIR (see README.md), and
gets the same images of the same fold. All are started from nothing: the clock runs from the start
of the process, imports and decoding included. They take turns, so that load on the machine affects
all of them. After each epoch the test fold is evaluated, by all alike; nothing is selected by it.
What stands in results.csv is not run again.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from signlang.data.index import read_index
from signlang.data.splits import Stratified
from signlang.files import read_csv, write_csv
from signlang.reporting.plots import png_bytes
from signlang.validation import NORMALIZATIONS

HERE: Final = Path(__file__).parent
HEADER: Final = (
    "network", "weights", "peer", "settings", "fold", "epoch", "seconds", "accuracy",
)  # fmt: skip
CASES: Final = {
    "resnet18": {"size": 128, "batch": 64, "epochs": 3},
    "mobilenetv2": {"size": 96, "batch": 64, "epochs": 4},
    "squeezenet": {"size": 96, "batch": 64, "epochs": 8},
    "simple_cnn": {"size": 100, "batch": 64, "epochs": 6},
    "mobilenetv2_dense": {"size": 96, "batch": 64, "epochs": 4},
}
PEERS: Final = {
    "fastai": {"resnet18", "squeezenet"},  # its learner finds no place to cut MobileNetV2
    "lightning": {"resnet18", "mobilenetv2", "squeezenet"},
    "ultralytics": {"resnet18"},
    "keras": {"simple_cnn", "mobilenetv2", "mobilenetv2_dense"},
}
ACROSS: Final = 3  # panels of a row of the chart
# a line with a batch tells the training accuracy within an epoch
EPOCH: Final = re.compile(r"epoch (\d+)(?:/\d+)?(?!\s+batch)\s.*accuracy ([\d.]+)")


@dataclass(frozen=True)
class Contender:
    """One entry of the race.

    Attributes:
        peer: `signlang`, or one of `PEERS`.
        network: One of `CASES`.
        settings: `own`, the defaults of the peer; or `ours`, rate and schedule of signlang.
        weights: A file of ImageNet weights; empty from scratch.
    """

    peer: str
    network: str
    settings: str
    weights: str = ""


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Race training against other packages.")
    parser.add_argument("--data", type=Path, required=True, help="one folder of images per class")
    parser.add_argument("--environments", type=Path, required=True, help="with DIR/PEER/bin/python")
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--settings", nargs="+", default=["own", "ours"])
    parser.add_argument("--weights", default="", help="ImageNet weights instead of from scratch")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    file, start = arguments.out / "results.csv", Path(arguments.weights).name
    rows = [list(row.values()) for row in read_csv(file)]
    done = {tuple(row[:5]) for row in rows}
    for network in arguments.networks:
        for contender in contenders(
            network, arguments.peers, arguments.settings, arguments.weights
        ):
            key = (network, start, contender.peer, contender.settings, str(arguments.fold))
            if key in done:
                continue
            for epoch, seconds, accuracy in race(contender, arguments):
                rows.append([*key, str(epoch), f"{seconds:.1f}", f"{accuracy:.4f}"])
                print(*rows[-1], flush=True)
            write_csv(file, HEADER, rows)
    (arguments.out / "race.png").write_bytes(png_bytes(chart(rows)))


def contenders(
    network: str, peers: Sequence[str], settings: Sequence[str], weights: str
) -> list[Contender]:
    """The entries of one network; signlang first."""
    return [
        Contender("signlang", network, "ours", weights),
        *(
            Contender(peer, network, setting, weights)
            for peer in peers
            if network in PEERS[peer]
            for setting in settings
        ),
    ]


def race(contender: Contender, arguments: argparse.Namespace) -> list[tuple[int, float, float]]:
    """Run one contender: epoch, seconds since its start and accuracy, of each epoch.

    Raises:
        SystemExit: If it fails; its output is shown.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = _command(contender, arguments, folder)
        environment = dict(os.environ, PYTHONPATH=str(HERE), TF_CPP_MIN_LOG_LEVEL="3")
        if contender.peer == "signlang":
            environment["PYTHONPATH"] = str(HERE.parents[1])
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        lines, epochs = [], []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            found = EPOCH.search(line)  # Ultralytics evaluates its best epoch once more at the end
            if found and int(found[1]) <= CASES[contender.network]["epochs"]:
                accuracy = float(found[2])
                epochs.append((int(found[1]), time.perf_counter() - started, accuracy))
        if process.wait():
            sys.exit(f"{contender} failed:\n{''.join(lines[-30:])}")
    return epochs


def _command(contender: Contender, arguments: argparse.Namespace, folder: Path) -> list[str]:
    case = CASES[contender.network]
    if contender.peer == "signlang":
        weights = _weights_settings(contender)
        return [
            sys.executable, "-m", "signlang.train", f"data.root={arguments.data.resolve()}",
            "data=digits", f"model={contender.network}", f"fold={arguments.fold}",
            "split.validation=fold", f"image_size={case['size']}", f"batch_size={case['batch']}",
            f"trainer.max_epochs={case['epochs']}", f"cache_dir={folder / 'cache'}", *weights,
        ]  # fmt: skip
    index = read_index(arguments.data, cache_dir=str(folder / "cache"))
    folds = np.asarray(Stratified().folds(index, 5, 0))
    files = [
        [str((index.root / path).resolve()), int(label)]
        for path, label in zip(index.paths, index.labels, strict=True)
    ]
    node = OmegaConf.load(HERE.parents[1] / "conf" / "model" / f"{contender.network}.yaml")
    spec = {
        **case, "rate": node.learning_rate, "network": contender.network,
        "settings": contender.settings, "seed": 0,
        "normalization": NORMALIZATIONS["half" if _is_of_tensorflow(contender) else "imagenet"],
        "weights": str(Path(contender.weights).resolve()) if contender.weights else "",
        "classes": list(index.classes),
        "train": [file for file, fold in zip(files, folds, strict=True) if fold != arguments.fold],
        "test": [file for file, fold in zip(files, folds, strict=True) if fold == arguments.fold],
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(spec))
    python = arguments.environments.absolute() / contender.peer / "bin" / "python"
    return [str(python), str(HERE / f"{contender.peer}_peer.py"), str(folder / "spec.json")]


def _is_of_tensorflow(contender: Contender) -> bool:
    return ".tf_" in Path(contender.weights).name  # as timm marks its weights


def _weights_settings(contender: Contender) -> list[str]:
    """Settings of signlang for a file of ImageNet weights."""
    if not contender.weights:
        return []
    settings = [f"model.weights={Path(contender.weights).resolve()}"]
    if _is_of_tensorflow(contender):
        settings += ["model.normalization=half", "model.network.tensorflow=true"]
    return settings


def chart(rows: Sequence[Sequence[Any]]) -> Figure:
    """Accuracy over seconds, a panel for each network and start."""
    panels = list(dict.fromkeys((str(row[0]), str(row[1])) for row in rows))
    height = -(-len(panels) // ACROSS)
    figure = Figure(figsize=(5.2 * ACROSS, 4 * height), layout="constrained")
    places = figure.subplots(height, ACROSS, squeeze=False).flat
    for axes in places[len(panels) :]:
        axes.remove()
    for axes, panel in zip(places, panels, strict=False):
        lines = [row for row in rows if (str(row[0]), str(row[1])) == panel]
        entries = list(dict.fromkeys((str(row[2]), str(row[3])) for row in lines))
        for peer, settings, fold in dict.fromkeys(tuple(map(str, row[2:5])) for row in lines):
            points = [row for row in lines if tuple(map(str, row[2:5])) == (peer, settings, fold)]
            words = {"own": "own settings", "ours": "our settings"}[settings]
            label = peer if peer == "signlang" else f"{peer}, {words}"
            axes.plot(
                [float(row[6]) for row in points], [float(row[7]) for row in points],
                marker="o", markersize=3, linewidth=2.2 if peer == "signlang" else 1.1,
                color=f"C{entries.index((peer, settings))}",
                linestyle="--" if settings == "ours" and peer != "signlang" else "-",
                label=label if fold == "0" else None,
            )  # fmt: skip
        axes.set(title=f"{panel[0]}, {'ImageNet weights' if panel[1] else 'from scratch'}",
                 xlabel="seconds since the start of the process", ylabel="test accuracy",
                 ylim=(0, 1.02))  # fmt: skip
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
