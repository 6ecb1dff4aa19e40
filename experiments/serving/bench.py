"""A run, its bundle and an image come in; how much two services of it bear goes out.

    python experiments/serving/bench.py --run RUN --bundle BUNDLE --image IMAGE

Both sides get the same requests from `hey` (Debian package `hey`), in turn, on the same machine.
It writes `results.csv`, `memory.csv` and the part of `README.md` between the two marks.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from signlang.errors import DataError, SignlangError
from signlang.files import write_between, write_csv
from signlang.system import cpu_count, cpu_name

HERE: Final = Path(__file__).parent
PORT: Final = 8791
FIGURES: Final = ("requests_per_s", "p50_ms", "p95_ms", "p99_ms")
HEADER: Final = (
    "service", "clients", "requests/s", "times the better Flask", "p50 ms", "p95 ms", "p99 ms",
    "lost",
)  # fmt: skip
STEPS: Final = 10  # of the requests during which memory is watched


@dataclass(frozen=True)
class Side:
    """A service.

    Attributes:
        name: For the table.
        command: Starts it.
        path: Of its predictions.
    """

    name: str
    command: Sequence[str]
    path: str


@dataclass(frozen=True)
class Load:
    """What a service bore."""

    requests: int
    lost: int
    figures: Mapping[str, float]


def sides(run: Path, bundle: Path) -> list[Side]:
    """Both services: the plain one with one and with all threads, ours with both precisions."""
    plain = [sys.executable, str(HERE / "plain_flask.py"), "--run", str(run), "--port", str(PORT)]
    ours = [sys.executable, "-m", "signlang.serve", f"bundle={bundle}", f"port={PORT}"]
    return [
        Side("Flask and torch", plain, "/predict"),
        Side("Flask and torch, 1 thread an image", [*plain, "--threads", "1"], "/predict"),
        Side("signlang.serve fp32", [*ours, "precision=fp32"], "/v1/predict"),
        Side("signlang.serve int8", [*ours, "precision=int8"], "/v1/predict"),
    ]


@contextmanager
def running(side: Side) -> Iterator[int]:
    """Run a service and yield its process; the log of requests goes nowhere."""
    process = subprocess.Popen(
        side.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=HERE.parent.parent
    )
    try:
        until = time.monotonic() + 120
        while not _is_ready():
            if process.poll() is not None or time.monotonic() > until:
                raise DataError(f"{side.name} did not start: run {' '.join(side.command)}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def load(side: Side, image: Path, clients: int, amount: Sequence[str]) -> Load:
    """Send requests with `hey`; `amount` is `-n NUMBER` or `-z 10s`."""
    kind = "image/png" if image.suffix == ".png" else "image/jpeg"
    address = f"http://127.0.0.1:{PORT}{side.path}"
    command = ["hey", *amount, "-c", str(clients), "-m", "POST", "-T", kind, "-D", str(image)]
    text = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout
    return parsed(text)


def parsed(text: str) -> Load:
    r"""Read the summary that `hey` prints.

    >>> parsed("Requests/sec: 10.5\n 50% in 0.2 secs\n 95% in 0.3 secs\n 99% in 0.4 secs\n"
    ...        "[200] 9 responses\n[503] 1 responses\n").lost
    1
    """
    codes = {code: int(n) for code, n in re.findall(r"\[(\d+)\]\s+(\d+) responses", text)}
    failed = sum(int(n) for n in re.findall(r"\[(\d+)\]\s+\w+ \"?http", text))
    speed = re.search(r"Requests/sec:\s+([\d.]+)", text)
    quantiles = {q: float(s) * 1000 for q, s in re.findall(r"(\d+)% in ([\d.]+) secs", text)}
    good = codes.get("200", 0)
    figures = {"requests_per_s": float(speed[1]) if speed else 0.0}
    figures |= {f"p{q}_ms": quantiles.get(q, float("nan")) for q in ("50", "95", "99")}
    total = sum(codes.values()) + failed
    figures["requests_per_s"] *= good / total if total else 0.0  # only answers count
    return Load(total, total - good, figures)


def measured(given: argparse.Namespace) -> list[tuple[Side, int, list[Load]]]:
    """Measure every side at every number of clients, in turn, several times."""
    found: dict[tuple[str, int], tuple[Side, int, list[Load]]] = {}
    for number in range(given.rounds):
        for side in sides(given.run, given.bundle):
            with running(side):
                load(side, given.image, 2, ["-n", "20"])  # caches and threads come to life
                for clients in given.clients:
                    one = load(side, given.image, clients, ["-z", f"{given.seconds}s"])
                    _, _, all_of_it = found.setdefault((side.name, clients), (side, clients, []))
                    all_of_it.append(one)
                    speed = one.figures["requests_per_s"]
                    sys.stderr.write(
                        f"round {number + 1} {side.name}, {clients} clients: {speed:.1f}/s, "
                        f"lost {one.lost}\n"
                    )
    return list(found.values())


def memory(given: argparse.Namespace) -> list[tuple[int, float]]:
    """Watch the memory of our service over many requests: requests so far, MiB."""
    side = sides(given.run, given.bundle)[2]
    part = max(1, given.memory // STEPS)
    found = []
    with running(side) as process:
        for step in range(STEPS):
            load(side, given.image, min(8, part), ["-n", str(part)])
            found.append(((step + 1) * part, _resident(process)))
    return found


def _resident(process: int) -> float:
    """Resident memory of a process and its children, in MiB."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(_resident(int(c)) for c in children)


def median(loads: Sequence[Load], figure: str) -> float:
    """The median of the rounds."""
    return statistics.median(one.figures[figure] for one in loads)


def lines(
    found: Sequence[tuple[Side, int, list[Load]]], grown: Sequence[tuple[int, float]]
) -> Iterator[str]:
    """Write the results in Markdown."""
    best: dict[int, float] = {}
    for side, clients, loads in found:
        if "Flask" in side.name:
            speed = median(loads, "requests_per_s")
            best[clients] = max(speed, best.get(clients, 0.0))
    yield f"| {' | '.join(HEADER)} |"
    yield f"|---|{'---:|' * (len(HEADER) - 1)}"
    for side, clients, loads in found:
        speed, *times = (median(loads, figure) for figure in FIGURES)
        lost = sum(one.lost for one in loads)
        shown = " | ".join(f"{value:.1f}" for value in times)
        ratio = f"{speed / best[clients]:.1f}" if best.get(clients) else ""
        yield f"| {side.name} | {clients} | {speed:.1f} | {ratio} | {shown} | {lost} |"
    yield ""
    if grown:
        settled = grown[len(grown) // 5][1]
        yield (
            f"Memory of signlang.serve fp32: {settled:.1f} MiB after {grown[len(grown) // 5][0]:,} "
            f"requests, {grown[-1][1]:.1f} MiB after {grown[-1][0]:,}."
        )
        yield ""
    yield (
        f"Medians of {len(found[0][2])} rounds; {cpu_name()}, {cpu_count()} cores, "
        "which hey shares."
    )


def write(
    out: Path, found: Sequence[tuple[Side, int, list[Load]]], grown: Sequence[tuple[int, float]]
) -> None:
    """Write the tables, and the part of the README between the marks if there is one."""
    rows = [
        (side.name, clients, number, one.requests, one.lost, *(one.figures[f] for f in FIGURES))
        for side, clients, loads in found
        for number, one in enumerate(loads, 1)
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_csv(
        out / "results.csv", ("service", "clients", "round", "requests", "lost", *FIGURES), rows
    )
    write_csv(out / "memory.csv", ("requests", "mib"), grown)
    readme = out / "README.md"
    made = "\n".join(lines(found, grown))
    if not readme.is_file():
        sys.stdout.write(made + "\n")
        return
    write_between(readme, "results", made)


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Measure two ways of serving one network.")
    parser.add_argument("--run", type=Path, required=True, help="of the training, .../fold=K")
    parser.add_argument("--bundle", type=Path, required=True, help="of that run, quantize=true")
    parser.add_argument("--image", type=Path, required=True, help="JPEG or PNG to send")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=10_000, help="requests; 0: do not watch")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    given.run, given.bundle = given.run.resolve(), given.bundle.resolve()
    try:
        if shutil.which("hey") is None:
            raise DataError("The load comes from hey: apt-get install hey.")
        found = measured(given)
        write(given.out, found, memory(given) if given.memory else [])
    except SignlangError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
