"""Outcomes of jobs come in; how far the sweep is, and how long it will take, goes out."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from signlang.console import CONSOLE, duration, log, verbose
from signlang.sweeps.jobs import Outcome


class Meter:
    """Says how far a sweep is: a bar on a terminal, a line for each job in any case."""

    def __init__(self, total: int, at_once: int) -> None:
        self.total, self.at_once, self.done = total, max(1, at_once), 0
        self.begun = time.monotonic()
        self.bar = Progress(
            TextColumn("sweep"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=CONSOLE, transient=True, auto_refresh=False,  # a thread would not survive forks
            disable=not (verbose() and CONSOLE.is_terminal),
        )  # fmt: skip
        self.task = self.bar.add_task("", total=total, note=f"{self.at_once} at once")

    def __enter__(self) -> None:
        self.bar.start()

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def refresh(self) -> None:
        """Draw the bar."""
        if not self.bar.disable:
            self.bar.refresh()

    def count(self, name: str, outcome: Outcome, seconds: float) -> None:
        """Tell of a job that has ended, and of the time that is left."""
        self.done += 1
        left = (time.monotonic() - self.begun) / self.done * (self.total - self.done)
        note = f"about {duration(left)} left" if self.done < self.total else "done"
        self.bar.update(self.task, advance=1, note=note)
        where = f"[{self.done}/{self.total}, {note}]"
        if outcome.accuracy is None:
            log.error("%s %s failed after %s: %s", where, name, duration(seconds), outcome.error)
        else:
            log.info("%s %s: test accuracy %.4f (%s)", where, name, outcome.accuracy,
                     duration(seconds))  # fmt: skip
