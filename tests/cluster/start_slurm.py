"""A SLURM cluster of one node on this machine, with accounting, for tests.

    python tests/cluster/start_slurm.py FOLDER

starts Debian's slurm-wlm, munge, slurmdbd and mariadb-server as root, prints the line that makes
this cluster the one of a shell (`export SLURM_CONF=...`), and ends it with Ctrl-C. All files are in
the folder, so that a SLURM of the machine itself is left alone.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PROGRAMS: Final = (
    "munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun",
    "sacct", "sacctmgr", "sinfo",
)  # fmt: skip
PACKAGES: Final = "slurm-wlm slurmdbd munge mariadb-server"  # of Debian
PATIENCE: Final = 40.0  # seconds in which a daemon must answer
# without a service manager and control groups of its own, as in a container
SLURM: Final = """\
ClusterName=signlang
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={host} Default=YES State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes={host} State=UP PriorityTier=2 PreemptMode=OFF
"""
ACCOUNTING: Final = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""


def reason_against() -> str:
    """Why no cluster can be started here; empty where one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {missing[0]} here: apt install {PACKAGES}"
    return "" if os.geteuid() == 0 else "the daemons of SLURM are started by root only"


@contextmanager
def running_slurm(folder: Path) -> Iterator[Mapping[str, str]]:
    """Start the daemons in a folder, and end them after the block.

    Args:
        folder: New or empty; its path must be short enough for sockets (100 characters).

    Yields:
        The environment variables with which sbatch, sacct and others find the cluster.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state", "spool", "sql"):
        (folder / name).mkdir()
    names = ("ctld_port", "slurmd_port", "dbd_port", "sql_port")
    facts: dict[str, object] = dict(zip(names, _free_ports(len(names)), strict=True))
    facts |= {"folder": folder, "host": socket.gethostname(), "cpus": os.cpu_count()}
    facts["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10 // 2**20
    for file, text in (("slurm.conf", SLURM), ("slurmdbd.conf", ACCOUNTING)):
        (folder / file).write_text(text.format(**facts))
        (folder / file).chmod(0o600)
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    (folder / "slurm.conf").chmod(0o644)
    daemons: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> None:
        with (folder / f"{name}.out").open("wb") as out:
            daemons.append(
                subprocess.Popen(
                    [name, *words], env={**os.environ, **environment}, stdout=out, stderr=out,
                    start_new_session=True,  # Ctrl-C is for this process
                )
            )  # fmt: skip

    def answers(*words: str) -> bool:
        done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True)
        return done.returncode == 0

    try:
        _start_munge(folder, start)
        _start_database(folder, facts["sql_port"], start, answers)
        start("slurmdbd", "-D")
        _wait("slurmdbd", folder, lambda: answers("sacctmgr", "-n", "list", "cluster"))
        answers("sacctmgr", "-i", "add", "cluster", "signlang")
        start("slurmctld", "-D", "-c")
        start("slurmd", "-D", "-N", str(facts["host"]))
        _wait("slurmd", folder, lambda: _is_idle(environment))
        yield environment
    finally:
        if answers("scancel", "--user=root"):  # a test that failed leaves jobs behind
            with suppress(RuntimeError):
                _wait("slurmctld", folder, lambda: _is_idle(environment))
        _end(daemons)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _start_munge(folder: Path, start: Callable[..., None]) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    words = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid",
             "log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}  # fmt: skip
    # the folder of a test may be below one that others can write to
    start("munged", "--foreground", "--force", *(f"--{key}={path}" for key, path in words.items()))
    _wait("munged", folder, (folder / "munge.socket").exists)


def _start_database(
    folder: Path, port: object, start: Callable[..., None], answers: Callable[..., bool]
) -> None:
    data, sock = folder / "sql", folder / "sql.socket"
    shared = ("--no-defaults", f"--datadir={data}")
    subprocess.run(
        ["mariadb-install-db", *shared, "--user=root", "--skip-test-db",
         "--auth-root-authentication-method=socket"], check=True, capture_output=True,
    )  # fmt: skip
    start(
        "mariadbd", *shared, "--user=root", f"--socket={sock}", "--bind-address=127.0.0.1",
        f"--port={port}", "--innodb-buffer-pool-size=64M", f"--pid-file={folder / 'sql.pid'}",
    )  # fmt: skip
    client = ("mariadb", "--no-defaults", f"--socket={sock}", "-e")
    grant = "GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm'"
    _wait("mariadbd", folder, lambda: answers(*client, grant))


def _is_idle(environment: Mapping[str, str]) -> bool:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], env={**os.environ, **environment}, capture_output=True,
        text=True,
    )  # fmt: skip
    return done.stdout.strip() == "idle"


def _wait(name: str, folder: Path, ready: Callable[[], bool]) -> None:
    """Wait until a daemon answers.

    Raises:
        RuntimeError: With the end of what it wrote.
    """
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            files = (folder / f"{name}.out", folder / f"{name}.log")
            texts = [file.read_text(errors="replace")[-2000:] for file in files if file.exists()]
            raise RuntimeError(f"{name} does not answer:\n" + "\n".join(texts))
        time.sleep(0.2)


def _end(daemons: list[subprocess.Popen[bytes]]) -> None:
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def main() -> None:
    """Start a cluster, and wait for Ctrl-C."""
    reason = reason_against()
    if reason:
        sys.exit(reason)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="slurm")).resolve()
    with running_slurm(folder) as environment:
        for name, value in environment.items():
            sys.stdout.write(f"export {name}={value}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
