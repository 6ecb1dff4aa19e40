"""How long threads of a network that wait for each other may keep their core busy.

    python experiments/speed/waiting.py --root digits/Dataset --busy 0 2

Training steps with `GOMP_SPINCOUNT` of libgomp's default and of signlang's, in turn, each in a
process of its own, beside `--busy` processes that do nothing but compute. It prints images a second
and the ratio of the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cases import CASES

import signlang

HERE: Final = Path(__file__).parent
LIBGOMP: Final = 300_000  # turns of a loop, where nothing is set


@contextmanager
def computing(processes: int) -> Iterator[None]:
    """Keep that many cores busy while the block runs."""
    started = [
        subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def speed(case: str, root: Path, seconds: float, turns: int) -> float:
    """Images a second of the steps of a case."""
    command = [
        sys.executable, str(HERE / "variant.py"), "ours", case, "--root", str(root),
        "--seconds", str(seconds),
    ]  # fmt: skip
    environment = {**os.environ, "GOMP_SPINCOUNT": str(turns), "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["speed"])


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="class folders of images")
    parser.add_argument("--cases", nargs="+", default=["model_a"], choices=CASES)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    print("| case | busy processes | libgomp's | signlang's | ratio |\n|---|---:|---|---|---:|")
    for case in given.cases:
        for busy in given.busy:
            measured: dict[int, list[float]] = {LIBGOMP: [], signlang.SPINS: []}
            for _ in range(given.rounds):
                for turns, speeds in measured.items():
                    with computing(busy):
                        speeds.append(speed(case, given.root, given.seconds, turns))
            before, now = measured.values()
            texts = [", ".join(f"{one:.0f}" for one in speeds) for speeds in (before, now)]
            ratio = statistics.median(now) / statistics.median(before)
            print(f"| {case} | {busy} | {texts[0]} | {texts[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
