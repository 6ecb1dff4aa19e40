"""Interrupt trainings at random moments: does each end at once, and can it be resumed?

    python experiments/interrupts/interrupts.py --tries 500 --seed 0

Each try starts a command on tiny generated images, sends it one Ctrl-C (or SIGTERM) after a random
time, and waits. It writes `results.csv`, a line for each try, and prints the tries that went wrong.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from signlang.files import write_csv

HERE: Final = Path(__file__).parent
QUICK: Final = (
    "data=folder", "model=simple_cnn", "image_size=32", "data.image_size=32", "folds=3",
    "batch_size=2", "augment=digits", "trainer.accelerator=cpu", "callbacks.early_stopping=null",
)  # fmt: skip
ENDLESS: Final = ("trainer.max_epochs=100000",)  # one run that every try resumes
TWO_AT_ONCE: Final = ("hydra/launcher=local", "hydra.launcher.jobs=2")
KINDS: Final = {  # words of the command -> share of the tries
    "one run": (ENDLESS, 0.55),
    "short run": (("trainer.max_epochs=2", "overwrite=true"), 0.25),  # tests and writes as well
    "serial sweep": (("-m", "fold=0,1", "study=serial", *ENDLESS), 0.1),
    "local sweep": (("-m", "fold=0,1", "study=local", *TWO_AT_ONCE, *ENDLESS), 0.1),
}  # fmt: skip
EARLIEST: Final = 0.2  # seconds: before, Python itself has not started
LATEST: Final = 11.0
LIMIT: Final = 10.0  # within which a command must have ended
SIGTERM_SHARE: Final = 0.2
UNWANTED: Final = ("Traceback", "Exception ignored", "damaged", "The run failed", "cannot be")


@dataclass(frozen=True)
class Try:
    """One interrupted command.

    Attributes:
        kind: One of `KINDS`.
        signal: What was sent.
        after: Seconds from the start of the command to the signal.
        took: Seconds from the signal to the end.
        code: The exit code.
        resumed: Whether the run of an earlier try was resumed.
        outcome: `ok`, `finished before`, or what is wrong.
    """

    kind: str
    signal: str
    after: float
    took: float
    code: int
    resumed: bool
    outcome: str


def interrupted(place: Path, images: Path, draw: random.Random) -> Try:
    """Start a command, interrupt it, and see how it ends."""
    kind = draw.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
    number = signal.SIGTERM if draw.random() < SIGTERM_SHARE else signal.SIGINT
    after = draw.uniform(EARLIEST, LATEST)
    command = subprocess.Popen(
        [sys.executable, "-m", "signlang.train", *QUICK, f"data.root={images}", *KINDS[kind][0]],
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "SIGNLANG_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # a terminal sends Ctrl-C to the whole group
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    ended = False
    try:
        _, err = command.communicate(timeout=after)
        ended = True
    except subprocess.TimeoutExpired:
        os.killpg(command.pid, number)
    sent, hung = time.monotonic(), False
    if not ended:
        try:
            _, err = command.communicate(timeout=3 * LIMIT)
        except subprocess.TimeoutExpired:
            hung = True
            os.killpg(command.pid, signal.SIGKILL)
            _, err = command.communicate()
    took = time.monotonic() - sent
    wrong = [word for word in UNWANTED if word in err]
    # killed while Python itself starts or ends, which shells report as the same code
    codes = (0,) if ended else (128 + number, -number)
    finished = command.returncode == 0
    if hung or took > LIMIT:
        outcome = f"took longer than {LIMIT:.0f} s"
    elif command.returncode not in codes and not finished:
        outcome = f"exit code, not {codes[0]}"
    elif wrong:
        outcome = f"says {wrong[0]}"
    else:
        outcome = "finished before" if finished else "ok"
    if outcome not in {"ok", "finished before"}:
        sys.stderr.write(f"--- {kind}, {number.name} after {after:.2f} s: {outcome}\n{err}\n")
    resumed = "resuming after epoch" in err
    return Try(
        kind, number.name, round(after, 3), round(took, 3), command.returncode, resumed, outcome
    )


def write_images(folder: Path) -> Path:
    """Write 36 small images of three colours."""
    rng = np.random.default_rng(0)
    for name, colour in {"A": (200, 60, 60), "B": (60, 200, 60), "C": (60, 60, 200)}.items():
        (folder / name).mkdir(parents=True)
        for number in range(12):
            noise = rng.integers(-40, 40, size=(32, 32, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def main() -> None:
    """Run the tries, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    tries: list[Try] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        images = write_images(place / "images")
        for _ in range(arguments.tries):
            tries.append(interrupted(place, images, draw))
            header = tuple(field.name for field in fields(Try))
            write_csv(arguments.out, header, [astuple(one) for one in tries])
    outcomes = Counter(one.outcome for one in tries)
    slowest = max(one.took for one in tries)
    resumed = sum(one.resumed for one in tries)
    sys.stdout.write(f"{dict(outcomes)}; slowest {slowest:.1f} s; {resumed} resumed another\n")
    sys.exit(bool(outcomes.keys() - {"ok", "finished before"}))


if __name__ == "__main__":
    main()
