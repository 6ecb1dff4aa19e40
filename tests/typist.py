"""Types commands: a process that imports torch once and forks for each.

A command runs as `python -m signlang.VERB ...` does, in a process and a folder of its own, without
the seconds that imports take. Some need an interpreter of their own: what forks itself, a sweep
with `hydra/launcher=local`, whose launcher refuses a process that has imported torch; the service;
and whatever is started with other variables of the environment.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

# what the verbs import when there is work; nothing of it starts a thread
NEEDED: Final = (
    "albumentations", "fvcore.nn", "hydra", "matplotlib.pyplot", "pytorch_lightning", "tensorboard",
    "timm", "torch", "torchmetrics", "torchvision", "signlang.datacard.card",
    "signlang.evaluation.writer", "signlang.runs.training", "signlang.studies.comparison",
)  # fmt: skip
FORKING: Final = "hydra/launcher=local"
OUT, ERR = "out.txt", "err.txt"
SECONDS: Final = 600  # that a command may take
WIDTH: Final = {"COLUMNS": "200"}


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

    @cached_property
    def process(self) -> "subprocess.Popen[str]":
        """What forks."""
        return subprocess.Popen(
            [sys.executable, __file__, str(self.folder)], env={**os.environ, **WIDTH}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def type(self, place: Path, verb: str, *words: str, **environment: str) -> Result:
        """Run a command in a folder, to its end."""
        if environment or verb == "serve" or FORKING in words:
            return run_anew(place, verb, *words, **environment)
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        variables = dict(os.environ)  # tests change them
        stdin.write(json.dumps([str(place.resolve()), variables, verb, *words]) + "\n")
        stdin.flush()
        if not select.select([stdout], [], [], SECONDS)[0]:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired([verb, *words], SECONDS)
        code = int(stdout.readline())
        return Result(code, *((self.folder / name).read_text("utf-8") for name in (OUT, ERR)))

    def close(self) -> None:
        """End the process, if it was started."""
        if "process" in vars(self):
            self.process.communicate()


def run_anew(place: Path, verb: str, *words: str, **environment: str) -> Result:
    """Run `python -m signlang.VERB ...` in a folder, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", f"signlang.{verb}", *words],
        cwd=place, env={**os.environ, **WIDTH, **environment}, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def serve(folder: Path) -> None:
    """Fork for each line of the standard input, and answer with the exit code."""
    for name in NEEDED:
        importlib.import_module(name)
    gc.freeze()  # a collection would copy what processes share
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(_exit_code(folder, *json.loads(line)))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _exit_code(folder: Path, place: str, variables: dict[str, str], verb: str, *words: str) -> int:
    """Run a command in this process, and all that a process does at its end but to free memory."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, number in ((OUT, 1), (ERR, 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.environ.clear()
    os.environ.update({**variables, **WIDTH})
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
    serve(Path(sys.argv[1]))
