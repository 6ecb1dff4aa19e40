"""Train the landmark network on one, two or three data sets, and test it on the others.

    python experiments/generalisation/leave_out.py 'data.sets={...}' --out OUT [--part 0/2]

It trains every variant of `VARIANTS` on every choice of sets, several seeds each, and writes a line
for each training and tested set into OUT/part-*.csv, and the probabilities into OUT/*.npz. What is
there is not trained again. `choice.py` reads both. Points of hands are searched once, see `signlang
hands`.
"""

import argparse
import csv
import os
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from signlang.callbacks.one_cycle import OneCycle
from signlang.data.collection import read_data_set
from signlang.data.datamodule import balanced
from signlang.data.image_cache import decode_images
from signlang.hands.hand_input import GRID, HandPoints
from signlang.hands.hand_networks import find_networks
from signlang.models.landmark_network import LandmarkNetwork, Movement

LETTERS: Final = tuple("ABCDEFGHIKLMNOPQRSTUVWXY")  # J and Z move
SEEDS: Final = {1: 3, 2: 1, 3: 3}  # by the number of sets that are trained on
BASE: Final[dict[str, Any]] = {
    "width": 48, "dropout": 0.1, "movement": {}, "epochs": 24, "batch": 128, "rate": 1e-2,
    "decay": 0.01, "smoothing": 0.0, "average": 0.0, "balance": "set", "reject_empty": False,
}  # fmt: skip
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "base": {},
    "balance=none": {"balance": "none"},
    "rotation and tilt x 2": {"movement": {"rotation": 40.0, "tilt": 30.0}},
    "zoom 0.25": {"movement": {"zoom": 0.25}},
    "jitter 0.06": {"movement": {"jitter": 0.06}},
    "bones 0.2": {"movement": {"bones": 0.2}},
    "depth 0.7": {"movement": {"depth": 0.7}},
    "mirrored 0.1": {"movement": {"mirrored": 0.1}},
    "label smoothing 0.1": {"smoothing": 0.1},
    "60 epochs": {"epochs": 60},
    "12 epochs": {"epochs": 12},
    "width 128": {"width": 128},
    "dropout 0.3": {"dropout": 0.3},
    "weight decay 0.3": {"decay": 0.3},
    "average of weights": {"average": 0.99},
    "batch 32": {"batch": 32},
    "reject_empty": {"reject_empty": True},
}


def settings_of(variant: str) -> dict[str, Any]:
    """All settings of a variant, or of several joined by ` + `."""
    made: dict[str, Any] = {**BASE, "movement": {}}
    for name in variant.split(" + "):
        own = VARIANTS[name]
        made = {**made, **own, "movement": {**made["movement"], **own.get("movement", {})}}
    return made


class Points:
    """The points of all images, with their labels, signers and sets."""

    def __init__(self, words: str, views: int = 1) -> None:
        key, _, value = words.partition("=")
        if key != "data.sets":
            raise SystemExit("Give the sets first: 'data.sets={name: DIR, ...}'.")
        cache = os.environ.get("SIGNLANG_CACHE", "~/.cache/signlang")
        source = {"_target_": "signlang.data.sources.joined"}
        index = read_data_set(
            {"source": source, "root": None, "sets": yaml.safe_load(value), "classes": LETTERS,
             "on_bad_image": "error"}, cache,
        )  # fmt: skip
        hands = HandPoints(find_networks(None, cache, views))
        images = decode_images(index, GRID, cache, hands)[np.arange(len(index))]
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        self.labels = torch.from_numpy(index.labels)
        self.sets = np.array(index.sets)
        self.names = list(dict.fromkeys(self.sets.tolist()))
        signers = np.array(index.signers or ("",) * len(index))
        levels = [np.unique(values, return_inverse=True)[1] for values in (self.sets, signers)]
        self.levels = np.stack([index.labels, *levels], axis=1).astype(np.int64)


def train(points: Points, sets: tuple[str, ...], options: dict[str, Any], seed: int) -> nn.Module:
    """Train on all images of some sets; the last epoch is what counts."""
    torch.manual_seed(seed)
    rows = np.flatnonzero(np.isin(points.sets, sets))
    network = LandmarkNetwork(
        len(LETTERS), options["width"], options["dropout"], Movement(**options["movement"]),
        options["reject_empty"],
    )  # fmt: skip
    optimizer = torch.optim.AdamW(
        network.parameters(), options["rate"], weight_decay=options["decay"], fused=True
    )
    batches = -(-len(rows) // options["batch"])
    schedule = OneCycle().scheduler(optimizer, options["epochs"] * batches)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(options["average"])  # type: ignore[no-untyped-call]
    mean = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=average, use_buffers=True)
    network.train()
    for epoch in range(options["epochs"]):
        rng = np.random.default_rng((seed, epoch))
        order = rows
        if options["balance"] == "set":
            order = balanced(rows, points.levels[rows], rng)
        for batch in np.array_split(rng.permutation(order), batches):
            logits = network(points.images[batch])
            loss = F.cross_entropy(
                logits, points.labels[batch], label_smoothing=options["smoothing"]
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if options["average"]:
                mean.update_parameters(network)
    return (mean if options["average"] else network).eval()


def trained_sets(names: list[str], single: str) -> list[tuple[str, ...]]:
    """Which sets are trained on: all but one, all but two, and one alone."""
    return [*combinations(names, len(names) - 1), *combinations(names, 2), (single,)]


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="which share of the trainings, e.g. 0/2")
    parser.add_argument("--only", nargs="*", help="variants; default: all")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 2, 3], help="sets trained on")
    parser.add_argument("--test", help="only what is not trained on this set")
    parser.add_argument("--single", default="asl_alphabet")
    parser.add_argument("--seeds", type=int, help="of each choice; default: 1 or 3")
    parser.add_argument("--views", type=int, default=1, help="hands.views; another OUT for each")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    points = Points(given.sets, given.views)
    np.savez_compressed(given.out / "labels.npz", labels=points.labels.numpy(), sets=points.sets)
    part, parts = map(int, given.part.split("/"))
    jobs = [
        (variant, sets, seed)
        for variant in given.only or VARIANTS
        for sets in trained_sets(points.names, given.single)
        if len(sets) in given.sizes and given.test not in sets
        for seed in range(given.seeds or SEEDS[len(sets)])
    ]
    for number, (variant, sets, seed) in enumerate(jobs):
        name = f"{variant}, {' '.join(sets)}, {seed}".replace("/", "-")
        file = given.out / f"{name}.npz"
        if number % parts != part or file.exists():
            continue
        network = train(points, sets, settings_of(variant), seed)
        rows = np.flatnonzero(~np.isin(points.sets, sets))
        with torch.no_grad():
            probabilities = network(points.images[rows]).softmax(1).numpy()
        right = probabilities.argmax(1) == points.labels[rows].numpy()
        with (given.out / f"part-{part}.csv").open("a", newline="") as stream:
            for tested in np.unique(points.sets[rows]).tolist():
                here = points.sets[rows] == tested
                line = [variant, " ".join(sets), seed, tested, f"{right[here].mean():.4f}"]
                csv.writer(stream).writerow(line)
                print(*line, sep=" | ", flush=True)
        np.savez_compressed(file, rows=rows, probabilities=probabilities.astype(np.float32))


if __name__ == "__main__":
    main()
