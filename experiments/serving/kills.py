"""Kill workers of a service under load: what is lost, and how long does anybody wait?"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import time
from pathlib import Path

from overload import ask, prediction_request, serving, write_rows


def parse() -> argparse.Namespace:
    """What is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True, help="a JPEG")
    parser.add_argument("--precision", default="int8", choices=("fp32", "int8"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--kills", type=int, default=20, help="of each number of workers")
    parser.add_argument("--between", type=float, default=6.0, help="seconds from kill to kill")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("kills.csv"))
    return parser.parse_args()


class Client:
    """Asks again and again; a request that is lost is sent anew over another connection."""

    def __init__(self, port: int, request: bytes) -> None:
        self.port, self.request = port, request
        self.waits: list[tuple[float, float]] = []  # moment of each answer, seconds from first try
        self.refused: list[float] = []  # moments
        self.lost: list[float] = []

    async def run(self, over: asyncio.Event) -> None:
        """Ask until the event."""
        began: float | None = None
        while not over.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                while not over.is_set():
                    began = began or time.monotonic()
                    is_answered, now = await ask(reader, writer, self.request), time.monotonic()
                    if is_answered:
                        self.waits.append((now, now - began))
                        began = None
                    else:
                        self.refused.append(now)
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                self.lost.append(time.monotonic())


def workers_of(service: int) -> list[int]:
    """Process identifiers of the workers of a service."""
    words = subprocess.run(["pgrep", "-P", str(service), "-f", "spawn_main"], check=False,
                           capture_output=True, text=True).stdout  # fmt: skip
    return [int(word) for word in words.split()]


async def measure(
    port: int, service: int, request: bytes, options: argparse.Namespace, workers: int
) -> list[dict[str, float]]:
    """Kill one worker after another; a row for each kill."""
    everybody = [Client(port, request) for _ in range(options.clients)]
    over, chance = asyncio.Event(), random.Random(0)
    tasks = [asyncio.create_task(client.run(over)) for client in everybody]
    await asyncio.sleep(options.between)
    kills = []
    for _ in range(options.kills):
        kills.append(time.monotonic())
        os.kill(chance.choice(workers_of(service)), signal.SIGKILL)
        await asyncio.sleep(options.between + chance.random())
    end = time.monotonic()
    over.set()
    await asyncio.wait(tasks, timeout=10)
    rows = []
    for number, (begin, until) in enumerate(zip(kills, [*kills[1:], end], strict=True)):
        moments = [moment for c in everybody for moment in c.lost + c.refused]
        waits = [wait for c in everybody for moment, wait in c.waits if begin <= moment < until]
        rows.append({
            "workers": workers, "clients": options.clients, "kill": number,
            "answered": len(waits), "lost": sum(begin <= one < until for one in moments),
            "longest_wait_s": round(max(waits, default=until - begin), 3),
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure each number of workers."""
    options = parse()
    request = prediction_request(options.image)
    rows = []
    for workers in options.workers:
        with serving(Path(), options.bundle, options.precision, workers) as (port, service):
            rows += asyncio.run(measure(port, service, request, options, workers))
        mine = [row for row in rows if row["workers"] == workers]
        waits = [row["longest_wait_s"] for row in mine]
        lost = max(row["lost"] for row in mine)
        print(f"{workers} workers, {len(mine)} kills: at most {lost} lost, longest wait "
              f"{statistics.median(waits)} s (median), at most {max(waits)} s")  # fmt: skip
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
