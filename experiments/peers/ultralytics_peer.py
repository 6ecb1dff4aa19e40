"""Ultralytics classify. Usage: python ultralytics_peer.py SPEC.json (see race.py)."""

import json
import sys
import tempfile
from pathlib import Path

from ultralytics.models.yolo.classify import ClassificationTrainer

# as its own yolo11-cls-resnet18.yaml, without the download of weights; and its own network
RESNET18 = """
nc: 1000
backbone:
  - [-1, 1, TorchVision, [512, resnet18, null, True, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""


def folders(spec: dict, root: Path) -> None:
    """Link the images as Ultralytics wants them: train/<class>/ and val/<class>/."""
    for part, name in (("train", "train"), ("test", "val")):
        for number, (file, label) in enumerate(spec[part]):
            folder = root / name / spec["classes"][label]
            folder.mkdir(parents=True, exist_ok=True)
            link = f"{number}{Path(file).suffix.lower()}"
            (folder / link).symlink_to(Path(file).resolve())


def print_accuracy(trainer: ClassificationTrainer) -> None:
    """Print one line an epoch, as race.py reads them."""
    accuracy = trainer.metrics["metrics/accuracy_top1"]
    print(f"epoch {trainer.epoch + 1} accuracy {accuracy:.6f}", flush=True)


def main() -> None:
    """Train and print the top-1 accuracy after each epoch."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        folders(spec, root)
        ours = {"optimizer": "AdamW", "lr0": spec["rate"], "batch": spec["batch"]}
        file = Path(name) / "resnet18-cls.yaml"
        file.write_text(RESNET18)
        network = {"resnet18": str(file), "yolo11n": "yolo11n-cls.yaml"}[spec["network"]]
        trainer = ClassificationTrainer(
            overrides={
                "model": network, "data": str(root), "imgsz": spec["size"],
                "epochs": spec["epochs"], "seed": spec["seed"], "pretrained": False,
                "project": name, "device": "cpu", "workers": 0, "plots": False, "verbose": False,
                **(ours if spec["settings"] == "ours" else {}),
            }
        )  # fmt: skip
        trainer.add_callback("on_fit_epoch_end", print_accuracy)
        trainer.train()


if __name__ == "__main__":
    main()
