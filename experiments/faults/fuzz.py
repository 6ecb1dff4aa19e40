"""Damage 100,000 files and requests of strangers, and count what became of them.

    python experiments/faults/fuzz.py --times 20

It runs `tests/test_fuzz.py` with so many times the inputs of `make test`, writes `fuzz.csv`, a line
for each kind of input, and prints it as a table.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from signlang.files import write_csv

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
HEADER: Final = ("kind", "inputs", "refused", "slowest_s", "memory_mib")


def main() -> None:
    """Exit with the code of pytest, or 1 if there were fewer inputs than wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="the inputs of make test")
    parser.add_argument("--least", type=int, default=100_000, help="inputs that must be tried")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "fuzz.csv")
    parser.add_argument("--only", default="test", help="an expression that tests match")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        counts = Path(place) / "counts.csv"
        command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", f"-n{options.workers}"]
        own = {"SIGNLANG_FUZZ": str(options.times), "SIGNLANG_FUZZ_COUNTS": str(counts)}
        done = subprocess.run(
            [*command, "tests/test_fuzz.py", "-k", options.only],
            cwd=ROOT,
            env={**os.environ, **own},
            check=False,
        )
        with counts.open(newline="", encoding="utf-8") as stream:
            lines = sorted(csv.reader(stream))
    total = sum(int(line[1]) for line in lines)
    rows = [
        (kind.removeprefix("test_").replace("_", " "), inputs, refused,
         f"{float(slowest):.2f}", f"{float(memory):.0f}")
        for kind, inputs, refused, slowest, memory in lines
    ]  # fmt: skip
    write_csv(options.out, HEADER, rows)
    for row in [HEADER, ("---", *["---:"] * 4), *rows]:
        sys.stdout.write(f"| {' | '.join(map(str, row))} |\n")
    sys.stdout.write(f"{total:,} inputs, {time.monotonic() - started:.0f} s\n")
    sys.exit(done.returncode or total < options.least)


if __name__ == "__main__":
    main()
