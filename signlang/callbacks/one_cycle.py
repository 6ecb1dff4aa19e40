"""One-cycle schedule of learning rate and momentum as a callback."""

import math
from typing import Any

import pytorch_lightning as pl

from signlang.errors import SettingError


def one_cycle(
    step: int,
    total: int,
    *,
    peak: float,
    warm_up: float = 0.3,
    start_divisor: float = 25.0,
    end_divisor: float = 1e4,
) -> float:
    """Value of the one-cycle schedule with cosine flanks (Smith and Topin 2018, arXiv 1708.07120).

    Equal to torch's OneCycleLR with its defaults.

    Args:
        step: From 0 to `total` - 1; later steps keep the last value.
        total: Steps of the whole run.
        peak: The highest value.
        warm_up: Share of the steps in which it rises.
        start_divisor: The peak divided by the first value.
        end_divisor: The first value divided by the last.

    >>> [round(one_cycle(s, 10, peak=1.0), 4) for s in (0, 2, 9)]
    [0.04, 1.0, 0.0]
    """
    turn, last = warm_up * total - 1, total - 1
    first = peak / start_divisor
    if step <= turn:
        return _cosine(first, peak, step / turn if turn > 0 else 1.0)
    return _cosine(peak, first / end_divisor, min(1.0, (step - turn) / (last - turn)))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


class OneCycle(pl.Callback):
    """Sets the learning rate before every step, and momentum (or Adam's first beta) against it.

    It keeps no state: the value follows from the optimizer step that Lightning counts and restores,
    so it is right after a resume and with accumulated gradients. The length is that of the planned
    run; early stopping cuts the schedule off, it does not squeeze it.

    Args:
        warm_up: See `one_cycle`.
        start_divisor: See `one_cycle`.
        end_divisor: See `one_cycle`.
        momentum: Lowest (at the highest learning rate) and highest momentum; None leaves it alone.
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
        self.shape = {
            "warm_up": warm_up, "start_divisor": start_divisor, "end_divisor": end_divisor
        }  # fmt: skip
        self.momentum = momentum
        self.total = 0
        self.peaks: list[list[float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the length from the run and the peaks from the configured learning rates."""
        self.total = int(trainer.estimated_stepping_batches)
        # a resumed optimizer brings back the rate of its last step, so the peak is the default's
        self.peaks = [
            [float(optimizer.defaults["lr"])] * len(optimizer.param_groups)
            for optimizer in trainer.optimizers
        ]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the values of the step that comes."""
        step = trainer.global_step
        for optimizer, peaks in zip(trainer.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = one_cycle(step, self.total, peak=peak, **self.shape)
                self._set_momentum(group, step)

    def _set_momentum(self, group: dict[str, Any], step: int) -> None:
        if self.momentum is None:
            return
        low, high = self.momentum
        height = one_cycle(
            step, self.total, peak=1.0, warm_up=self.shape["warm_up"],
            start_divisor=math.inf, end_divisor=1.0,
        )  # fmt: skip
        value = high + (low - high) * height
        if "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        elif group.get("momentum"):
            group["momentum"] = value
