"""What the two networks of model=fusion predict alone, on the set that each run was tested on.

    python experiments/generalisation/heads.py 'data.sets={...}' runs/STUDY

Each is trained by its own loss (`models.fusion_network`), so that it is what it would be without
the other one. "Either": at least one of the two is right.
"""

import os
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
import yaml

from signlang.data.collection import read_data_set
from signlang.data.image_cache import decode_images
from signlang.models.fusion_network import FusionNetwork, split_rows
from signlang.runs.trained_run import load_trained_run

BATCH: Final = 128


def main() -> None:
    """Print a line for each run."""
    cache = os.environ.get("SIGNLANG_CACHE", "~/.cache/signlang")
    sets = yaml.safe_load(sys.argv[1].partition("=")[2])
    source = {"_target_": "signlang.data.sources.joined"}
    print("set | crop | points | both | either")
    for file in sorted(Path(sys.argv[2]).glob("*/fold=*/metrics.json")):
        run = load_trained_run(file.parent)
        index = read_data_set(
            {"source": source, "root": None, "sets": sets, "classes": list(run.classes),
             "on_bad_image": "error"}, cache,
        )  # fmt: skip
        network = run.classifier.network
        assert isinstance(network, FusionNetwork)
        images = decode_images(index, run.image_size, cache, run.hand_input(cache))
        (tested,) = run.metrics["test"]["per_set"]
        rows = np.flatnonzero(np.array(index.sets) == tested)
        right = []
        with torch.inference_mode():
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                pixels = torch.tensor(images[batch]).permute(0, 3, 1, 2) / 255
                crops, points = split_rows(pixels)
                features = network.head(network.backbone((crops - network.mean) / network.std))
                alone = [network.classifier(features), network.landmarks(points)]
                shares = [logits.softmax(1) for logits in alone]
                predicted = torch.stack([shares[0], shares[1], shares[0] + shares[1]]).argmax(2)
                right.append((predicted == torch.from_numpy(index.labels[batch])).numpy())
        both = np.concatenate(right, axis=1)
        figures = [*both.mean(1), both[:2].any(0).mean()]
        print(tested, *(f"{figure:.4f}" for figure in figures), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
