"""A sweep of six runs, some of them slow enough to be disturbed, in a folder of its own."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from conftest import QUICK, Result, run_command

# a second and more in each epoch of a setting, where the environment asks for it
SLOW: Final = """
import os
import time

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig

SECONDS = {"0": 1.0, "1": 1.0, "2": 2.0}


class Slow(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        if not trainer.is_global_zero:  # Hydra composes nothing there
            return
        words = dict(word.lstrip("+").split("=", 1) for word in HydraConfig.get().overrides.task)
        if "SLOW" in os.environ and words["optimizer.lr"] == "0.001":
            time.sleep(SECONDS[words["fold"]])
"""
LOCALLY: Final = ("hydra/launcher=local", "hydra.launcher.jobs=2")
PATIENCE: Final = 900  # seconds; the machine of the tests may be busy


class Sweep:
    """The sweep.

    Args:
        place: The folder, which is made.
        tiny: The images.
        environment: Further variables; SLOW=1 makes the runs of one setting slow.
    """

    def __init__(self, place: Path, tiny: Path, environment: Mapping[str, str]) -> None:
        place.mkdir()
        (place / "slow.py").write_text(SLOW)
        path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.place = place
        self.environment = {**environment, "PYTHONPATH": path}
        self.words = (
            "-m", *QUICK, f"data.root={tiny}", "fold=0,1,2", "optimizer.lr=0.001,0.003",
            "+callbacks.slow._target_=slow.Slow", "trainer.max_epochs=30",
            "callbacks.early_stopping=null", "callbacks.images=null",
        )  # fmt: skip

    def run(self, *changes: str) -> Result:
        """Run it, with further words."""
        return run_command(self.place, *self.words, *changes, **self.environment)

    @contextmanager
    def begun(self, *changes: str) -> Iterator["subprocess.Popen[str]"]:
        """Begin it, and end it after the block if it still runs."""
        words = [sys.executable, "-m", "signlang.train", *self.words, *changes]
        with subprocess.Popen(
            words, cwd=self.place, env={**os.environ, **self.environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as command:  # fmt: skip
            self.command = command
            try:
                yield command
            finally:
                command.kill()

    def call(self, *words: str) -> str:
        """What another command writes in its environment."""
        return subprocess.run(
            words, env={**os.environ, **self.environment}, text=True, check=True,
            capture_output=True,
        ).stdout  # fmt: skip

    def wait_for_epochs(self, count: int, *runs: tuple[str, int]) -> None:
        """Wait until runs, by learning rate and fold, have finished some epochs."""
        deadline = time.monotonic() + PATIENCE
        while any(self.epochs(*run) < count for run in runs):
            assert time.monotonic() < deadline, "the runs have not begun"
            assert self.command.poll() is None, self.command.communicate()[1]
            time.sleep(0.2)

    def folder(self, rate: str, fold: int) -> Path:
        """The folder of a run."""
        for file in self.place.glob(f"runs/*/*/fold={fold}/record.json"):
            if json.loads(file.read_text())["settings"]["optimizer.lr"] == float(rate):
                return file.parent
        return self.place / "nowhere"

    def epochs(self, rate: str, fold: int) -> int:
        """How many epochs of a run are finished."""
        file = self.folder(rate, fold) / "history.csv"
        return len(file.read_text().splitlines()) - 1 if file.exists() else 0

    def log(self, rate: str, fold: int) -> str:
        """The log of a run."""
        return (self.folder(rate, fold) / "run.log").read_text()

    def files(self, name: str) -> dict[str, str]:
        """The text of a file of each run, by the setting and fold."""
        return {
            "/".join(file.parts[-3:-1]): file.read_text()
            for file in self.place.glob(f"runs/*/*/fold=*/{name}")
        }

    def accuracies(self) -> list[list[str]]:
        """Name, accuracy and folds of each setting, from the leaderboard."""
        columns = ("label", "accuracy", "macro_f1", "folds_done")
        with (self.place / "runs/Bilder_1/leaderboard.csv").open(newline="") as stream:
            return [[row[column] for column in columns] for row in csv.DictReader(stream)]
