"""Ranks: the processes that train one run together, on this machine or on several.

Rank 0 is the process of the run. It alone reads the data, locks and writes the run folder, and
tests. The others only compute: they get the settings and the images of the run from rank 0, train
along, write nothing, and end with it. Nothing here needs torch, so that they can be started before
it is imported.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final, Self

from signlang import console, system
from signlang.errors import RunError, SettingError

LOOPBACK: Final = "127.0.0.1"
LOST: Final = 75  # exit code of a process that lost the others
LAST_LINES: Final = 12  # of what a process that failed has written


@dataclass(frozen=True)
class Rank:
    """One of the processes that train a run.

    Attributes:
        number: From 0.
        size: How many processes there are.
        local: Number among the processes of its machine, which is that of its GPU.
        node: Number of its machine.
        address: Of the machine of rank 0.
        port: On which rank 0 listens for the others.
        threads: That this process may compute with.
    """

    number: int
    size: int
    local: int
    node: int
    address: str
    port: int
    threads: int


def process_count(trainer: Mapping[str, Any]) -> int:
    """How many processes train a run, by the group `trainer` of its configuration.

    >>> process_count({"devices": 4, "num_nodes": 2}), process_count({})
    (8, 1)
    """
    return int(trainer.get("devices") or 1) * int(trainer.get("num_nodes") or 1)


def started_together(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes `srun` started for this command; 1 without it.

    >>> started_together({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}), started_together({})
    (2, 1)
    """
    return int(environment.get("SLURM_STEP_NUM_TASKS", 1)) if "SLURM_PROCID" in environment else 1


def slurm_rank(trainer: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Rank:
    """The rank that `srun` gave this process.

    Args:
        trainer: The group of the configuration.
        environment: Of the process.

    Raises:
        SettingError: If it started more or fewer processes than the settings name.

    >>> slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    >>> slurm |= {"SLURM_NODEID": "1", "SLURM_JOB_ID": "41", "SLURM_STEP_NODELIST": "n[7-8]"}
    >>> rank = slurm_rank({"devices": 1, "num_nodes": 2}, slurm)
    >>> rank.number, rank.local, rank.node, rank.address, rank.port
    (1, 0, 1, 'n7', 15041)
    """
    started, needed = started_together(environment), process_count(trainer)
    if started != needed:
        nodes = int(trainer.get("num_nodes") or 1)
        raise SettingError(
            f"srun started {started} processes, and trainer.devices={needed // nodes} on "
            f"trainer.num_nodes={nodes} needs {needed}: say srun --ntasks={needed}, or one task "
            "that starts the others itself."
        )
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    slurm = {name: int(environment.get(f"SLURM_{name}", 0)) for name in NUMBERS}
    nodes_text = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    local_count = max(1, started // int(trainer.get("num_nodes") or 1))
    threads = environment.get("SLURM_CPUS_PER_TASK")
    port = 15000 + (slurm["JOB_ID"] + 7 * slurm["STEP_ID"]) % 10000  # steps of a job may meet
    return Rank(
        number=slurm["PROCID"],
        size=started,
        local=slurm["LOCALID"],
        node=slurm["NODEID"],
        address=environment.get("MASTER_ADDR")
        or SLURMEnvironment.resolve_root_node_address(nodes_text),
        port=int(environment.get("MASTER_PORT", port)),
        threads=int(threads) if threads else max(1, system.cpu_count() // local_count),
    )


NUMBERS: Final = ("PROCID", "LOCALID", "NODEID", "JOB_ID", "STEP_ID")


class Peers:
    """The other processes that train the run of this one, which is rank 0; here: none.

    Attributes:
        rank: Of this process; None if it trains alone.
        listener: A socket on which it listens for the others.
        store: Where they meet, if they do already.
    """

    rank: Rank | None = None
    listener: socket.socket | None = None
    store: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave none of them behind."""

    def start(self) -> None:
        """Start them, where that is not done by somebody else."""

    def failure(self, seconds: float = 0.0) -> str | None:
        """Which of them has failed, in sentences; None if none has.

        Args:
            seconds: How long to wait for it, if it is known that one has.
        """
        return None


class LocalPeers(Peers):
    """Processes that this one starts on its own machine.

    Args:
        size: How many processes there are, with this one.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.processes: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def start(self) -> None:
        """Start them; they import torch while this process does."""
        self.listener = socket.create_server((LOOPBACK, 0))  # nobody else can reach it
        port = self.listener.getsockname()[1]
        threads = max(1, _own_threads() // self.size)
        self.rank = Rank(0, self.size, 0, 0, LOOPBACK, port, threads)
        environment = {**os.environ, **dict.fromkeys(system.THREADS, str(threads))}
        for number in range(1, self.size):
            arguments = [json.dumps(sys.path), os.getpid(), number, self.size, port, threads]
            output = tempfile.TemporaryFile()  # noqa: SIM115  # closed with its process
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", CODE, *map(str, arguments)],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,  # Ctrl-C is for this process
            )  # fmt: skip
            self.processes.append((process, output))

    def __exit__(self, *_: object) -> None:
        for process, output in self.processes:
            process.kill()  # it has nothing to leave in order
            process.wait()
            output.close()
        self.processes.clear()
        if self.listener is not None:
            self.listener.close()

    def failure(self, seconds: float = 0.0) -> str | None:
        """Which of them has ended, and what it wrote; of several one that did so by itself."""
        deadline = time.monotonic() + seconds
        while True:
            codes = [process.poll() for process, _ in self.processes]
            failed = [number for number, code in enumerate(codes) if code]
            if failed:
                number = min(failed, key=lambda n: codes[n] == LOST)
                return self._text(number, codes[number])
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)

    def _text(self, number: int, code: int | None) -> str:
        output = self.processes[number][1]
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").strip().splitlines()
        wrote = "".join(f"\n    {line}" for line in lines[-LAST_LINES:])
        return (
            f"Process {number + 2} of the {self.size} that train this run {_exit_text(code)}."
            f"{' It wrote:' * bool(wrote)}{wrote}\nThe same command resumes the run."
        )


def local_peers(trainer: Mapping[str, Any]) -> Peers:
    """The other processes of a run on this machine, by the group `trainer` of its configuration.

    Raises:
        SettingError: If it needs those of other machines, which somebody else starts.
    """
    count, nodes = process_count(trainer), int(trainer.get("num_nodes") or 1)
    if nodes > 1:
        raise SettingError(
            f"trainer.num_nodes={nodes}: SLURM starts the processes of other machines, with "
            f"srun --nodes={nodes} --ntasks={count} python -m signlang.train ...; on this machine "
            "alone leave trainer.num_nodes out."
        )
    return LocalPeers(count) if count > 1 else Peers()


# safe path: a torch.py beside a run folder is not taken for torch
CODE: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from signlang.runs import ranks, training; "
    "ranks.follow_parent(training.follow, *map(int, sys.argv[2:]))"
)


def _own_threads() -> int:
    """Threads of a process that trains alone: as many as cores, fewer in a job of a sweep."""
    configured = os.environ.get(system.THREADS[0], "")
    return int(configured) if configured.isdigit() else system.cpu_count()


def _exit_text(code: int | None) -> str:
    """Say how a process ended.

    >>> _exit_text(-9), _exit_text(3)
    ('was killed by signal SIGKILL, perhaps for want of memory', 'failed with exit code 3')
    """
    return f"failed with exit code {code}" if code is None or code >= 0 else system.killed_by(code)


def follow_parent(
    follow: Callable[[Rank], None], parent: int, number: int, size: int, port: int, threads: int
) -> None:
    """Train along as a rank that `LocalPeers` started: the entry point of such a process.

    Args:
        follow: Trains along.
        parent: Rank 0, with which this process ends.
        number: Of this rank.
        size: How many there are.
        port: On which rank 0 listens.
        threads: That this process may compute with.
    """
    ignore_signals()
    console.mute()
    threading.Thread(target=system.end_with, args=(parent,), daemon=True).start()
    try:
        follow(Rank(number, size, number, 0, LOOPBACK, port, threads))
    except RunError as error:  # another process ended first
        sys.stderr.write(f"{error}\n")
        sys.exit(LOST)


def ignore_signals() -> None:
    """Leave Ctrl-C and SIGTERM, which may reach all processes of a run, to rank 0."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
