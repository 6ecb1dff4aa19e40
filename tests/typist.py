"""Types many commands in a row: a process that imports torch once and forks for each.

A command runs as `python -m signlang VERB ...` does, in a process and a folder of its own, without
the seconds that imports take. What forks itself, a sweep with `hydra/launcher=local`, is started in
the usual way: its launcher refuses a process that has imported torch.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Final

from conftest import Result, run_command

# what the verbs import when there is work; nothing of it starts a thread
NEEDED: Final = (
    "albumentations", "fvcore.nn", "hydra", "matplotlib.pyplot", "pytorch_lightning", "tensorboard",
    "timm", "torch", "torchmetrics", "torchvision", "signlang.datacard.card",
    "signlang.evaluation.writer", "signlang.runs.training", "signlang.studies.comparison",
)  # fmt: skip
FORKING: Final = "hydra/launcher=local"
OUT, ERR = "out.txt", "err.txt"


class Typist:
    """The process; close it.

    Args:
        folder: Where it keeps what commands print.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(folder)], env={**os.environ, "COLUMNS": "200"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def type(self, place: Path, verb: str, *words: str) -> Result:
        """Run a command in a folder, to its end."""
        if FORKING in words:
            return run_command(place, *words, verb=verb)
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([str(place), verb, *words]) + "\n")
        stdin.flush()
        code = int(stdout.readline())
        return Result(code, *((self.folder / name).read_text("utf-8") for name in (OUT, ERR)))

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def serve(folder: Path) -> None:
    """Fork for each line of the standard input, and answer with the exit code."""
    for name in NEEDED:
        importlib.import_module(name)
    for line in sys.stdin:
        place, *words = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(_exit_code(folder, place, words))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _exit_code(folder: Path, place: str, words: list[str]) -> int:
    """Run a command in this process, as a new one would."""
    for number, name in enumerate((OUT, ERR), 1):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.chdir(place)
    sys.path[:0] = [place]
    sys.argv = ["signlang", *words]
    from signlang.__main__ import main

    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
