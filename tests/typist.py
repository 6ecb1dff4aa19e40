"""Types commands: a process that imports torch once and forks for each.

A command runs as `python -m signlang.VERB ...` does, in a process and a folder of its own, without
the seconds that imports take. Some need an interpreter of their own: what forks itself, a sweep
with `hydra/launcher=local`, whose launcher refuses a process that has imported torch; the service;
and whatever is started with variables that modules read while they are imported.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Final

# what the verbs import when there is work; nothing of it starts a thread
NEEDED: Final = (
    "albumentations", "fvcore.nn", "hydra", "matplotlib.pyplot", "pytorch_lightning", "tensorboard",
    "timm", "torch", "torchmetrics", "torchvision", "signlang.datacard.card",
    "signlang.evaluation.writer", "signlang.runs.training", "signlang.studies.comparison",
)  # fmt: skip
FORKING: Final = "hydra/launcher=local"
SECONDS: Final = 600  # that a command may take
WIDTH: Final = {"COLUMNS": "200"}
LATE: Final = {"COLUMNS", "PATH"}  # variables that no module reads while it is imported


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


class Typist:
    """The process, which is started when it is needed; close it.

    Args:
        folder: Where it keeps what commands print.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = count()

    @cached_property
    def process(self) -> "subprocess.Popen[str]":
        """What forks."""
        return subprocess.Popen(
            [sys.executable, __file__], env={**os.environ, **WIDTH}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def type(self, place: Path, verb: str, *words: str, **environment: str) -> Result:
        """Run a command in a folder, to its end."""
        if not environment.keys() <= LATE or verb == "serve" or FORKING in words:
            return run_anew(place, verb, *words, **environment)
        command = self.start(place, verb, *words, **environment)
        command.wait()
        return command.result()

    def start(self, place: Path, verb: str, *words: str, **environment: str) -> "Command":
        """Start a command in a folder."""
        number = next(self.numbers)
        out, err = (self.folder / f"{stream}-{number}.txt" for stream in ("out", "err"))
        variables = {**os.environ, **WIDTH, **environment}  # tests change the first
        pid = self.ask([str(out), str(err), str(place.resolve()), variables, verb, *words])
        assert pid is not None
        return Command(self, pid, out, err)

    def ask(self, question: object) -> int | None:
        """Send something to the process, and wait for its answer."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        answer: int | None = json.loads(stdout.readline())
        return answer

    def close(self) -> None:
        """End the process, if it was started."""
        if "process" in vars(self):
            self.process.communicate()


@dataclass
class Command:
    """A command that was started, with the methods of `subprocess.Popen` that tests need.

    Attributes:
        pid: Its process.
        out, err: What it prints.
        returncode: How it ended; None before that is known.
    """

    typist: Typist
    pid: int
    out: Path
    err: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        """Ask whether it has ended, and how."""
        if self.returncode is None:
            self.returncode = self.typist.ask(self.pid)
        return self.returncode

    def wait(self, timeout: float = SECONDS) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: If it does not end within so many seconds; it is killed.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise subprocess.TimeoutExpired(self.err.read_text("utf-8"), timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        """Wait for its end, and take what it printed."""
        self.wait(timeout)
        result = self.result()
        return result.out, result.err

    def result(self) -> Result:
        """How it ended."""
        assert self.returncode is not None
        texts = [file.read_text("utf-8") for file in (self.out, self.err)]
        self.out.unlink()
        self.err.unlink()
        return Result(self.returncode, *texts)


def run_anew(place: Path, verb: str, *words: str, **environment: str) -> Result:
    """Run `python -m signlang.VERB ...` in a folder, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", f"signlang.{verb}", *words],
        cwd=place, env={**os.environ, **WIDTH, **environment}, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def serve() -> None:
    """Answer each line of the standard input.

    A list is a command, which is started, and answered with its process; a number is a process,
    answered with its exit code, or null while it has none.
    """
    for name in NEEDED:
        importlib.import_module(name)
    gc.freeze()  # a collection would copy what processes share
    for line in sys.stdin:
        question = json.loads(line)
        if isinstance(question, int):
            ended, status = os.waitpid(question, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if not answer:
                os._exit(_exit_code(*question))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _exit_code(
    out: str, err: str, place: str, variables: dict[str, str], verb: str, *words: str
) -> int:
    """Run a command in this process, and all that a process does at its end but to free memory."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate((out, err), 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(place)
    sys.path[:0] = [place]
    sys.argv[1:] = words
    code: object = 0
    try:
        runpy.run_module(f"signlang.{verb}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as at the end of main
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    serve()
