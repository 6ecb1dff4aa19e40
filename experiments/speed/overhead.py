"""Overhead around a network: per step, between folds, and for finished runs.

    python experiments/speed/overhead.py --digits digits/Dataset

It writes the section of `README.md` between its markers.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytorch_lightning as pl
import torch
from cases import CASES
from clock import Clock
from hydra import compose, initialize_config_dir
from ours import ceiling, classifier
from ticks import Enough, Ticks
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from signlang.files import write_between
from signlang.hydra_app import CONF
from signlang.models.classifier import Batch, Classifier
from signlang.runs import training
from signlang.system import cpu_count, cpu_name

HERE: Final = Path(__file__).parent
CASE: Final = CASES["model_a_32"]
SIZE: Final = 4  # of an image, in pixels: the network of one layer takes almost no time
ROUNDS: Final = 5
FOLDS: Final = 5


def nothing() -> Classifier:
    """A classifier whose network is one small layer."""
    model = classifier(CASE)
    model.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CASE.classes))
    return model


def batches() -> DataLoader[Batch]:
    """The same batch of small images, repeated."""
    images = torch.zeros(CASE.batch, SIZE, SIZE, 3, dtype=torch.uint8)
    batch = images, torch.zeros(CASE.batch, dtype=torch.int64)
    return DataLoader([batch] * 100_000, batch_size=None)  # type: ignore[arg-type]


def bare(clock: Clock) -> None:
    """A plain training loop, without Lightning and callbacks."""
    model = nothing()
    optimizer = model.configure_optimizers()
    for images, labels in batches():
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if clock.tick(CASE.batch):
            return


def ours(clock: Clock) -> None:
    """The same steps by Lightning, with all callbacks of a training."""
    with TemporaryDirectory() as place, initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["callbacks.images=null", "trainer.precision=bf16-mixed"]
        cfg = compose(
            "train", [*overrides, f"run_folder={place}", "trainer.gradient_clip_val=null"]
        )
        callbacks = [*training.build_callbacks(cfg), Ticks(clock)]
        trainer: pl.Trainer = training.build_trainer(cfg, callbacks, training.build_loggers(cfg))
        with suppress(Enough):
            trainer.fit(nothing(), batches())


def step_ms() -> tuple[float, float, float]:
    """Milliseconds of a step: bare, ours, and bare with Model A; the first two in turn."""
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(ROUNDS):
        for name, variant in (("bare", bare), ("ours", ours)):
            clock = Clock(1.0, warm_up=50)
            variant(clock)
            times[name].append(1e3 * CASE.batch / clock.speed)
    clock = Clock(4.0)
    ceiling(CASE, Path(), clock)
    plain, with_all = statistics.median(times["bare"]), statistics.median(times["ours"])
    return plain, with_all, 1e3 * CASE.batch / clock.speed


def sweep(root: Path) -> tuple[float, float]:
    """Train folds of one epoch one after another, then repeat the command.

    Returns:
        Seconds from the last file of a fold to the first batch of the next, the worst; and
        milliseconds per finished run when the sweep is repeated.
    """
    with TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "signlang.train", "-m", "experiment=digits_simple_cnn",
            "augment=digits", "optimizer.lr=4e-4", f"data.root={root}", "trainer.max_epochs=1",
            f"runs_dir={place}", "verbose=false",
            "+callbacks.first_batch._target_=ticks.FirstBatchMarker",
            "+callbacks.first_batch.file=${run_folder}/first_batch",
        ]  # fmt: skip
        all_of_it = [*command, "batch_size=32,64,128", f"fold=range({FOLDS})"]
        _run(all_of_it)
        ends = sorted(file.stat().st_mtime for file in Path(place).glob("*/*/fold=*/metrics.json"))
        starts = sorted(file.stat().st_mtime for file in Path(place).glob("*/*/fold=*/first_batch"))
        gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
        one, every = (
            min(_run(again) for _ in range(5))
            for again in ([*command, "batch_size=32", "fold=0"], all_of_it)
        )
        return max(gaps), 1e3 * (every - one) / (len(ends) - 1)


def _run(command: list[str]) -> float:
    started = time.perf_counter()
    paths = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env=environment)  # fmt: skip
    return time.perf_counter() - started


def lines(steps: tuple[float, float, float], gap: float, skip: float) -> Iterator[str]:
    """Write the results in Markdown."""
    plain, with_all, model_a = steps
    extra = with_all - plain
    yield f"{cpu_name()}, {cpu_count()} cores.\n"
    yield "| | measured | wanted |"
    yield "|---|---:|---:|"
    yield (
        f"| a step of {CASE.network}, batch {CASE.batch}, bare | {model_a:.1f} ms | |\n"
        f"| Lightning, callbacks, metrics and history add to each step | {extra:.2f} ms | |\n"
        f"| as a share | {extra / model_a:.1%} | 3 % |\n"
        f"| from the end of a fold to the first batch of the next, at most | {gap:.2f} s | 1 s |\n"
        f"| a finished run in a repeated sweep | {skip:.0f} ms | 50 ms |"
    )


def main() -> None:
    """Entry point of the command."""
    shared = Path(os.environ.get("SIGNLANG_SHARED", HERE.parents[2] / "shared")) / "data"
    parser = argparse.ArgumentParser(description="Measure the overhead around a network.")
    parser.add_argument("--digits", type=Path, default=shared / "digits/Dataset",
                        help="class folders of the digits")  # fmt: skip
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    table = "\n".join(lines(step_ms(), *sweep(arguments.digits.resolve())))
    print(table)
    write_between(HERE / "README.md", "overhead", table)


if __name__ == "__main__":
    main()
