"""The published variant: a loop over epochs and batches, as the studies' authors wrote it."""

from pathlib import Path
from typing import Any

import numpy as np
import plain
import torch
from cases import Case
from clock import Clock
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import nn
from torch.utils.data import DataLoader

WORKERS = 2
PATIENCE = 10
Loader = DataLoader[tuple[torch.Tensor, int]]


def race(case: Case, root: Path, clock: Clock) -> None:
    """Train on all images until the measurement is complete."""
    paths, labels = plain.files(root)
    training = _Training(case)
    loader = _loader(paths, labels.tolist(), case, train=True)
    while not training.epoch(loader, clock):
        pass


def fold(case: Case, root: Path, number: int, epochs: int, stopping: bool) -> float:
    """Train on one of five folds, with a tenth of the rest for validation.

    Returns:
        Accuracy on the test fold of the epoch with the best validation accuracy.
    """
    torch.manual_seed(0)
    paths, labels = plain.files(root)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels))
    rest, test = folds[number]
    train, validation = train_test_split(rest, test_size=0.1, stratify=labels[rest], random_state=0)
    training = _Training(case)

    def loader(rows: Any, augmented: bool) -> Loader:
        return _loader([paths[row] for row in rows], labels[rows].tolist(), case, augmented)

    loaders = loader(train, True), loader(validation, False)
    best, weights, epochs_without_gain = -1.0, training.network.state_dict(), 0
    for _ in range(epochs):
        training.epoch(loaders[0])
        accuracy = training.accuracy(loaders[1])
        epochs_without_gain += 1
        if accuracy > best:
            best, epochs_without_gain = accuracy, 0
            weights = {k: v.clone() for k, v in training.network.state_dict().items()}
        if stopping and epochs_without_gain >= PATIENCE:
            break
    training.network.load_state_dict(weights)
    return training.accuracy(loader(test, False))


def _loader(paths: list[Path], labels: list[int], case: Case, train: bool) -> Loader:
    images = plain.Images(paths, labels, case, train)
    return DataLoader(images, case.batch, shuffle=train, num_workers=WORKERS)


class _Training:
    def __init__(self, case: Case) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = plain.network(case).to(self.device)
        kinds: dict[str, type[torch.optim.Optimizer]]
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        options: dict[str, Any] = {"lr": case.rate}
        self.optimizer = kinds[case.optimizer](self.network.parameters(), **options)
        self.criterion = nn.CrossEntropyLoss()

    def epoch(self, loader: Loader, clock: Clock | None = None) -> bool:
        """One epoch; True if the measurement is complete."""
        self.network.train()
        total, right, seen = 0.0, 0, 0
        for images, labels in loader:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            logits = self.network(images)
            loss = self.criterion(logits, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(labels)
            right += (logits.argmax(1) == labels).sum().item()
            seen += len(labels)
            if clock and clock.tick(len(labels)):
                return True
        return False

    def accuracy(self, loader: Loader) -> float:
        """Share of images that are predicted correctly."""
        self.network.eval()
        correct = []
        with torch.no_grad():
            for images, labels in loader:
                logits = self.network(images.to(self.device)).cpu()
                correct.append((logits.argmax(1) == labels).numpy())
        return float(np.concatenate(correct).mean())
