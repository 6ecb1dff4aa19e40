"""The usual variant: Lightning with torchvision's ImageFolder and torchmetrics' defaults."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import plain
import pytorch_lightning as pl
import torch
from cases import Case
from clock import Clock
from sklearn.model_selection import StratifiedKFold
from ticks import Enough, Ticks
from torch.utils.data import DataLoader, Subset
from torchmetrics import Accuracy
from torchvision import transforms
from torchvision.datasets import ImageFolder

Batch = tuple[torch.Tensor, torch.Tensor]


class Module(pl.LightningModule):
    """A network, cross-entropy and accuracy."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.network = case, plain.network(case)
        self.criterion = torch.nn.CrossEntropyLoss()
        self.metrics = torch.nn.ModuleDict({
            f"{subset}_accuracy": Accuracy(task="multiclass", num_classes=case.classes)
            for subset in ("training", "test")
        })  # fmt: skip

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        """Log loss and accuracy of the epoch, and return the loss."""
        return self._step(batch, "training")

    def test_step(self, batch: Batch, number: int) -> torch.Tensor:
        """Log loss and accuracy of the test fold."""
        return self._step(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer of the study."""
        kind = torch.optim.AdamW if self.case.optimizer == "adamw" else torch.optim.Adam
        return kind(self.parameters(), lr=self.case.rate)

    def _step(self, batch: Batch, subset: str) -> torch.Tensor:
        images, labels = batch
        logits = self.network(images)
        loss: torch.Tensor = self.criterion(logits, labels)
        accuracy: Any = self.metrics[f"{subset}_accuracy"]
        accuracy(logits, labels)
        self.log(f"{subset}/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log(f"{subset}/accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss


def race(case: Case, root: Path, clock: Clock) -> None:
    """Train on all images until the measurement is complete."""
    with TemporaryDirectory() as place:
        trainer = pl.Trainer(max_epochs=-1, default_root_dir=place, callbacks=[Ticks(clock)])
        with suppress(Enough):
            trainer.fit(
                Module(case), _loader(ImageFolder(root, _transform(case, True)), case, True)
            )


def fold(case: Case, root: Path, number: int, epochs: int) -> float:
    """Train on one of five folds and return the accuracy on it."""
    pl.seed_everything(0)
    train, test = ImageFolder(root, _transform(case, True)), ImageFolder(root, _transform(case))
    folds = list(
        StratifiedKFold(5, shuffle=True, random_state=0).split(train.targets, train.targets)
    )
    rows, rest = folds[number]
    with TemporaryDirectory() as place:
        trainer = pl.Trainer(max_epochs=epochs, default_root_dir=place)
        module = Module(case)
        trainer.fit(module, _loader(Subset(train, rows.tolist()), case, True))
        results = trainer.test(module, _loader(Subset(test, rest.tolist()), case, False))
    return float(results[0]["test/accuracy"])


def _loader(images: Any, case: Case, train: bool) -> DataLoader[Batch]:
    return DataLoader(images, batch_size=case.batch, shuffle=train)


def _transform(case: Case, train: bool = False) -> transforms.Compose:
    steps: list[Any] = [transforms.Resize((case.size, case.size))]
    if train and case.data == "digits":
        steps += [transforms.RandomAffine(20, translate=(0.1, 0.1), scale=(0.9, 1.1))]
    elif train:
        steps += [
            transforms.RandomRotation(10),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.2, 0.2, 0.2, 0.05),
            transforms.RandomApply([transforms.GaussianBlur((3, 7))]),
        ]
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    if train and case.data != "digits":
        steps += [transforms.RandomErasing()]
    return transforms.Compose(steps)
