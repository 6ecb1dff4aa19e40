"""Load test of one network behind plain Flask and behind signlang.serve.

    python experiments/serving/bench.py --run RUN --bundle BUNDLE --image IMAGE

Both services get the same requests from `hey` (Debian package `hey`), in turn, on the same machine.
It writes `results.csv`, `memory.csv` and the section of `README.md` between the markers.
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
METRICS: Final = ("requests_per_s", "p50_ms", "p95_ms", "p99_ms")
HEADER: Final = (
    "service", "clients", "requests/s", "times the better Flask", "p50 ms", "p95 ms", "p99 ms",
    "lost",
)  # fmt: skip
STEPS: Final = 10  # memory measurements


@dataclass(frozen=True)
class Service:
    """A service under test.

    Attributes:
        name: Name in the table.
        command: Command that starts it.
        path: Path of its predictions.
    """

    name: str
    command: Sequence[str]
    path: str


@dataclass(frozen=True)
class LoadResult:
    """Result of one load test."""

    requests: int
    lost: int
    metrics: Mapping[str, float]


def services(run: Path, bundle: Path) -> list[Service]:
    """Both services: the plain one with one and with all threads, ours with both precisions."""
    plain = [sys.executable, str(HERE / "plain_flask.py"), "--run", str(run), "--port", str(PORT)]
    ours = [sys.executable, "-m", "signlang.serve", f"bundle={bundle}", f"port={PORT}"]
    return [
        Service("Flask and torch", plain, "/predict"),
        Service("Flask and torch, 1 thread an image", [*plain, "--threads", "1"], "/predict"),
        Service("signlang.serve fp32", [*ours, "precision=fp32"], "/v1/predict"),
        Service("signlang.serve int8", [*ours, "precision=int8"], "/v1/predict"),
    ]


@contextmanager
def running(service: Service) -> Iterator[int]:
    """Run a service and yield its process id; its output is discarded."""
    process = subprocess.Popen(
        service.command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=HERE.parent.parent,
    )
    try:
        until = time.monotonic() + 120
        while not _is_ready():
            if process.poll() is not None or time.monotonic() > until:
                raise DataError(f"{service.name} did not start: run {' '.join(service.command)}")
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


def load(service: Service, image: Path, clients: int, amount: Sequence[str]) -> LoadResult:
    """Send requests with `hey`; `amount` is `-n NUMBER` or `-z 10s`."""
    kind = "image/png" if image.suffix == ".png" else "image/jpeg"
    address = f"http://127.0.0.1:{PORT}{service.path}"
    command = ["hey", *amount, "-c", str(clients), "-m", "POST", "-T", kind, "-D", str(image)]
    text = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout
    return parsed(text)


def parsed(text: str) -> LoadResult:
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
    metrics = {"requests_per_s": float(speed[1]) if speed else 0.0}
    metrics |= {f"p{q}_ms": quantiles.get(q, float("nan")) for q in ("50", "95", "99")}
    total = sum(codes.values()) + failed
    metrics["requests_per_s"] *= good / total if total else 0.0  # only successful responses count
    return LoadResult(total, total - good, metrics)


def measure(arguments: argparse.Namespace) -> list[tuple[Service, int, list[LoadResult]]]:
    """Measure every service at every number of clients, in turn, several times."""
    results: dict[tuple[str, int], tuple[Service, int, list[LoadResult]]] = {}
    for number in range(arguments.rounds):
        for service in services(arguments.run, arguments.bundle):
            with running(service):
                load(service, arguments.image, 2, ["-n", "20"])  # warm-up
                for clients in arguments.clients:
                    one = load(service, arguments.image, clients, ["-z", f"{arguments.seconds}s"])
                    _, _, loads = results.setdefault(
                        (service.name, clients), (service, clients, [])
                    )
                    loads.append(one)
                    speed = one.metrics["requests_per_s"]
                    sys.stderr.write(
                        f"round {number + 1} {service.name}, {clients} clients: {speed:.1f}/s, "
                        f"lost {one.lost}\n"
                    )
    return list(results.values())


def memory(arguments: argparse.Namespace) -> list[tuple[int, float]]:
    """Memory of our service over many requests: number of requests and MiB."""
    service = services(arguments.run, arguments.bundle)[2]
    batch = max(1, arguments.memory // STEPS)
    results = []
    with running(service) as process:
        for step in range(STEPS):
            load(service, arguments.image, min(8, batch), ["-n", str(batch)])
            results.append(((step + 1) * batch, _resident(process)))
    return results


def _resident(process: int) -> float:
    """Resident memory of a process and its children, in MiB."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(_resident(int(c)) for c in children)


def median(loads: Sequence[LoadResult], metric: str) -> float:
    """The median of the rounds."""
    return statistics.median(one.metrics[metric] for one in loads)


def lines(
    results: Sequence[tuple[Service, int, list[LoadResult]]], growth: Sequence[tuple[int, float]]
) -> Iterator[str]:
    """Write the results in Markdown."""
    best: dict[int, float] = {}
    for service, clients, loads in results:
        if "Flask" in service.name:
            speed = median(loads, "requests_per_s")
            best[clients] = max(speed, best.get(clients, 0.0))
    yield f"| {' | '.join(HEADER)} |"
    yield f"|---|{'---:|' * (len(HEADER) - 1)}"
    for service, clients, loads in results:
        speed, *times = (median(loads, metric) for metric in METRICS)
        lost = sum(one.lost for one in loads)
        latencies = " | ".join(f"{value:.1f}" for value in times)
        ratio = f"{speed / best[clients]:.1f}" if best.get(clients) else ""
        yield f"| {service.name} | {clients} | {speed:.1f} | {ratio} | {latencies} | {lost} |"
    yield ""
    if growth:
        settled = growth[len(growth) // 5][1]
        yield (
            f"Memory of signlang.serve fp32: {settled:.1f} MiB after "
            f"{growth[len(growth) // 5][0]:,} requests, {growth[-1][1]:.1f} MiB after "
            f"{growth[-1][0]:,}."
        )
        yield ""
    yield (
        f"Medians of {len(results[0][2])} rounds; {cpu_name()}, {cpu_count()} cores, "
        "which hey shares."
    )


def write(
    out: Path,
    results: Sequence[tuple[Service, int, list[LoadResult]]],
    growth: Sequence[tuple[int, float]],
) -> None:
    """Write the tables, and the section of the README between the markers if there is one."""
    rows = [
        (service.name, clients, number, one.requests, one.lost, *(one.metrics[f] for f in METRICS))
        for service, clients, loads in results
        for number, one in enumerate(loads, 1)
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_csv(
        out / "results.csv", ("service", "clients", "round", "requests", "lost", *METRICS), rows
    )
    write_csv(out / "memory.csv", ("requests", "mib"), growth)
    readme = out / "README.md"
    text = "\n".join(lines(results, growth))
    if not readme.is_file():
        sys.stdout.write(text + "\n")
        return
    write_between(readme, "results", text)


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Measure two services of one network.")
    parser.add_argument("--run", type=Path, required=True, help="of the training, .../fold=K")
    parser.add_argument("--bundle", type=Path, required=True, help="of that run, quantize=true")
    parser.add_argument("--image", type=Path, required=True, help="JPEG or PNG to send")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--memory", type=int, default=10_000, help="requests; 0: do not measure memory"
    )
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    arguments.run, arguments.bundle = arguments.run.resolve(), arguments.bundle.resolve()
    try:
        if shutil.which("hey") is None:
            raise DataError("The load comes from hey: apt-get install hey.")
        results = measure(arguments)
        write(arguments.out, results, memory(arguments) if arguments.memory else [])
    except SignlangError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
