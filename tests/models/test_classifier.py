"""The LightningModule in Lightning's loops: clipping, label smoothing, losses of an epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader

from signlang.components import import_target
from signlang.data.image_io import resize_image
from signlang.errors import RunError, SettingError
from signlang.models.classifier import Classifier, load_classifier

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


def test_gradients_are_clipped_by_value_if_that_is_asked_for(batches: list[Batch]) -> None:
    classifier = classifier_of(optimizer={"_target_": "torch.optim.SGD", "lr": 1.0})
    before = weights_of(classifier)
    trainer_of(gradient_clip_val=1e-3, gradient_clip_algorithm="value").fit(
        classifier, loader_of(batches[:1])
    )
    steps = (weights_of(classifier) - before).abs()
    assert float(steps.max()) == pytest.approx(1e-3, rel=1e-2)
    assert int((steps > 0.99e-3).sum()) > 10, "many gradients reach the bound, not their norm"


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


def test_probabilities_of_images_are_those_of_the_network_in_evaluation_mode() -> None:
    classifier = classifier_of()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 27, 27, 3), dtype=np.uint8)
    for training in (True, False):
        classifier.train(training)
        probabilities = classifier.predict_images(pixels)
        assert classifier.training == training
        with torch.no_grad():
            expected = classifier.eval()(torch.tensor(pixels)).softmax(1)
        assert torch.equal(probabilities, expected)
    assert classifier.predict_images([]).shape == (0, 3)
    large = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(large)
    once = resize_image(image, 27)
    twice = resize_image(Image.fromarray(resize_image(image, 50)), 27)
    for sizes, resized in (((), once), ((50,), twice)):
        classifier.stored_sizes = sizes
        probabilities = classifier.predict_images(image)
        classifier.stored_sizes = ()
        assert torch.equal(probabilities, classifier.predict_images(resized))


def test_the_first_weights_are_those_of_start_and_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    torch.save(classifier_of().network.state_dict(), tmp_path / "w.pt")
    torch.manual_seed(7)
    other = classifier_of(start={"pretrained": False, "weights": str(tmp_path / "w.pt")})
    assert torch.equal(weights_of(other), weights_of(classifier_of()))
    assert not {"start", "resolve"} & set(other.hparams)
    assert other.hparams["classes"] == ["A", "B", "C"]


def test_the_optimizer_has_what_its_node_says() -> None:
    node = {"_target_": "torch.optim.AdamW", "lr": 0.5, "weight_decay": 0.25, "betas": [0.8, 0.9]}
    classifier = classifier_of(optimizer=node)
    optimizer = classifier.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], list(group["betas"])) == (0.5, 0.25, [0.8, 0.9])
    assert group["fused"]
    assert sum(p.numel() for p in group["params"]) == len(weights_of(classifier))
    with pytest.raises(SettingError, match=r"torch\.nn\.Linear\(.*\) fails"):
        classifier_of(optimizer={"_target_": "torch.nn.Linear"}).configure_optimizers()
    wrong = classifier_of(optimizer={"_target_": "builtins.list"})
    with pytest.raises(SettingError, match=r"builtins\.list returns list, not a torch\.optim"):
        wrong.configure_optimizers()


def test_without_a_norm_gradients_stay_as_they_are() -> None:
    classifier = classifier_of()
    optimizer = classifier.configure_optimizers()
    for clip, norm in ((None, 10.0), (0.0, 10.0), (20.0, 10.0), (2.0, 2.0)):
        for weight in classifier.parameters():
            weight.grad = torch.zeros_like(weight)
        (weight, *_) = (one for one in classifier.parameters() if one.ndim == 1)
        assert weight.grad is not None
        weight.grad[0] = 10.0
        classifier.configure_gradient_clipping(optimizer, clip)
        gradients = [weight.grad for weight in classifier.parameters() if weight.grad is not None]
        found = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        assert found == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda logits, labels: logits.sum(1), r"it returns a tensor of \(2,\)"),
        (lambda logits, labels: torch.zeros(()), r"follows from the logits; .* a tensor of \(\)"),
        (lambda logits, labels: 3, "it returns 3"),
        (lambda logits, labels: 1 / 0, r"\(N, 3\) and labels \(N,\); it fails: ZeroDivisionError"),
    ],
)
def test_a_loss_that_breaks_the_contract_is_told_what_is_wanted(
    loss: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn, "Own", lambda: loss, raising=False)
    with pytest.raises(SettingError, match=words):
        classifier_of(loss={"_target_": "torch.nn.Own"})


def test_a_loss_of_ones_own_trains_and_smooths_or_refuses_to(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn, "Own", lambda: lambda logits, labels: 3 * logits.sum(),
                        raising=False)  # fmt: skip
    with pytest.raises(SettingError, match=r"label_smoothing=0\.1: torch\.nn\.Own takes none"):
        classifier_of(loss={"_target_": "torch.nn.Own"}, label_smoothing=0.1)
    classifier = classifier_of(loss={"_target_": "torch.nn.Own"})
    torch.manual_seed(3)
    loss = classifier.training_step(batches[0], 0)
    torch.manual_seed(3)
    assert loss.item() == pytest.approx(3 * classifier(batches[0][0]).sum().item(), rel=1e-4)


def test_a_checkpoint_that_does_not_fit_says_why(tmp_path: Path) -> None:
    classifier, trainer = classifier_of(), trainer_of()
    trainer.strategy.connect(classifier)
    file = tmp_path / "c.ckpt"
    trainer.save_checkpoint(file)
    loaded = load_classifier(file)
    assert not loaded.training
    assert torch.equal(weights_of(loaded), weights_of(classifier))
    content = torch.load(file, weights_only=True)
    for change, words in (
        ({"state_dict": {"x": torch.zeros(1), **content["state_dict"]}}, r"its network \(x\)"),
        ({"hyper_parameters": {**content["hyper_parameters"], "image_size": 54}}, "does not fit"),
        ({"hyper_parameters": {}}, "does not fit this version"),
        ({"hyper_parameters": 3}, r"cannot be loaded \(TypeError\)"),
    ):
        torch.save({**content, **change}, file)
        with pytest.raises(RunError, match=rf"(?s){words}.*overwrite=true"):
            load_classifier(file)
    # what a loss learnt, and who would be trusted, is of no use here
    more = {"loss.weight": torch.zeros(3), **content["state_dict"]}
    settings = {**content["hyper_parameters"], "start": {"weights": "x"}, "resolve": 3}
    torch.save({**content, "state_dict": more, "hyper_parameters": settings}, file)
    assert torch.equal(weights_of(load_classifier(file)), weights_of(classifier))


class SmallLogits(torch.nn.Module):
    """A network whose logits lie between 0 and 1, as those of a dead SqueezeNet."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.linspace(0.2, 0.8, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1) + 0 * images.mean()


def test_calibration_error_is_of_probabilities_though_logits_look_like_some(
    batches: list[Batch],
) -> None:
    classifier, trainer = classifier_of(), trainer_of()
    classifier.network = SmallLogits(3)
    trainer.validate(classifier, loader_of(batches), verbose=False)
    labels = torch.cat([labels for _, labels in batches])
    confidence = classifier.network.logits.detach().softmax(0).max().item()
    expected = abs(confidence - (labels == 2).float().mean().item())  # one bin holds all images
    assert float(trainer.callback_metrics["validation/calibration_error"]) == pytest.approx(
        expected, abs=1e-6
    )


class Recorded(torch.nn.Module):
    """A loss that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[torch.Tensor] = []

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.targets.append(targets)
        return F.cross_entropy(logits, targets)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_images_are_mixed_as_their_targets_are(mixup: float, cutmix: float) -> None:
    model, loss = classifier_of(), Recorded()
    model.loss = loss
    model.mix_images(mixup, cutmix)
    loss.targets.clear()
    labels = torch.arange(3).repeat(
        5
    )  # an odd number of images; one of class k has k full channels
    images = torch.zeros(15, 27, 27, 3, dtype=torch.uint8)
    for label in (1, 2):
        images[labels == label, :, :, :label] = 255
    shown: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, given: shown.append(given[0].clone()))
    torch.manual_seed(0)
    for _ in range(8):
        model.training_step((images, labels), 0)
    for batch, targets in zip(shown, loss.targets, strict=True):
        assert torch.allclose(targets.sum(dim=1), torch.ones(15), atol=1e-5)
        full = batch.mean(dim=(1, 2)) / 255
        assert torch.allclose(full[:, 0], targets[:, 1:].sum(dim=1), atol=1e-4)
        assert torch.allclose(full[:, 1], targets[:, 2], atol=1e-4)
    blended = [
        len(set(batch.flatten().tolist())) > 2 for batch in shown
    ]  # cutmix pastes pixels as they are
    assert any(blended) == (mixup > 0)
    assert all(blended) == (cutmix == 0)
    model.validation_step((images, labels), 0)
    assert torch.equal(shown[-1], images), "validation sees them as they are"


class TwoHeads(torch.nn.Module):
    """A network that has two heads in training, the second of a rate of its own."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(27, num_classes) for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.stack([head(images.mean(dim=(1, 2))) for head in self.heads], dim=1)
        return logits if self.training else logits.mean(dim=1)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        first, second = (list(head.parameters()) for head in self.heads)
        return [{"params": first}, {"params": second, "lr": 10 * learning_rate}]


def test_each_head_of_training_has_the_loss_of_its_own(batches: list[Batch]) -> None:
    model = classifier_of(network={"_target_": f"{__name__}.TwoHeads"},
                          optimizer={"_target_": "torch.optim.SGD", "lr": 0.5})  # fmt: skip
    images, labels = batches[0]
    loss = model.training_step((images, labels), 0)
    alone = [F.cross_entropy(one, labels) for one in model(images).unbind(1)]
    assert loss.item() == pytest.approx(sum(one.item() for one in alone) / 2, abs=1e-5)
    assert 0 <= model.recent_metrics()[1] <= 1
    assert [group["lr"] for group in model.configure_optimizers().param_groups] == [0.5, 5.0]
    model.eval()
    assert model.validation_step((images, labels), 0)["logits"].shape == (8, 3)


def test_a_loss_that_takes_no_shares_of_classes_is_told_before_training() -> None:
    model = classifier_of(loss={"_target_": "torch.nn.MultiMarginLoss"})
    with pytest.raises(SettingError, match=r"MultiMarginLoss must take labels \(N, 3\).*it fails"):
        model.mix_images(0.2, 0.0)
