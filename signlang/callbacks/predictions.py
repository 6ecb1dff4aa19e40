"""Logits of evaluation batches come in, probabilities of whole parts and a CSV file go out."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch

from signlang.data.files import write_csv
from signlang.data.index import Index

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Predictions(pl.Callback):
    """Collects what the network says of the validation part and the test fold.

    It works for `Trainer.validate` and `Trainer.test`; validation during training is not kept.
    """

    def __init__(self) -> None:
        self._batches: dict[str, list[dict[str, torch.Tensor]]] = {}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch of the validation part."""
        if trainer.state.fn == "validate":
            self._keep("validation", outputs, batch_idx)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch of the test fold."""
        self._keep("test", outputs, batch_idx)

    def probabilities(self, part: str) -> Floats:
        """(n, classes) softmax of the logits, in the order of the part's rows."""
        logits = torch.cat([batch["logits"] for batch in self._batches[part]])
        return logits.double().softmax(1).numpy()

    def labels(self, part: str) -> Ints:
        """(n,) true labels, in the order of the part's rows."""
        return torch.cat([batch["labels"] for batch in self._batches[part]]).numpy()

    def _keep(self, part: str, outputs: dict[str, torch.Tensor], batch_idx: int) -> None:
        if batch_idx == 0:
            self._batches[part] = []
        self._batches[part].append({name: value.cpu() for name, value in outputs.items()})


def per_class_accuracy(labels: Ints, predicted: Ints, classes: tuple[str, ...]) -> dict[str, float]:
    """Share of the pictures of each class that was recognised; classes without pictures left out.

    >>> per_class_accuracy(np.array([0, 0, 1]), np.array([0, 1, 1]), ("A", "B"))
    {'A': 0.5, 'B': 1.0}
    """
    return {
        name: round(float((predicted[labels == label] == label).mean()), 6)
        for label, name in enumerate(classes)
        if (labels == label).any()
    }


def write_predictions(file: Path, index: Index, rows: Ints, probabilities: Floats) -> None:
    """Write path,label,predicted,confidence,p_<class>... with one line per picture.

    Args:
        file: The CSV file.
        index: All pictures.
        rows: (n,) which of them were judged.
        probabilities: (n, classes) how.
    """
    predicted = probabilities.argmax(1)
    lines = (
        (
            index.paths[row],
            index.classes[index.labels[row]],
            index.classes[best],
            f"{p[best]:.6f}",
            *(f"{value:.6f}" for value in p),
        )
        for row, best, p in zip(rows, predicted, probabilities, strict=True)
    )
    header = ("path", "label", "predicted", "confidence", *(f"p_{name}" for name in index.classes))
    write_csv(file, header, lines)
