"""The process group of a run: its ranks connect, share settings and gradients, and leave."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, Self

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector
from torch import distributed
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from signlang.components import takes
from signlang.errors import RunError, SignlangError
from signlang.runs.ranks import LOOPBACK, Peers, Rank
from signlang.system import check_stop

START: Final = "start"  # keys of the store: what rank 0 sets,
END: Final = "end"
HERE: Final = "here"  # and what each of the others sets
LEFT: Final = "left"
# its name in torch 2.15, and before
FORWARD_SYNC: Final = (
    "forward_sync_buffers"
    if takes(DistributedDataParallel, "forward_sync_buffers")
    else "broadcast_buffers"
)
OFTEN: Final = 0.1  # seconds between two looks
STARTED_WITHIN: Final = 600.0  # seconds until all ranks have imported torch
SEEN_WITHIN: Final = 10.0  # seconds until a process that failed has ended
LEFT_WITHIN: Final = 60.0  # seconds until the others have left a finished training
READ_WITHIN: Final = 10.0  # seconds until the others have read that there is nothing to train


class RankEnvironment(ClusterEnvironment):
    """The ranks of a run for Lightning, which starts no process."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self.rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        """All of them are there."""
        return True

    @property
    def main_address(self) -> str:
        """Of the machine of rank 0."""
        return self.rank.address

    @property
    def main_port(self) -> int:
        """On which rank 0 listens."""
        return self.rank.port

    @staticmethod
    def detect() -> bool:
        """Lightning never detects it: the rank is passed to the constructor."""
        return False

    def world_size(self) -> int:
        """How many processes there are."""
        return self.rank.size

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """Number of this process."""
        return self.rank.number

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """Number of this process on its machine."""
        return self.rank.local

    def node_rank(self) -> int:
        """Number of the machine."""
        return self.rank.node


class LeftSignals(_SignalConnector):
    """Leaves signals to the command: at SIGTERM Lightning waits for all ranks, in a handler."""

    def register_signal_handlers(self) -> None:
        """Register none."""


class RankStrategy(DDPStrategy):
    """Lightning's DDP for processes that have met already.

    Ranks may validate different numbers of batches, so that no image counts twice: the statistics
    of batch normalization are therefore not sent at each forward pass, but averaged before each
    validation and checkpoint, which then hold what all ranks have seen.

    Args:
        find_unused_parameters: Whether the network may leave parameters out.
    """

    def __init__(self, *, find_unused_parameters: bool = False) -> None:
        options: Any = {FORWARD_SYNC: False}
        super().__init__(
            **options,
            find_unused_parameters=find_unused_parameters,
        )

    def _configure_launcher(self) -> None:
        """Start no process."""

    def on_validation_start(self) -> None:
        """Validate with the same statistics in all ranks."""
        self._average_statistics()
        super().on_validation_start()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; all ranks ask for it."""
        self._average_statistics()
        return super().lightning_module_state_dict()

    def _average_statistics(self) -> None:
        if not isinstance(self.model, DistributedDataParallel):
            return
        for layer in self.model.modules():
            if isinstance(layer, _NormBase) and layer.running_mean is not None:
                for values in (layer.running_mean, layer.running_var):
                    assert values is not None
                    distributed.all_reduce(values)
                    values /= distributed.get_world_size()


def open_store(rank: Rank, listener: socket.socket | None = None) -> TCPStore:
    """Let ranks meet: rank 0 listens, the others connect to it.

    Args:
        rank: Of this process.
        listener: A socket that listens already; the store closes it.

    Raises:
        RunError: If rank 0 is not there.
    """
    first = rank.number == 0
    options: dict[str, Any] = {}
    if listener is not None:
        options["master_listen_fd"] = listener.detach()
    try:
        return TCPStore(
            rank.address, rank.port, is_master=first, wait_for_workers=False,
            timeout=timedelta(seconds=STARTED_WITHIN), **options,
        )  # fmt: skip
    except RuntimeError as error:
        what = "cannot listen on" if first else "does not find rank 0 at"
        raise RunError(
            f"Rank {rank.number} of {rank.size} {what} {rank.address}:{rank.port}: {error}"
        ) from error


class SlurmPeers(Peers):
    """Processes that `srun` started at the same time as this one, each with the same command."""

    def __init__(self, rank: Rank) -> None:
        self.rank: Rank = rank

    def __enter__(self) -> Self:
        if self.rank.number == 0:  # from now on the others see it if this process ends
            self.store = open_store(self.rank)
        return self

    def __exit__(self, *_: object) -> None:
        """Signal those that still wait that there is nothing to train, and let them read it."""
        if self.store is None:
            return
        with suppress(RuntimeError):  # one that has ended
            if not self.store.check([START]):
                self.store.set(END, "")
                wait_until_left(self.store, self.rank, READ_WITHIN)
        self.store = None

    def failure(self, seconds: float = 0.0) -> str | None:
        """Nobody but its own output knows more of a process on another machine."""
        if not seconds:
            return None
        return (
            f"Another of the {self.rank.size} processes of this run has ended. Its own output says "
            "why (srun --label names each). The same command resumes the run."
        )


def wait_for_all(store: TCPStore, rank: Rank, peers: Peers) -> None:
    """Wait until all ranks have come.

    Raises:
        RunError: If one has ended, or does not come.
    """
    deadline = time.monotonic() + STARTED_WITHIN
    while not store.check(_keys(HERE, rank)):
        check_stop()
        if (failure := peers.failure()) is not None:
            raise RunError(failure)
        if time.monotonic() > deadline:
            raise RunError(f"Not all of the {rank.size} processes of this run have started.")
        time.sleep(OFTEN)


def wait_until_left(store: TCPStore, rank: Rank, seconds: float) -> None:
    """Wait until all other ranks have left, but no longer than so many seconds."""
    deadline = time.monotonic() + seconds
    while not store.check(_keys(LEFT, rank)) and time.monotonic() < deadline:
        time.sleep(OFTEN)


def _keys(what: str, rank: Rank) -> list[str]:
    return [f"{what}/{number}" for number in range(1, rank.size)]


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is what the ranks that are left get when another one ends."""
    # gloo has no error of its own
    names_backend = any(name in str(error) for name in ("gloo", "NCCL"))
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and names_backend)


@contextmanager
def shared_training(peers: Peers, work: Any, *, on_gpu: bool) -> Iterator[None]:
    """Train with the other ranks as long as the block runs; without any, simply run it.

    Args:
        peers: Of this process, which is rank 0; they are started.
        work: Sent to them, by pickle.
        on_gpu: Whether each rank has a GPU.

    Raises:
        RunError: If one of them has ended.
    """
    rank = peers.rank
    if rank is None:
        yield
        return
    threads = torch.get_num_threads()
    try:
        store = peers.store or open_store(rank, peers.listener)
        wait_for_all(store, rank, peers)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        store.set(START, backend)
        _join(store, rank, backend)
        distributed.broadcast_object_list([work], device=torch.device("cpu"))
        yield
        wait_until_left(store, rank, LEFT_WITHIN)
    except SignlangError:
        raise
    except Exception as error:
        failure = peers.failure(SEEN_WITHIN if is_lost_connection(error) else 0.0)
        if failure is None:
            raise
        raise RunError(failure) from error
    finally:
        torch.set_num_threads(threads)
        _leave()


@contextmanager
def joined_training(rank: Rank) -> Iterator[Any]:
    """Join rank 0, and yield the work that it shares; None if there is none.

    Raises:
        RunError: If rank 0, or another one, has ended.
    """
    try:
        store = open_store(rank)
        store.set(f"{HERE}/{rank.number}", "")
        while not store.check([START]):
            if store.check([END]):
                store.set(f"{LEFT}/{rank.number}", "")
                yield None
                return
            time.sleep(OFTEN)
        _join(store, rank, store.get(START).decode())
        received = [None]
        distributed.broadcast_object_list(received, device=torch.device("cpu"))
        yield received[0]
        store.set(f"{LEFT}/{rank.number}", "")
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise RunError(
            f"Rank {rank.number} of {rank.size} lost the others, which say why: {error}"
        ) from error
    finally:
        _leave()


def _join(store: TCPStore, rank: Rank, backend: str) -> None:
    torch.set_num_threads(rank.threads)
    local = rank.address == LOOPBACK and sys.platform.startswith("linux")
    variables = {INTERFACE: "lo"} if local else {}  # the name of the machine may mean nothing to it
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        distributed.init_process_group(backend, store=store, rank=rank.number, world_size=rank.size)
    finally:
        for name, value in previous.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


INTERFACE: Final = "GLOO_SOCKET_IFNAME"


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
