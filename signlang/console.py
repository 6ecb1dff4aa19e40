"""What the user sees while a command works: log lines, progress bars, and the log of a run."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

log: Final = logging.getLogger("signlang")
CONSOLE: Final = Console(stderr=True, highlight=False)
Item = TypeVar("Item")
LIBRARIES: Final = (
    "pytorch_lightning", "lightning.pytorch", "lightning_fabric", "torch", "timm",
    "huggingface_hub",
)  # fmt: skip


class _ConsoleHandler(logging.Handler):
    """Writes records through rich, so that log lines and progress bars do not overwrite each other.

    Records of other libraries are for the run's log; only their errors reach the screen.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:  # tracebacks are for the log of the run
            return
        ours = record.name.split(".")[0] == "signlang"
        if not ours and record.levelno < logging.ERROR:
            return
        style = "bold red" if record.levelno >= logging.ERROR else None
        style = "yellow" if record.levelno == logging.WARNING else style
        CONSOLE.print(self.format(record), style=style, markup=False, soft_wrap=True)


def start(verbose: bool = True) -> None:
    """Send the log to the screen: everything of ours, or warnings and errors only.

    Python's own warnings and the chatter of the libraries go to the log of the run.
    """
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _ConsoleHandler)]:
        root.removeHandler(handler)
    root.addHandler(_ConsoleHandler())
    root.setLevel(logging.INFO)
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.captureWarnings(True)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()  # Lightning brings handlers of its own to the screen
        library.propagate = True


class _RunLog(logging.FileHandler):
    """A log file that gives up in silence when it cannot be written: the run itself will tell."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing; a full disk would otherwise print a trace for every line."""

    def close(self) -> None:
        """Close the file; what the disk cannot take of it is lost."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(file: Path) -> Iterator[None]:
    """Copy every log record of this process to the end of a file as long as the block runs."""
    handler = _RunLog(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def verbose() -> bool:
    """Whether progress is shown."""
    return log.isEnabledFor(logging.INFO)


def progress() -> Progress:
    """A progress bar with the time that is left; invisible when quiet or not on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=CONSOLE,
        transient=True,
        disable=not (verbose() and CONSOLE.is_terminal),
    )


def show_table(title: str, rows: Mapping[str, str]) -> None:
    """Show names and values on the standard output, unless quiet."""
    if not verbose():
        return
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)


def track(items: Iterable[Item], doing: str, total: int) -> Iterator[Item]:
    """Yield the items and show how far they have come."""
    with progress() as bar:
        task = bar.add_task(doing, total=total, note="")
        for item in items:
            yield item
            bar.advance(task)
