"""Fine-tuning: pretrained layers stay frozen at first, then learn more slowly than the head."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BackboneFinetuning
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from signlang.console import REMARK, log
from signlang.errors import SettingError
from signlang.models.classifier import Classifier
from signlang.models.networks import backbone_modules


class Finetuning(BackboneFinetuning):
    """Lightning's `BackboneFinetuning` for a `Classifier` with any network, schedule and optimizer.

    Lightning adds the thawed parameters to the optimizer as a group that no schedule knows of. Here
    they are a group from the start, without gradients while they are frozen: the schedule spans it,
    and a resumed run finds the groups of its checkpoint.

    Args:
        unfreeze_backbone_at_epoch: First epoch, from 0, in which all layers learn.
        backbone_initial_ratio_lr: Learning rate of the thawed layers, divided by that of the head.
        train_bn: Batch normalization learns from the start, at the rate of the head.
    """

    def __init__(
        self,
        unfreeze_backbone_at_epoch: int = 3,
        backbone_initial_ratio_lr: float = 0.1,
        train_bn: bool = True,
    ) -> None:
        if unfreeze_backbone_at_epoch < 1:
            raise SettingError(
                f"callbacks.finetuning.unfreeze_backbone_at_epoch={unfreeze_backbone_at_epoch}: it "
                "must be at least 1; callbacks=default freezes nothing."
            )
        if not backbone_initial_ratio_lr > 0:
            raise SettingError(
                f"callbacks.finetuning.backbone_initial_ratio_lr={backbone_initial_ratio_lr} must "
                "be above 0."
            )
        super().__init__(
            unfreeze_backbone_at_epoch=unfreeze_backbone_at_epoch,
            backbone_initial_ratio_lr=backbone_initial_ratio_lr,
            train_bn=train_bn,
        )
        self.frozen = False

    def state_dict(self) -> dict[str, Any]:
        """Whether layers are frozen; a checkpoint without it is of a run that froze none."""
        return {"frozen": self.frozen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore nothing: groups and epoch are enough."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze the pretrained layers, before there is an optimizer.

        Raises:
            SettingError: If its network has no head to train.
        """
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def freeze_before_training(self, pl_module: pl.LightningModule) -> None:
        """Freeze all layers but the head, if they come with pretrained weights."""
        assert isinstance(pl_module, Classifier)  # the contract of model._target_
        if not pl_module.is_pretrained:
            text = "callbacks.finetuning: nothing is frozen, as the network starts from scratch."
            log.warning(text, extra=REMARK)
            return
        self.frozen = True
        for layer in backbone_modules(pl_module.network, len(pl_module.classes)):
            if not (self.train_bn and isinstance(layer, _BatchNorm)):
                self.freeze_module(layer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the frozen parameters a group of their own in each optimizer.

        Raises:
            SettingError: If no optimizer has them.
        """
        if not self.frozen:
            return
        frozen = {id(weight) for weight in pl_module.parameters() if not weight.requires_grad}
        for optimizer in trainer.optimizers:
            for group in list(optimizer.param_groups):
                moved = [weight for weight in group["params"] if id(weight) in frozen]
                group["params"] = [weight for weight in group["params"] if id(weight) not in frozen]
                if moved:
                    rate = group["lr"] * self.backbone_initial_ratio_lr
                    optimizer.add_param_group({**group, "params": moved, "lr": rate})
                    frozen -= {*map(id, moved)}
        if frozen:
            raise SettingError(
                f"callbacks.finetuning: configure_optimizers of {type(pl_module).__name__} leaves "
                "frozen parameters out; hand all of them to the optimizer."
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Thaw in the epoch that is set, or after it in a resumed run."""
        if self.frozen and trainer.current_epoch >= self.unfreeze_backbone_at_epoch:
            self.finetune_function(pl_module, trainer.current_epoch, trainer.optimizers[0])

    def finetune_function(
        self, pl_module: pl.LightningModule, epoch: int, optimizer: Optimizer
    ) -> None:
        """Let all layers learn."""
        assert isinstance(pl_module, Classifier)
        for layer in backbone_modules(pl_module.network, len(pl_module.classes)):
            if isinstance(layer, _BatchNorm):
                layer.track_running_stats = True
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad = True
        self.frozen = False
        log.info("callbacks.finetuning: all layers learn from epoch %d on", epoch + 1)
