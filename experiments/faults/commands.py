"""Commands in forked processes, with what goes wrong in them: signals, limits, clocks, disks."""

import atexit
import ctypes
import importlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# what the verbs import when there is work; nothing of it starts a thread
TO_TRAIN: Final = (
    "albumentations", "fvcore.nn", "hydra", "pytorch_lightning", "tensorboard", "torch",
    "torchmetrics", "torchvision", "signlang.runs.training",
)  # fmt: skip
NEEDED: Final = (
    *TO_TRAIN, "matplotlib.pyplot", "onnx", "onnxruntime", "timm", "signlang.datacard.card",
    "signlang.deploy.pipeline", "signlang.evaluation.writer", "signlang.studies.comparison",
)  # fmt: skip
LIMIT: Final = 90.0  # seconds within which a command must have ended
GRACE: Final = 4.0  # seconds in which processes of an ended command may go on
IS_ROOT: Final = os.geteuid() == 0
WRITES: Final = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
Action = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: The exit code; minus the number of the signal that killed it.
        out: What it printed.
        err: What it wrote to the standard error.
        left: Processes of its session that went on.
        hung: Whether it had to be killed after `LIMIT`.
    """

    code: int
    out: str
    err: str
    left: int = 0
    hung: bool = False


def import_all(names: Sequence[str]) -> None:
    """Import what commands need, once, before they are forked."""
    for name in names:
        importlib.import_module(name)


class Command:
    """A command that runs in a forked process, a session of its own.

    Args:
        place: The folder that it runs in; its cache is `cache` there.
        words: Verb and words.
        prepare: What is done in the process first.
    """

    def __init__(self, place: Path, words: Sequence[str], prepare: Action | None = None) -> None:
        self.streams = [place / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        self.pid = os.fork()
        if not self.pid:
            code = 70
            try:
                code = self._run(place, words, prepare)
            finally:
                os._exit(code)

    def _run(self, place: Path, words: Sequence[str], prepare: Action | None) -> int:
        os.setsid()
        for number, file in enumerate(self.streams, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.chdir(place)
        os.environ["SIGNLANG_CACHE"] = str(place / "cache")
        sys.argv = ["signlang", *words]
        code: object = 0
        try:
            from signlang.__main__ import main

            if prepare is not None:
                prepare()
            main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        return code if isinstance(code, int) else 1

    def kill(self) -> None:
        """Kill the process, and it alone."""
        os.kill(self.pid, signal.SIGKILL)

    def ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds; it is not reaped."""
        deadline = time.monotonic() + seconds
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self.pid, options) is not None:
                return True
            time.sleep(0.005)
        return False

    def wait(self) -> Ended:
        """Wait for its end, and for that of all processes that it has started."""
        hung = not self.ended(LIMIT)
        if hung:
            self.kill()
        _, status = os.waitpid(self.pid, 0)
        deadline = time.monotonic() + GRACE
        while (left := session(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in left:
            os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        out, err = (file.read_text("utf-8", errors="replace") for file in self.streams)
        for file in self.streams:
            file.unlink()
        return Ended(code, out, err, len(left), hung)


def run(place: Path, words: Sequence[str], prepare: Action | None = None) -> Ended:
    """Run a command to its end."""
    return Command(place, words, prepare).wait()


def session(number: int) -> list[int]:
    """Processes of a session that are no zombies."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == number and fields[0] not in "ZX":
            found.append(int(file.parent.name))
    return found


def started_apart(place: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command in a new interpreter: what forks workers must not have imported torch."""
    return subprocess.Popen(
        [sys.executable, "-m", "signlang", *words], cwd=place, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "SIGNLANG_CACHE": str(place / "cache")},
    )  # fmt: skip


# what a process does to itself


def kill_itself() -> None:
    """SIGKILL, to this process alone."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_write(place: Path, number: int, act: Action) -> Action:
    """Act just before the process writes, renames or removes something for the n-th time."""
    return lambda: _watch(_written, place, number, lambda _: act(), [])


def at_read(place: Path, number: int, act: Callable[[list[str]], None]) -> Action:
    """Act just before the n-th file is read, with the paths of those before."""
    return lambda: _watch(_read, place, number, act, [])


def counting(place: Path, counts: Path) -> Action:
    """Count what `at_write` counts, into a file outside of the place."""

    def prepare() -> None:
        seen: list[str] = []
        _watch(_written, place, -1, lambda _: None, seen)
        atexit.register(lambda: counts.write_text(str(len(seen))))

    return prepare


def _watch(
    kind: Callable[[str, tuple[Any, ...]], str | None], place: Path, number: int,
    act: Callable[[list[str]], None], seen: list[str],
) -> None:  # fmt: skip
    own, inside = os.getpid(), f"{place}{os.sep}"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        found = kind(event, arguments)
        path = str(Path(found or os.sep).absolute())
        if os.getpid() != own or not path.startswith(inside):
            return
        seen.append(path)
        if len(seen) == number:
            act(seen[:-1])

    sys.addaudithook(hook)


def _written(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event == "open":
        path, _, flags = arguments
        writes = int(flags) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return os.fspath(path) if writes and isinstance(path, str | os.PathLike) else None
    return os.fspath(arguments[0]) if event in WRITES and isinstance(arguments[0], str) else None


def _read(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event != "open" or not isinstance(arguments[0], str | os.PathLike):
        return None
    path = os.fspath(arguments[0])
    return path if path.endswith(".png") and not arguments[2] & os.O_CREAT else None


def limited(kind: int, amount: int, *, beyond: bool = False) -> Action:
    """Set a limit of the process, or one so far beyond what it uses of memory now."""

    def prepare() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if beyond else 0
        most = amount + pages * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(kind, (most, most))

    return prepare


def jumping_clock(calls: int, seconds: float) -> Action:
    """Let `time.time` and `time.time_ns` jump back after so many calls."""

    def prepare() -> None:
        real, made = time.time, [0]

        def now() -> float:
            made[0] += 1
            return real() - seconds * (made[0] > calls)

        time.time = now
        time.time_ns = lambda: int(now() * 1e9)

    return prepare


def small_shm(size: str) -> Action:
    """Give the process a /dev/shm of its own, of that size and full but for that."""

    def prepare() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):  # CLONE_NEWNS
            raise OSError(ctypes.get_errno(), "unshare")
        tmpfs = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"]  # noqa: S108
        for words in (["--make-rprivate", "/"], tmpfs):
            subprocess.run(["mount", *words], check=True)

    return prepare


# disks


class Disk:
    """A small disk (tmpfs) that is mounted at a folder, with what was in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        """Mount it again with other options."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@contextmanager
def mounted(folder: Path) -> Iterator[Disk]:
    """Mount a disk of 256 MB at a folder; needs root."""
    before = folder.with_name(f"{folder.name}-before")
    if folder.exists():
        folder.rename(before)
    folder.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)], check=True
    )  # fmt: skip
    try:
        if before.exists():
            shutil.copytree(before, folder, dirs_exist_ok=True)
            shutil.rmtree(before)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


HALF_WRITTEN: Final = re.compile(r"\..+\.([0-9a-f]{12}|replaced)")


def half_written(place: Path) -> list[Path]:
    """Temporary files and folders that were not renamed."""
    return [path for path in place.rglob(".*") if HALF_WRITTEN.fullmatch(path.name)]
