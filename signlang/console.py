"""Terminal output: log lines, progress bars and tables; and the log file of a run."""

import logging
import os
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from signlang.system import check_stop

log: Final = logging.getLogger("signlang")
CONSOLE: Final = Console(stderr=True, highlight=False)
Item = TypeVar("Item")
NARROWEST: Final = 32  # characters of a column of texts, before columns of numbers are left out
_muted: Final[set[int]] = set()  # processes
LIBRARIES: Final = (
    "pytorch_lightning", "lightning.pytorch", "lightning_fabric", "torch", "timm",
    "huggingface_hub",
)  # fmt: skip


class _ConsoleHandler(logging.Handler):
    """Writes records through rich, so that log lines and progress bars do not overwrite each other.

    Records of other libraries go to the run's log; only their errors are shown.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:  # tracebacks are for the log of the run
            return
        is_own = record.name.split(".")[0] == "signlang"
        if not is_own and record.levelno < logging.ERROR:
            return
        style = "bold red" if record.levelno >= logging.ERROR else None
        style = "yellow" if record.levelno == logging.WARNING else style
        text = self.format(record)
        text = wrapped(text, CONSOLE.width) if CONSOLE.is_terminal else text
        CONSOLE.print(text, style=style, markup=False, soft_wrap=True)


def start(verbose: bool = True) -> None:
    """Send the log to the screen: all records of signlang, or warnings and errors only.

    Python's own warnings and the messages of libraries go to the log of the run.
    """
    if os.getpid() in _muted:
        return
    _remove_handlers()
    root = logging.getLogger()
    root.addHandler(_ConsoleHandler(logging.INFO if verbose else logging.WARNING))
    root.setLevel(logging.INFO)
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()  # Lightning adds handlers of its own for the screen
        library.propagate = True


def mute() -> None:
    """Suppress all terminal output of this process; the logs of runs are still written."""
    _muted.add(os.getpid())
    _remove_handlers()
    logging.getLogger().addHandler(logging.NullHandler())  # without any, Python would print errors


def _remove_handlers() -> None:
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _ConsoleHandler)]:
        root.removeHandler(handler)


class _RunLog(logging.FileHandler):
    """A log file that ignores write errors: the run itself reports a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error; a full disk would otherwise print a trace for every line."""

    def close(self) -> None:
        """Close the file; lines that do not fit on the disk are lost."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(file: Path) -> Iterator[None]:
    """Append every log record of this process to a file while the block runs."""
    handler = _RunLog(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


REMARK: Final = {"remark": True}  # `extra` of a log record that a sweep is to report, once


class _RemarkHandler(logging.Handler):
    """Keeps the texts of the log records that have `REMARK`."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "remark"):
            self.texts.append(record.getMessage())


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collect the texts of the log records that have `REMARK`, while the block runs."""
    handler = _RemarkHandler()
    log.addHandler(handler)
    try:
        yield handler.texts
    finally:
        log.removeHandler(handler)


def verbose() -> bool:
    """Whether progress and tables are shown."""
    handlers = logging.getLogger().handlers
    return any(isinstance(h, _ConsoleHandler) and h.level <= logging.INFO for h in handlers)


Bar = TypeVar("Bar", bound=Progress)


def progress(kind: type[Bar], *columns: ProgressColumn) -> Bar:
    """A progress bar with a description in front; invisible when quiet or not on a terminal.

    Args:
        kind: Of bar.
        columns: What follows.
    """
    return kind(
        TextColumn("{task.description}"),
        *columns,
        console=CONSOLE,
        transient=True,
        disable=not (verbose() and CONSOLE.is_terminal),
    )


def wrapped(text: str, columns: int) -> str:
    r"""Break lines between words; a longer word, such as a path, has a line of its own, whole.

    Lines that are indented by four blanks are commands, to be copied from the screen: they stay.

    >>> wrapped("  see runs/digits/squeezenet/fold=0 for it", 14)
    '  see\n  runs/digits/squeezenet/fold=0\n  for it'
    """
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        if len(indent) >= 4:
            lines.append(line)
            continue
        lines += textwrap.wrap(
            line.strip(), columns, initial_indent=indent, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        ) or [""]  # fmt: skip
    return "\n".join(lines)


def show_table(title: str, rows: Mapping[str, str], paths: Mapping[str, str] | None = None) -> None:
    """Show names and values on the standard output, unless quiet.

    Args:
        title: Title above the table; plain text.
        rows: Names and values, with rich's markup.
        paths: Names and what is copied from the screen, a path or a command: below the table, each
            on a line of its own, whole however long it is.
    """
    if not verbose():
        return
    screen = Console(highlight=False)
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    _show_title(screen, title)
    if rows:
        screen.print(table)
    for name, path in (paths or {}).items():
        screen.print(f"{name}:\n  {path}", markup=False, soft_wrap=True)


def _show_title(screen: Console, title: str) -> None:
    screen.print(wrapped(title, screen.width), style="italic", markup=False, soft_wrap=True)


def show_columns(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], flexible: int
) -> None:
    """Show a table on the standard output, unless quiet.

    On a narrow screen the last columns are left out and listed below the table.

    Args:
        title: Title above the table.
        header: Names of the columns, the most important first; may have line breaks.
        rows: Cells of each row.
        flexible: The column of texts, which may be broken into lines; all others are numbers.
    """
    if not verbose():
        return
    screen = Console(highlight=False)
    widths = [
        max(len(line) for cell in (name, *cells) for line in cell.split("\n"))
        for name, cells in zip(header, zip(*rows, strict=True), strict=True)
    ]
    widths[flexible] = min(widths[flexible], NARROWEST)
    columns = len(header)
    while columns > flexible + 1 and sum(widths[:columns]) + 2 * (columns - 1) > screen.width:
        columns -= 1
    left_out = ", ".join(name.replace("-\n", "").replace("\n", " ") for name in header[columns:])
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
        caption=f"left out, the screen is too narrow: {left_out}" if left_out else None,
        caption_justify="left",
    )  # fmt: skip
    for number, name in enumerate(header[:columns]):
        table.add_column(
            escape(name),
            justify="left" if number == flexible else "right",
            no_wrap=number != flexible,
            overflow="fold",
            vertical="top",
        )
    for row in rows:
        table.add_row(*map(escape, row[:columns]))
    _show_title(screen, title)
    screen.print(table)


def show_error(text: str) -> None:
    """Write an error to the standard error output, in lines of the terminal."""
    text = wrapped(text, CONSOLE.width) if CONSOLE.is_terminal else text
    CONSOLE.print(text, markup=False, soft_wrap=True)


def width() -> int:
    """Characters of a line on the standard output."""
    return Console().width


def show_lines(lines: Iterable[str]) -> None:
    """Show sentences on the standard output, unless quiet."""
    if verbose():
        screen = Console(highlight=False)
        for line in lines:
            screen.print(wrapped(line, screen.width), markup=False, soft_wrap=True)


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield the items and show how many are done; Ctrl-C stops between two of them.

    It is a bar on a terminal, and a line every 30 seconds in a log.
    """
    columns = (
        BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("left"),
    )  # fmt: skip
    started = last_line = time.monotonic()
    with progress(Progress, *columns) as bar:
        task = bar.add_task(description, total=total)
        for done, item in enumerate(items, start=1):
            check_stop()
            yield item
            bar.advance(task)
            now = time.monotonic()
            if bar.disable and now - last_line >= BETWEEN_LINES:
                last_line = now
                remaining = clock((now - started) / done * (total - done))
                log.info("%s: %d of %d, %s left", description, done, total, remaining)


BETWEEN_LINES: Final = 30.0  # seconds


def clock(seconds: float) -> str:
    """Write a time as a clock does.

    >>> clock(8.4), clock(92.5), clock(7300)
    ('0:08', '1:32', '2:01:40')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Write a time in the two largest units.

    >>> duration(48.4), duration(92.5), duration(7300)
    ('48 s', '1 min 32 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
