"""What the networks of model=fusion predict on the set that each run was tested on, in other ways.

    python experiments/generalisation/heads.py 'data.sets={...}' runs/STUDY

The crop alone and the points alone: each is trained by its own loss (`models.fusion_network`), so
that it is what it would be without the other one. Their mean, which is the prediction; their
geometric mean; and a joint layer, a logistic regression of scikit-learn on the features of both
from the sets that were trained on. "Either": at least one of the two is right.
"""

import os
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from sklearn.linear_model import LogisticRegression

from signlang.data.collection import read_data_set
from signlang.data.image_cache import decode_images
from signlang.models.fusion_network import FusionNetwork, split_rows
from signlang.runs.trained_run import load_trained_run

BATCH: Final = 128
FILM: Final = 5  # every so many frames of asl_alphabet fit the joint layer
COLUMNS: Final = ("set", "crop", "points", "mean", "geometric mean", "joint layer", "either")


def outputs(network: FusionNetwork, images: Any, rows: Any) -> tuple[Any, Any]:
    """Probabilities (2, n, classes) of crop and points, and the features (n, m) of both."""
    shares, features = [], []
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            pixels = torch.tensor(images[rows[start : start + BATCH]]).permute(0, 3, 1, 2) / 255
            crops, points = split_rows(pixels)
            seen = network.head(network.backbone((crops - network.mean) / network.std))
            told = network.landmarks.hidden(points)
            alone = [network.classifier(seen), network.landmarks.classifier(told)]
            shares.append(torch.stack(alone).softmax(2).numpy())
            features.append(torch.cat([seen, told], dim=1).numpy())
    return np.concatenate(shares, axis=1), np.concatenate(features)


def main() -> None:
    """Print a line for each run."""
    cache = os.environ.get("SIGNLANG_CACHE", "~/.cache/signlang")
    sets = yaml.safe_load(sys.argv[1].partition("=")[2])
    source = {"_target_": "signlang.data.sources.joined"}
    print(*COLUMNS, sep=" | ")
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
        of, labels = np.array(index.sets), index.labels
        rows = np.flatnonzero(of == tested)
        film = (of == "asl_alphabet") & (np.arange(len(of)) % FILM > 0)
        trained = np.flatnonzero((of != tested) & ~film)
        shares, features = outputs(network, images, rows)
        _, known = outputs(network, images, trained)
        joint = LogisticRegression(C=0.01, max_iter=300).fit(known, labels[trained])
        ways = [*shares, shares.sum(0), np.log(shares).sum(0), joint.decision_function(features)]
        right = np.array([way.argmax(1) == labels[rows] for way in ways])
        figures = [*right.mean(1), right[:2].any(0).mean()]
        print(tested, *(f"{figure:.4f}" for figure in figures), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
