"""fastai: a `vision_learner` with one cycle: python fastai_peer.py SPEC.json (see race.py)."""

import json
import sys
from pathlib import Path

from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.vision.all import (
    CategoryBlock,
    CrossEntropyLossFlat,
    DataBlock,
    ImageBlock,
    Normalize,
    Resize,
    ResizeMethod,
    accuracy,
    imagenet_stats,
    set_seed,
    vision_learner,
)
from pretrained import fill_torchvision
from torchvision import models

NETWORKS = {
    "resnet18": models.resnet18,
    "squeezenet": models.squeezenet1_0,
}


class PrintAccuracy(Callback):
    """Prints one line an epoch, as race.py reads them."""

    order = 60  # after fastai's Recorder
    done = 0  # epochs: fastai counts from 0 again when it thaws the network

    def after_epoch(self) -> None:
        """Print the accuracy on the judged images."""
        self.done += 1
        print(f"epoch {self.done} accuracy {self.recorder.values[-1][-1]:.6f}", flush=True)


def learner(spec: dict) -> Learner:
    """Build loaders and network with fastai's defaults."""
    files = [*spec["train"], *spec["test"]]
    judged = {name for name, _ in spec["test"]}
    labels = dict(files)
    normalize = Normalize.from_stats(*imagenet_stats)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=spec["classes"])),
        get_items=lambda _: [Path(name) for name, _ in files],
        get_y=lambda file: spec["classes"][labels[str(file)]],
        splitter=lambda items: (
            [i for i, file in enumerate(items) if str(file) not in judged],
            [i for i, file in enumerate(items) if str(file) in judged],
        ),
        item_tfms=Resize(spec["size"], ResizeMethod.Squish),
        batch_tfms=normalize if spec["weights"] else None,  # as fastai does
    )
    loaders = block.dataloaders(".", bs=spec["batch"], num_workers=0)
    made = vision_learner(
        loaders,
        NETWORKS[spec["network"]],
        pretrained=False,
        metrics=accuracy,
        loss_func=CrossEntropyLossFlat(),
        cbs=PrintAccuracy(),
    )
    if spec["weights"]:
        fill_torchvision(made.model[0], spec["weights"])
    return made


def main() -> None:
    """Train as `spec["settings"]` says: fastai's defaults, or the peak rate of signlang.

    From ImageNet weights fastai's default is `fine_tune`, which learns the head alone at first.
    """
    spec = json.loads(Path(sys.argv[1]).read_text())
    set_seed(spec["seed"])
    made = learner(spec)
    with made.no_bar(), made.no_logging():
        if spec["settings"] == "ours":
            made.fit_one_cycle(spec["epochs"], spec["rate"])
        elif spec["weights"]:
            made.fine_tune(spec["epochs"] - 1, freeze_epochs=1)
        else:
            made.fit_one_cycle(spec["epochs"])


if __name__ == "__main__":
    main()
