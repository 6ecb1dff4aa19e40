"""Ask a service for more than it can compute, by clients that try again at once."""

import argparse
import asyncio
import csv
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CLIENTS = (32, 256, 1000)
CODE = re.compile(rb"HTTP/1\.1 (\d{3})")
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def parse() -> argparse.Namespace:
    """What is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True, help="a JPEG")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"))
    parser.add_argument(
        "--versions", nargs="+", default=["now=."], metavar="NAME=CHECKOUT",
        help="checkouts of signlang to measure in turn",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("overload.csv"))
    return parser.parse_args()


@contextmanager
def serving(
    checkout: Path, bundle: Path, precision: str, workers: int = 1
) -> Iterator[tuple[int, int]]:
    """Run a service with the code of a checkout; yields its port and its process."""
    words = [f"bundle={bundle.resolve()}", f"precision={precision}", f"workers={workers}", "port=0"]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    with subprocess.Popen(
        [sys.executable, "-m", "signlang.serve", *words], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                port = int(found[1])
                break
        reader = multiprocessing.Process(target=_drain, args=(process.stdout.fileno(),))
        reader.start()  # a full pipe would stop the service
        try:
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()
            reader.terminate()


def prediction_request(image: Path) -> bytes:
    """A whole request that sends a JPEG."""
    data = image.read_bytes()
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def write_rows(out: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a table, and say on what machine it was measured."""
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(platform.processor() or platform.machine(), os.cpu_count(), "cores")


def _drain(file: int) -> None:
    while os.read(file, 1 << 16):
        pass


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    """Send a request over a connection and read the answer; whether it was 200."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    code, length = CODE.match(head), LENGTH.search(head)
    assert code
    assert length
    await reader.readexactly(int(length[1]))
    return code[1] == b"200"


class Client:
    """Asks again at once, whatever it is answered; opens a new connection where one is closed."""

    def __init__(self, port: int, request: bytes) -> None:
        self.port, self.request = port, request
        self.answered: list[float] = []  # seconds of each 200
        self.refused = self.dropped = 0

    async def run(self, until: float) -> None:
        """Ask until a moment."""
        while time.monotonic() < until:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                while time.monotonic() < until:
                    started = time.monotonic()
                    if await ask(reader, writer, self.request):
                        self.answered.append(time.monotonic() - started)
                    else:
                        self.refused += 1
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                self.dropped += 1


async def load(port: int, request: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Ask with many clients for some seconds; rates and latencies."""
    everybody = [Client(port, request) for _ in range(clients)]
    until = time.monotonic() + seconds
    await asyncio.gather(*(client.run(until) for client in everybody))
    times = sorted(time for client in everybody for time in client.answered)
    return {
        "answered_per_s": round(len(times) / seconds, 1),
        "refused_per_s": round(sum(c.refused for c in everybody) / seconds, 1),
        "dropped_per_s": round(sum(c.dropped for c in everybody) / seconds, 1),
        "p50_ms": round(1000 * times[len(times) // 2], 1) if times else 0.0,
        "p99_ms": round(1000 * times[int(len(times) * 0.99)], 1) if times else 0.0,
    }


def main() -> None:
    """Measure each version in turn."""
    options = parse()
    request = prediction_request(options.image)
    rows = []
    for number in range(options.rounds):
        for version in options.versions:
            name, _, checkout = version.partition("=")
            with serving(Path(checkout), options.bundle, options.precision) as (port, _):
                asyncio.run(load(port, request, 8, 2.0))
                for clients in CLIENTS:
                    result = asyncio.run(load(port, request, clients, options.seconds))
                    rows.append({
                        "version": name, "precision": options.precision, "round": number,
                        "clients": clients, **result,
                    })  # fmt: skip
                    print(rows[-1], flush=True)
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
