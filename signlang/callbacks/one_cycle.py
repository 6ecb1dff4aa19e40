"""Learning rate: one-cycle schedule over torch's `OneCycleLR`, and the test that finds a rate."""

import io
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from signlang.errors import SettingError
from signlang.files import atomic_write, write_csv
from signlang.reporting import plots
from signlang.system import check_stop


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
            restored_steps = next(iter(self.restored), "none")
            raise SettingError(
                f"ckpt_path: the one-cycle schedule of this run has {steps} steps, its checkpoint "
                f"{restored_steps}. Plan as many, or start a new cycle from its weights with "
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
        defaults = optimizer.defaults
        cycles_momentum = self.momentum is not None and (
            "betas" in defaults or bool(defaults.get("momentum"))
        )
        warm_up = self.warm_up
        if warm_up * steps == 1:  # torch divides by warm_up * steps - 1
            warm_up = math.nextafter(warm_up, 0)
        return OneCycleLR(
            optimizer, max_lr=[float(group["lr"]) for group in optimizer.param_groups],
            total_steps=steps, pct_start=warm_up, div_factor=self.start_divisor,
            final_div_factor=self.end_divisor, cycle_momentum=cycles_momentum, base_momentum=low,
            max_momentum=high,
        )  # fmt: skip


LOWEST: Final = 1e-7  # learning rate of the first step of a range test
HIGHEST: Final = 1.0
STEPS: Final = 100
SKIPPED: Final = 10  # the first steps
FALLEN: Final = 0.97  # of its loss, at most, is left where a network learns
SMOOTHED: Final = 0.98  # share of the losses before in the mean that Lightning shows


def steepest_fall(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Find the rate at which the loss falls most steeply by decade; None if it hardly falls.

    Lightning's own suggestion divides by the distance of two rates, so that noise at the lowest
    rates decides, and takes a fall after a jump for one. Here the first steps are left out, whose
    smoothed loss is of a few batches, and those after the lowest loss.

    >>> rates = [10 ** (n / 10 - 5) for n in range(40)]
    >>> falling = [2.0] * 20 + [1.9, 1.7, 1.3, 1.2, 1.1] + [9.0 - n for n in range(5)] + [4.0] * 10
    >>> f"{steepest_fall(rates, falling):.2g}", steepest_fall(rates, rates)
    ('0.0013', None)
    """
    if len(rates) < SKIPPED + 3:
        return None
    lowest = SKIPPED + int(np.nanargmin(losses[SKIPPED:]))
    if not losses[lowest] < FALLEN * losses[SKIPPED]:
        return None
    slopes = np.gradient(np.array(losses), np.log10(rates))[SKIPPED:lowest]
    return rates[SKIPPED + int(np.nanargmin(slopes))]


@dataclass(frozen=True)
class RangeTest:
    """A training in which the learning rate rises from step to step (Smith 2015, arXiv 1506.01186).

    Attributes:
        rates: Learning rate of each step, evenly spaced on a logarithmic scale.
        losses: Loss of each step, smoothed; it ends where the loss is four times its lowest.
    """

    rates: list[float]
    losses: list[float]

    @cached_property
    def suggestion(self) -> float | None:
        """Rate at which the loss falls most steeply by decade, see `steepest_fall`."""
        return steepest_fall(self.rates, self.losses)

    def figure(self) -> Figure:
        """Draw the loss over the rate, with the suggestion."""
        figure, panel = plots.new_axes(3.4)
        panel.plot(self.rates, self.losses, color=plots.BLUE, linewidth=1.6)
        panel.set_ylim(top=min(max(self.losses), 1.3 * self.losses[0]))  # it may explode
        panel.set(xscale="log", xlabel="learning rate", ylabel="loss, smoothed")
        if self.suggestion is not None:
            panel.axvline(self.suggestion, color=plots.COLOURS[1], linewidth=1.2)
            panel.set_title(f"suggested: {self.suggestion:.2g}", loc="left")
        return figure

    def write(self, folder: Path) -> list[Path]:
        """Write `lr_find.csv` and `lr_find.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        table, chart = folder / "lr_find.csv", folder / "lr_find.png"
        rows = zip(self.rates, self.losses, strict=True)
        write_csv(table, ["learning_rate", "loss"], [[f"{r:.6g}", f"{v:.6g}"] for r, v in rows])
        with atomic_write(chart) as temporary:
            temporary.write_bytes(plots.png_bytes(self.figure()))
        return [table, chart]


def range_test(
    trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule
) -> RangeTest:
    """Run Lightning's `lr_find`; the module is left as it was, and nothing else is trained."""
    hook = module.register_forward_pre_hook(lambda *_: check_stop())  # it switches callbacks off
    screen = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    try:
        with screen:  # its progress bar
            finder = Tuner(trainer).lr_find(
                module, datamodule=data, min_lr=LOWEST, max_lr=HIGHEST, num_training=STEPS,
                update_attr=False,
            )  # fmt: skip
    finally:
        hook.remove()
    assert finder is not None  # it is with fast_dev_run only
    # it divides a mean of n losses by 1 - 0.98 ** (n + 1): the first one is half of what it was
    losses = [
        loss * (1 - SMOOTHED ** (number + 2)) / (1 - SMOOTHED ** (number + 1))
        for number, loss in enumerate(finder.results["loss"])
    ]
    return RangeTest(finder.results["lr"][: len(losses)], losses)  # the last step may lack its loss
