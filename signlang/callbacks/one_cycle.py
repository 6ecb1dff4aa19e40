"""One-cycle schedule of learning rate and momentum as a callback over torch's `OneCycleLR`."""

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from signlang.errors import SettingError


class OneCycle(pl.Callback):
    """Adds a `OneCycleLR` with cosine annealing to every optimizer (arXiv 1708.07120).

    Lightning steps it after each optimizer step, and saves and restores its state. It spans the
    planned epochs; early stopping ends it early.

    Args:
        warm_up: Share of the steps in which the learning rate rises.
        start_divisor: The highest learning rate, `optimizer.lr`, divided by the first.
        end_divisor: The first learning rate divided by the last.
        momentum: Lowest (at the highest learning rate) and highest momentum, or first beta; None
            keeps it constant.
    """

    def __init__(
        self,
        warm_up: float = 0.3,
        start_divisor: float = 25.0,
        end_divisor: float = 1e4,
        momentum: tuple[float, float] | None = (0.85, 0.95),
    ) -> None:
        if not 0 < warm_up < 1:
            raise SettingError(f"callbacks.one_cycle.warm_up={warm_up} must lie between 0 and 1.")
        self.warm_up = warm_up
        self.start_divisor, self.end_divisor = start_divisor, end_divisor
        self.momentum = momentum
        self.restored: set[int] | None = None  # steps of the schedules of a checkpoint

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take note of the schedules that are about to be restored."""
        states = checkpoint.get("lr_schedulers", [])
        self.restored = {state["total_steps"] for state in states if "total_steps" in state}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the schedulers: the optimizers exist, and no checkpoint is restored yet.

        Raises:
            SettingError: If the number of steps is not known, or not that of the checkpoint.
        """
        planned = trainer.estimated_stepping_batches
        if not math.isfinite(planned):
            raise SettingError(
                "OneCycle needs the number of steps: give trainer.max_epochs or trainer.max_steps."
            )
        steps = int(planned)
        if self.restored is not None and self.restored != {steps}:
            there = next(iter(self.restored), "none")
            raise SettingError(
                f"ckpt_path: the one-cycle schedule of this run has {steps} steps, its checkpoint "
                f"{there}. Plan as many, or start a new cycle from its weights with "
                "model.weights=FILE instead of ckpt_path=FILE."
            )
        trainer.strategy.lr_scheduler_configs += [
            LRSchedulerConfig(self.scheduler(optimizer, steps), interval="step")
            for optimizer in trainer.optimizers
        ]

    def scheduler(self, optimizer: Optimizer, steps: int) -> OneCycleLR:
        """Build the scheduler of one optimizer.

        Args:
            optimizer: Its learning rates become the highest ones.
            steps: Optimizer steps of the whole run.
        """
        low, high = self.momentum or (0.85, 0.95)
        known = optimizer.defaults
        cycled = self.momentum is not None and ("betas" in known or bool(known.get("momentum")))
        share = self.warm_up
        if share * steps == 1:  # torch divides by share * steps - 1
            share = math.nextafter(share, 0)
        return OneCycleLR(
            optimizer, max_lr=[float(group["lr"]) for group in optimizer.param_groups],
            total_steps=steps, pct_start=share, div_factor=self.start_divisor,
            final_div_factor=self.end_divisor, cycle_momentum=cycled, base_momentum=low,
            max_momentum=high,
        )  # fmt: skip
