"""Processes of several machines work on the runs of one study, and are killed and suspended.

    python experiments/faults/machines.py --rounds 200

The machines are pretended ones: each process has the name of another machine, and does not see
the kernel's locks of others, as on a file system that does not share them. Nothing is trained: a
run is a few dozen steps that each replace a file. What is tested are the locks of `signlang.locks`
with a short expiry. At each round a machine loses power (all of its processes are killed, and its
name never comes back), a single process is killed, or one is suspended until its lease is over.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock
from PIL import Image

from signlang import files, locks, system
from signlang.data import image_cache
from signlang.data.index import read_index
from signlang.errors import RunError
from signlang.runs.folder import RunFolder

MACHINES: Final = 3
EACH: Final = 2  # processes of a machine
OPEN: Final = 4  # runs that all processes compete for
STEPS: Final = 40
STEP: Final = 0.01  # seconds
LATE: Final = 1.5  # seconds beyond the expiry until a process must know whether it has a run


@dataclass
class Log:
    """What a process does, line by line; a line is written before and after each step."""

    file: Path

    def write(self, what: str, run: str) -> None:
        """Add a line."""
        with self.file.open("a") as stream:
            stream.write(json.dumps([what, run, time.monotonic()]) + "\n")


def work(place: Path, machine: str, expiry: float, seed: int) -> None:
    """Work on runs until there are enough: what a process of a machine does."""
    pretend(machine, expiry)
    log, rng = Log(place / "log" / f"{machine}.{os.getpid()}"), random.Random(seed)
    cached(place, log)
    while not (place / "enough").exists():
        unfinished = (n for n in count() if not (place / f"run{n}" / "metrics.json").exists())
        names = [f"run{next(unfinished)}" for _ in range(OPEN)]
        name = rng.choice(names)
        log.write("want", name)
        try:
            train(RunFolder(place / name), name, log)
        except RunError as error:
            what = "lost" if "taken over" in str(error) else "refused"
            log.write(what, name)
            time.sleep(STEP)


def train(folder: RunFolder, name: str, log: Log) -> None:
    """Do the steps of a run that is not finished."""
    with folder.locked():
        if folder.metrics() is not None:
            return
        log.write("begin", name)
        for step in range(STEPS):
            system.check_stop()
            time.sleep(STEP)
            with files.atomic_write(folder.path / "step") as temporary:
                temporary.write_text(str(step))
            log.write("step", name)
        folder.finish({"steps": STEPS})
        log.write("end", name)


def cached(place: Path, log: Log) -> None:
    """Read a few images, decoded once for all."""
    build = image_cache._build

    def logged(*arguments: Any) -> None:
        log.write("begin", "cache")
        build(*arguments)
        log.write("end", "cache")

    image_cache._build = logged  # type: ignore[assignment]
    index = read_index(place / "images", cache_dir=str(place / "cache"))
    image_cache.decode_images(index, 8, str(place / "cache"))


def pretend(machine: str, expiry: float) -> None:
    """Be another machine, with locks of the kernel of its own."""
    socket.gethostname = locks.kernel_id = lambda: machine
    locks.FileLock = lambda file, **more: FileLock(f"{file}-{machine}", **more)  # type: ignore
    locks.EXPIRY, locks.HEARTBEAT = expiry, expiry / 6  # type: ignore[misc]
    locks.POLL, locks.GRACE = 0.02, 0.1  # type: ignore[misc]


@dataclass
class Campaign:
    """The processes of all machines, and what was done to them."""

    place: Path
    expiry: float
    rng: random.Random
    numbers: Iterator[int] = field(default_factory=count)
    running: dict[int, str] = field(default_factory=dict)  # machine of each process
    suspended: dict[int, float] = field(default_factory=dict)  # until when
    slept: set[int] = field(default_factory=set)  # those that were suspended

    def start(self, machine: str) -> None:
        """Start a process of a machine."""
        seed = self.rng.random()
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                work(self.place, machine, self.expiry, int(seed * 2**32))
            finally:
                sys.stderr.flush()
                os._exit(0)
        self.running[child] = machine

    def new_machine(self) -> None:
        """Start the processes of a machine that was not there before."""
        machine = f"machine{next(self.numbers)}"
        for _ in range(EACH):
            self.start(machine)

    def kill(self, process: int) -> str:
        """End a process by SIGKILL, and return its machine."""
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        self.suspended.pop(process, None)
        return self.running.pop(process)

    def round(self) -> str:
        """Let something happen to one machine, and have as many processes as before."""
        process = self.rng.choice(list(self.running))
        what = self.rng.choice(["power", "power", "kill", "kill", "suspend"])
        if what == "power":
            machine = self.running[process]
            for one in [p for p, name in self.running.items() if name == machine]:
                self.kill(one)
            self.new_machine()
        elif what == "kill":
            self.start(self.kill(process))
        elif process not in self.suspended:
            os.kill(process, signal.SIGSTOP)
            self.slept.add(process)
            self.suspended[process] = time.monotonic() + self.rng.uniform(0.5, 2) * self.expiry
        return what

    def wait(self, seconds: float) -> None:
        """Wait, and wake up those whose time has come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for process, until in list(self.suspended.items()):
                if time.monotonic() > until:
                    del self.suspended[process]
                    os.kill(process, signal.SIGCONT)
            time.sleep(0.02)

    def finish(self) -> None:
        """Let what was begun end."""
        self.wait(4 * self.expiry)
        (self.place / "enough").touch()
        self.wait(2 * self.expiry + STEPS * STEP * 4)
        for process in list(self.running):
            with suppress(ChildProcessError):
                done, _ = os.waitpid(process, os.WNOHANG)
                if not done:
                    self.kill(process)
                    raise AssertionError(f"process {process} hangs")


@dataclass(frozen=True)
class Stretch:
    """A run in the hands of one process, from its begin to the last that it did to it.

    Attributes:
        how: It went: `end`, `lost` (it was suspended too long) or `killed`.
    """

    process: int
    begin: float
    end: float
    how: str


def events(place: Path) -> Iterator[tuple[int, list[tuple[str, str, float]]]]:
    """Each process, and what it did: kind, run and time."""
    for file in sorted((place / "log").iterdir()):
        lines = file.read_text().splitlines()
        yield int(file.suffix[1:]), [(what, run, at) for what, run, at in map(json.loads, lines)]


def stretches(place: Path) -> dict[str, list[Stretch]]:
    """By run, in the order in which they began."""
    found: dict[str, list[Stretch]] = {}
    for process, done in events(place):
        begun: dict[str, tuple[float, float]] = {}
        for what, run, moment in done:
            if what == "begin":
                begun[run] = moment, moment
            elif what == "step":
                begun[run] = begun[run][0], moment
            elif what in {"end", "lost"} and run in begun:
                begin, last = begun.pop(run)
                end = moment if what == "end" else last
                found.setdefault(run, []).append(Stretch(process, begin, end, what))
        for run, (begin, last) in begun.items():
            found.setdefault(run, []).append(Stretch(process, begin, last, "killed"))
    return {run: sorted(some, key=lambda s: s.begin) for run, some in found.items()}


def waits(place: Path, slept: set[int]) -> list[float]:
    """How long each process that was not suspended waited to have a run, or to be refused it."""
    return [
        after[2] - before[2]
        for process, done in events(place)
        if process not in slept
        for before, after in pairwise(done)
        if before[0] == "want"
    ]


def verdict(campaign: Campaign) -> dict[str, Any]:
    """Whether no run was in two hands, each was finished once, and none was stuck."""
    found = stretches(campaign.place)
    each = [stretch for some in found.values() for stretch in some]
    ends = {run: sum(s.how == "end" for s in some) for run, some in found.items()}
    twice = [
        (first, second)
        for some in found.values()
        for first, second in pairwise(some)
        if second.begin < first.end
    ]
    waited = waits(campaign.place, campaign.slept)
    return {
        "runs finished": sum(number == 1 for run, number in ends.items() if run != "cache"),
        "runs finished twice": sum(number > 1 for number in ends.values()),
        "runs left unfinished": sum(number == 0 for number in ends.values()),
        "killed with a run": sum(s.how == "killed" for s in each),
        "stopped with a run that was taken over": sum(s.how == "lost" for s in each),
        "in two hands": len(twice),
        "longest wait, seconds": round(max(waited), 2),
        "stuck": sum(wait > campaign.expiry + LATE for wait in waited),
        "cache built": ends.get("cache", 0),
    }


def campaign(place: Path, rounds: int, expiry: float, seed: int) -> dict[str, Any]:
    """Run all rounds, and return the verdict."""
    (place / "log").mkdir(parents=True)
    write_images(place / "images")
    one = Campaign(place, expiry, random.Random(seed))
    kinds: dict[str, int] = {}
    with ended_at_last(one):
        for _ in range(MACHINES):
            one.new_machine()
        for _ in range(rounds):
            one.wait(one.rng.uniform(0.0, expiry))
            kind = one.round()
            kinds[kind] = kinds.get(kind, 0) + 1
        one.finish()
    return {"rounds": rounds, **dict(sorted(kinds.items())), **verdict(one)}


@contextmanager
def ended_at_last(one: Campaign) -> Iterator[None]:
    """Leave no process behind, whatever happens."""
    try:
        yield
    finally:
        for process in list(one.running):
            with suppress(ProcessLookupError, ChildProcessError):
                one.kill(process)


def write_images(folder: Path) -> None:
    """Enough of them for a process to be killed while it decodes them."""
    rng = np.random.default_rng(0)
    for label in "AB":
        (folder / label).mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--expiry", type=float, default=2.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path, required=True, help="an empty folder")
    words = parser.parse_args()
    result = campaign(words.place, words.rounds, words.expiry, words.seed)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    wrong = ("runs finished twice", "runs left unfinished", "in two hands", "stuck")
    sys.exit(any(result[key] for key in wrong) or result["cache built"] != 1)


if __name__ == "__main__":
    main()
