"""Progress of a run: bar, epoch log lines, `history.csv`, TensorBoard, table of a profiler."""

import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.profilers import PassThroughProfiler, SimpleProfiler
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from signlang.console import BETWEEN_LINES, clock, log, progress, show_columns, show_lines, verbose
from signlang.files import write_csv
from signlang.reporting import tensorboard

ROWS: Final = "history"  # in a checkpoint
RATE: Final = "learning_rate"
SPEED: Final = "images_per_second"


class _TrainingProgress(Progress):
    """A bar with a second line, for what has no place beside it in 80 columns."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and the line below it."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.note, no_wrap=True, overflow="ellipsis")


class ProgressBar(pl.Callback):
    """Epoch, batch, time left for the epoch and the run; loss, accuracy and learning rate.

    Loss and accuracy are of the last batches. On a terminal it is a bar; in a log, where a bar
    would be noise, a line every 30 seconds in which nothing else was logged.
    """

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.last_drawing = self.last_line = 0.0
        self.epoch_started = self.run_started = 0.0
        self.first = self.done = 0
        self.validated = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at the epoch where a resumed run continues."""
        self.run_started = self.last_line = time.monotonic()
        self.first = self.done = int(trainer.num_training_batches) * trainer.current_epoch
        self.bar = progress(_TrainingProgress, BarColumn(20), TextColumn("{task.fields[left]}"))
        self.task = self.bar.add_task(
            _position(trainer, trainer.current_epoch, 0),
            total=trainer.num_training_batches,
            left="",
        )
        self.bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the epoch, whose first batch is drawn."""
        self.epoch_started, self.last_drawing = time.monotonic(), 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Advance by one batch; twice a second at most is anything looked up or drawn."""
        self.done += 1
        now = time.monotonic()
        if self.bar is None or self.task is None or now - self.last_drawing < BETWEEN_DRAWINGS:
            return
        if self.bar.disable and (now - self.last_line < BETWEEN_LINES or not verbose()):
            return
        self.last_drawing = now
        position = _position(trainer, trainer.current_epoch, batch_idx + 1)
        remaining = self._remaining_text(trainer, batch_idx + 1, now)
        metrics = self._metrics_text(pl_module)
        if self.bar.disable:
            self.last_line = now
            log.info("%s, %s  %s", position, remaining, metrics)
            return
        self.bar.note = f"{metrics}{self.validated}"  # type: ignore[attr-defined]
        done = batch_idx + 1
        self.bar.update(
            self.task, completed=done, description=position, left=remaining, refresh=True
        )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that no batch is trained on at present."""
        if self.bar is not None and self.task is not None:
            batches = int(trainer.num_training_batches)
            position = _position(trainer, trainer.current_epoch, batches)
            self.bar.update(self.task, completed=batches, description=position, left="validating")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last accuracy of the validation subset in sight."""
        accuracy = trainer.callback_metrics.get("validation/accuracy")
        if accuracy is not None:
            self.validated = f"  validation accuracy {float(accuracy):.4f}"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line about the epoch is written now, by the history."""
        self.last_line = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar before a message is written."""
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _remaining_text(self, trainer: pl.Trainer, batches: int, now: float) -> str:
        """Time that is left for the epoch, and for the run if its end is known."""
        seconds = (now - self.epoch_started) / batches
        remaining = f"{clock(seconds * (trainer.num_training_batches - batches))} left"
        steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        if not math.isfinite(steps) or self.done == self.first:
            return remaining
        # with the validations so far
        run_seconds = (now - self.run_started) / (self.done - self.first) * (steps - self.done)
        return f"{remaining}, run {clock(max(0.0, run_seconds))} left"

    def _metrics_text(self, module: pl.LightningModule) -> str:
        loss, accuracy = module.recent_metrics()  # type: ignore[operator]
        rate = module.learning_rate
        return f"loss {loss:.4f}  accuracy {accuracy:.4f}  learning rate {rate:.2g}"


BETWEEN_DRAWINGS: Final = 0.5  # seconds; reading a loss waits for the GPU


def _position(trainer: pl.Trainer, epoch: int, batch: int) -> str:
    batches = int(trainer.num_training_batches)
    return f"epoch {_of_epochs(trainer, epoch + 1)}  batch {batch}/{batches}"


def _of_epochs(trainer: pl.Trainer, epoch: int) -> str:
    """Number of an epoch, and how many are planned, if that is known."""
    planned = trainer.max_epochs
    return f"{min(epoch, planned)}/{planned}" if planned and planned > 0 else str(epoch)


class History(Checkpoint):
    """Writes one row per epoch to `history.csv`: metrics, learning rate, seconds and speed.

    It is a Lightning `Checkpoint` because those are called after the module has logged its epoch.
    The rows are stored in each checkpoint, so that a resumed run restores exactly the rows of its
    own epochs, whatever the file holds.

    Args:
        file: The CSV file; None keeps the rows only, and logs nothing.
    """

    def __init__(self, file: str | None) -> None:
        self.file = Path(file) if file else None
        self.rows: list[dict[str, str]] = []
        self.started = self.training_seconds = self.validating = 0.0
        self.images, self.validated = 0, -1

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the rows in the checkpoint, including that of the epoch which ends with it."""
        recorded = bool(self.rows) and self.rows[-1]["epoch"] == str(trainer.current_epoch)
        ends_epoch = trainer.is_last_batch and not recorded
        checkpoint[ROWS] = [*self.rows, self._row(trainer)] if ends_epoch else self.rows

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the rows of the finished epochs, if the checkpoint has any."""
        self.rows = list(checkpoint.get(ROWS, []))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue the curves of TensorBoard at the epoch where a resumed run continues."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.restart(trainer.current_epoch)
                last = trainer.current_epoch - 1
                if self.rows and RATE in self.rows[-1] and not logger.has_epoch(last):
                    logger.log_metrics(self._logged_metrics(self.rows[-1]), last)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of the epoch."""
        if batch_idx == 0:
            self.started, self.images, self.validating = time.perf_counter(), 0, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Stop the clock of training; only its value at the last batch is used."""
        self.images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch and torch.cuda.is_available():
            torch.cuda.synchronize()  # once an epoch: the batches were only queued so far
        self.training_seconds = time.perf_counter() - self.started - self.validating

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of a validation, which may lie between two batches."""
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it, and take note of the epoch."""
        if not trainer.sanity_checking:
            self.validated = trainer.current_epoch
        self.validating += time.perf_counter() - self._validation_started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rewrite all rows atomically."""
        row = self._row(trainer)
        self.rows.append(row)
        self._write(trainer)
        if self.file is None:
            return
        pl_module.log(SPEED, float(row[SPEED]), sync_dist=True)
        log.info(
            "epoch %s  %s",
            _of_epochs(trainer, trainer.current_epoch + 1),
            "  ".join(
                f"{stage} loss {float(row[f'{stage}/loss']):.4f} "
                f"accuracy {float(row[f'{stage}/accuracy']):.4f}"
                for stage in ("train", "validation")
                if f"{stage}/loss" in row
            ),
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file of a run that had trained its last epoch before it was interrupted."""
        self._write(trainer)

    def _row(self, trainer: pl.Trainer) -> dict[str, str]:
        groups = ("train/", RATE, "validation/")[: 2 + self._is_validated(trainer)]
        metrics = {
            name: f"{float(value):.6g}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(groups)
        }
        return {
            "epoch": str(trainer.current_epoch),
            **metrics,
            "seconds": f"{time.perf_counter() - self.started:.3f}",
            SPEED: f"{self.images / self.training_seconds:.1f}",
        }

    def _logged_metrics(self, row: Mapping[str, str]) -> dict[str, float]:
        """What Lightning logs at the end of an epoch, after its checkpoint."""
        prefixes = ("train/", RATE) if self.file is None else ("train/", RATE, SPEED)
        return {name: float(value) for name, value in row.items() if name.startswith(prefixes)}

    def _is_validated(self, trainer: pl.Trainer) -> bool:
        """Whether the metrics of the validation subset are of this epoch."""
        return self.validated == trainer.current_epoch

    def _write(self, trainer: pl.Trainer) -> None:
        if self.file is None or not trainer.is_global_zero:
            return
        header = tuple(dict.fromkeys(name for row in self.rows for name in row)) or ("epoch",)
        rows = [tuple(row.get(name, "") for name in header) for row in self.rows]
        write_csv(self.file, header, rows)


MAX_ACTIONS: Final = 20


def show_profile(trainer: pl.Trainer) -> None:
    """Show where the time of training went, if `trainer.profiler` is set."""
    profiler = trainer.profiler  # type: ignore[attr-defined]
    if isinstance(profiler, PassThroughProfiler):
        return
    if not isinstance(profiler, SimpleProfiler):
        show_lines(profiler.summary().splitlines())
        return
    seconds = {name: sum(times) for name, times in profiler.recorded_durations.items()}
    total = max(seconds.values(), default=0.0)
    longest = sorted(seconds, key=lambda name: -seconds[name])[:MAX_ACTIONS]
    rows = [
        [
            re.sub(r"\[(.*?)\](\w*?)(\{.*\})?\.", r"\2.", name),
            f"{seconds[name]:.2f}",
            f"{100 * seconds[name] / total:.1f}",
            f"{len(profiler.recorded_durations[name]):,}",
        ]
        for name in longest
    ]
    title = f"profile of training: {len(rows)} longest of {len(seconds)} actions, nested ones too"
    show_columns(title, ("action", "seconds", "%", "calls"), rows, flexible=0)


class TensorBoard(TensorBoardLogger):
    """Lightning's logger with the tags and the layout of `signlang.reporting.tensorboard`.

    Args:
        arguments: Of `TensorBoardLogger`.
    """

    has_layout = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics under the tags of the pages, after the layout of CUSTOM SCALARS."""
        if not self.has_layout:
            self.experiment._get_file_writer().add_summary(tensorboard.layout())
            self.has_layout = True
        super().log_metrics({tensorboard.tag(name): v for name, v in metrics.items()}, step)

    def has_epoch(self, epoch: int) -> bool:
        """Whether the end of an epoch was logged: a process may be killed before."""
        from tensorboard.backend.event_processing import event_accumulator

        sizes = {event_accumulator.SCALARS: 0, event_accumulator.IMAGES: 1}
        events = event_accumulator.EventAccumulator(self.log_dir, sizes).Reload()
        name = tensorboard.tag(RATE)
        points = events.Scalars(name) if name in events.Tags()["scalars"] else []
        return any(point.step == epoch for point in points)

    def restart(self, epoch: int) -> None:
        """Drop what was logged of an epoch and of later ones, which are run again."""
        start = SessionLog(status=SessionLog.START)
        self.experiment._get_file_writer().add_event(Event(step=epoch, session_log=start))
