"""The LightningModule in Lightning's loops: clipping, label smoothing, losses of an epoch."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from signlang.components import import_target
from signlang.models.classifier import Classifier

Batch = tuple[torch.Tensor, torch.Tensor]
BATCHES = (8, 8, 3)  # images; the last batch of an epoch is shorter


def classifier_of(**more: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(
        **{
            "network": {"_target_": "signlang.models.networks.simple_cnn"}, "image_size": 27,
            "classes": ["A", "B", "C"], "mean": [0.5] * 3, "std": [0.25] * 3,
            "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.0},
            "resolve": import_target, **more,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    """Batches of unequal size; the images of the last one are of another kind."""
    random = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256 if count == 8 else 20, (count, 27, 27, 3), generator=random)
            .to(torch.uint8),
            torch.randint(0, 3, (count,), generator=random),
        )
        for count in BATCHES
    ]  # fmt: skip


def loader_of(batches: list[Batch]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def trainer_of(**more: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **more,
    )  # fmt: skip


def weights_of(classifier: Classifier) -> torch.Tensor:
    return torch.cat([weight.detach().clone().flatten() for weight in classifier.parameters()])


def step_length(batches: list[Batch], clip: float | None) -> float:
    """Norm of one step of gradient descent with a learning rate of 1."""
    classifier = classifier_of(optimizer={"_target_": "torch.optim.SGD", "lr": 1.0})
    before = weights_of(classifier)
    trainer_of(gradient_clip_val=clip).fit(classifier, loader_of(batches[:1]))
    after = weights_of(classifier)
    return float((after - before).norm())


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(batches: list[Batch]) -> None:
    assert step_length(batches, 0.125) == pytest.approx(0.125, rel=1e-3)
    free = step_length(batches, None)
    assert free > 0.5
    assert step_length(batches, 2 * free) == pytest.approx(free, rel=1e-3)


def test_labels_are_smoothed_in_training(batches: list[Batch]) -> None:
    classifier = classifier_of(label_smoothing=0.2)
    torch.manual_seed(3)  # of the dropout
    loss = classifier.training_step(batches[0], 0)
    torch.manual_seed(3)
    logits, labels = classifier(batches[0][0]), batches[0][1]
    assert loss.item() == pytest.approx(
        F.cross_entropy(logits, labels, label_smoothing=0.2).item(), rel=1e-5
    )
    assert loss.item() != pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-3)


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_losses_of_validation_and_test_are_means_over_images_without_smoothing(
    batches: list[Batch], stage: str
) -> None:
    classifier, trainer = classifier_of(label_smoothing=0.2), trainer_of()
    (trainer.validate if stage == "validation" else trainer.test)(
        classifier, loader_of(batches), verbose=False
    )
    classifier.eval()
    with torch.no_grad():
        logits = torch.cat([classifier(images) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    loss = float(trainer.callback_metrics[f"{stage}/loss"])
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    assert float(trainer.callback_metrics[f"{stage}/accuracy"]) == pytest.approx(accuracy)


class Losses(pl.Callback):
    """Keeps the loss of each training batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int,
    ) -> None:  # fmt: skip
        self.values.append(float(outputs["loss"]))


def test_the_training_loss_of_an_epoch_weighs_batches_by_their_size(batches: list[Batch]) -> None:
    losses = Losses()
    trainer = trainer_of(callbacks=[losses])
    trainer.fit(classifier_of(), loader_of(batches))
    weighted = sum(n * loss for n, loss in zip(BATCHES, losses.values, strict=True)) / sum(BATCHES)
    assert weighted != pytest.approx(sum(losses.values) / len(BATCHES), rel=1e-3)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(weighted, rel=1e-5)
