"""Services that tests start by the public command, and stop."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass
class Service:
    """A service that runs.

    Attributes:
        process: The supervisor.
        log: What it writes to the standard output.
        url: Where it answers.
    """

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    def lines(self) -> list[dict[str, Any]]:
        """The log; a line that is not JSON fails the test."""
        text = self.log.read_text("utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its lines of one kind."""
        return [line for line in self.lines() if line["event"] == name]

    def workers(self) -> list[int]:
        """Process numbers of the workers that ever were ready."""
        return [line["worker"] for line in self.events("ready")]

    def client(self, **settings: Any) -> httpx.Client:
        """A client; close it."""
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **settings)


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Wait until something is the case."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@contextmanager
def service(folder: Path, *words: str, **environment: str) -> Iterator[Service]:
    """Run `python -m signlang.serve` at a free port, in a folder; end it if the block does not."""
    log = folder / "service.log"
    command = [sys.executable, "-m", "signlang.serve", "port=0", *words]
    with log.open("wb") as out, (folder / "service.err").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=err, env={**os.environ, **environment}
        )
    running = Service(process, log)
    try:
        wait_for(lambda: running.events("ready") or process.poll() is not None)
        assert process.poll() is None, (folder / "service.err").read_text("utf-8")
        running.url = running.events("ready")[0]["address"]
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) is not None
