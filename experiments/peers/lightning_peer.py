"""A plain Lightning project: torchvision's network, ImageFolder-like data and Adam at 1e-3.

Usage: python lightning_peer.py SPEC.json (see race.py).
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pretrained import fill_torchvision
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import models, transforms

NETWORKS = {
    "resnet18": models.resnet18,
    "squeezenet": models.squeezenet1_0,
    "mobilenetv2": models.mobilenet_v2,
}


class Images(Dataset):
    """Opens, resizes and normalizes an image at each access, as ImageFolder does."""

    def __init__(self, files: list, size: int, normalization: list) -> None:
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.ToTensor(),
                transforms.Normalize(*normalization),
            ]
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """One image (3, size, size) and its label."""
        file, label = self.files[row]
        return self.transform(Image.open(file).convert("RGB")), label


class Network(pl.LightningModule):
    """As in Lightning's own examples."""

    def __init__(self, spec: dict) -> None:
        super().__init__()
        self.spec = spec
        self.network = NETWORKS[spec["network"]](num_classes=len(spec["classes"]))
        if spec["weights"]:
            fill_torchvision(self.network.features, spec["weights"])
        self.accuracy = MulticlassAccuracy(len(spec["classes"]), average="micro")

    def training_step(self, batch: tuple, batch_idx: int) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple, batch_idx: int) -> None:
        """Count what is right."""
        self.accuracy.update(self.network(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        """Print one line an epoch, as race.py reads them."""
        value = float(self.accuracy.compute())
        print(f"epoch {self.current_epoch + 1} accuracy {value:.6f}", flush=True)
        self.accuracy.reset()

    def configure_optimizers(self) -> Any:
        """Adam at 1e-3; with the settings of signlang AdamW and one cycle to its peak."""
        if self.spec["settings"] == "own":
            return torch.optim.Adam(self.parameters(), lr=1e-3)
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.spec["rate"])
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.spec["rate"], steps)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


def main() -> None:
    """Train and judge after each epoch."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    pl.seed_everything(spec["seed"], verbose=False)
    train, test = (
        Images(spec[part], spec["size"], spec["normalization"]) for part in ("train", "test")
    )
    trainer = pl.Trainer(
        max_epochs=spec["epochs"], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(
        Network(spec),
        DataLoader(train, spec["batch"], shuffle=True),
        DataLoader(test, spec["batch"]),
    )


if __name__ == "__main__":
    main()
