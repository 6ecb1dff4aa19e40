"""This machine (cores, GPU, precision, git commit), and the signals that end work."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from signlang import end_process
from signlang.errors import Interrupted, SettingError

ARITHMETIC: Final = {  # flags of a processor that decide its results and speed, the best first
    "amx_bf16": "AMX bf16", "avx512_bf16": "AVX-512 bf16", "bf16": "bf16", "avx512f": "AVX-512",
    "avx2": "AVX2",
}  # fmt: skip
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                  "OPENCV_FOR_THREADS_NUM")  # fmt: skip  # read when torch is imported
GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, Windows' (WSL)


def cpu_count() -> int:
    """Number of CPU cores that this process may use; in a job of SLURM those of its task."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    # not every cluster binds its tasks to cores
    slurm_count = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(count, int(slurm_count)) if slurm_count.isdigit() and int(slurm_count) else count


def check_shared_memory(processes: int) -> None:
    """Refuse processes of a loader where the shared memory has no place for their locks.

    torch would fail in the middle of starting them, and Lightning by what follows from that.

    Raises:
        SettingError: If `/dev/shm` is full.
    """
    import multiprocessing  # which most commands do without

    try:  # a queue to and from each, of four locks at most; each takes a page
        _ = [multiprocessing.Lock() for _ in range(4 * (processes + 1))] if processes else []
    except OSError as error:
        raise SettingError(
            f"workers={processes} need shared memory, and there is none left ({error.strerror}): "
            "free some of /dev/shm, in a container give it more (--shm-size), or set workers=0."
        ) from None


def child_environment() -> dict[str, str]:
    """Environment in which another Python finds the modules that this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def check_accelerator(accelerator: str) -> None:
    """Refuse a GPU that cannot be there, without importing torch to ask for it.

    Raises:
        SettingError: If one is demanded, and the kernel knows none.
    """
    if accelerator not in {"gpu", "cuda"} or not sys.platform.startswith("linux"):
        return
    if not any(map(os.path.exists, GPU_DEVICES)):
        raise SettingError(
            f"trainer.accelerator={accelerator}: this machine shows no GPU (none of "
            f"{', '.join(GPU_DEVICES)} is there). Leave it out, or set trainer.accelerator=cpu."
        )


def choose_precision(precision: str, accelerator: str) -> str:
    """Resolve `auto` to one of Lightning's precisions; pass anything else through.

    bfloat16 where the device multiplies matrices of it in hardware (a GPU, AMX, ARM's bf16), else
    float32. Elsewhere it costs accuracy and time, with AVX-512's dot products of bfloat16 too:
    `experiments/speed/precision.py` compares both.

    Args:
        precision: `auto`, or a precision of Lightning, e.g. `32-true`.
        accelerator: Lightning's name of the device: `auto`, `cpu`, `gpu`, ...
    """
    if precision != "auto":
        return precision
    import torch

    if trains_on_gpu(accelerator):
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        supported = any(capabilities.get(name, False) for name in ("amx_bf16", "bf16"))
    return "bf16-mixed" if supported else "32-true"


def trains_on_gpu(accelerator: str) -> bool:
    """Whether that accelerator of Lightning's is a GPU of this machine."""
    import torch

    return accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()


def processor(accelerator: str) -> str:
    """Kind of the device that trains: GPU, or processor with its widest kind of arithmetic."""
    if trains_on_gpu(accelerator):
        import torch

        return str(torch.cuda.get_device_name())
    flags = {*_cpu_facts("flags").split(), *_cpu_facts("Features").split()}
    return ", ".join(
        [cpu_name(), *[text for flag, text in ARITHMETIC.items() if flag in flags][:1]]
    )


def cpu_name() -> str:
    """Name of the processor: its model name if the system has it, else its architecture."""
    return _cpu_facts("model name") or platform.processor() or platform.machine()


def _cpu_facts(name: str) -> str:
    """What Linux says of the first core by that name; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    facts = [line.partition(":") for line in lines]
    return next((value.strip() for key, _, value in facts if key.strip() == name), "")


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Commit of the checkout of this code, with `+changes` if it was edited; None without one."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # a wheel may lie inside another checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def device() -> str:
    """Names of the processor and, if torch finds one, of the GPU."""
    import torch

    threads = torch.get_num_threads()
    text = f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    return f"{torch.cuda.get_device_name()} ({text})" if torch.cuda.is_available() else text


def killed_by(code: int) -> str:
    """Say what killed a process.

    Args:
        code: Its exit code as Python has it, negative.

    >>> killed_by(-9)
    'was killed by signal SIGKILL, perhaps for want of memory'
    """
    memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    return f"was killed by signal {signal.Signals(-code).name}{memory}"


def end_with(parent: int) -> None:
    """End this process soon after its parent, however that ended: its work is not needed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


class StopRequested(BaseException):
    """Ctrl-C or SIGTERM, raised between two batches by `check_stop`.

    It is no KeyboardInterrupt: at one, Lightning ignores further signals and ends the process.
    """


@dataclass
class _Signals:
    """How this process handles Ctrl-C and SIGTERM.

    Attributes:
        command: The process is a command, which a signal may end; a notebook stays.
        silent: Nothing is printed: it is a worker of a sweep.
        process: The process that notes signals; one that it forks for batches must not.
        noted: The signal that has arrived; 0 for none.
        at_once: Signals end the process although they are noted elsewhere.
        before_end: Called before a signal ends the process.
    """

    command: bool = False
    silent: bool = False
    process: int = 0
    noted: int = 0
    at_once: bool = False
    before_end: Callable[[], None] | None = None


_signals: Final = _Signals()
DEFAULTS: Final[Mapping[signal.Signals, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
STOPPING: Final = b"Stopping after this batch; once more ends at once.\n"


def _note(number: int, _: object) -> None:
    """Remember a signal: an exception could get lost in C, or leave a lock of a thread locked."""
    if os.getpid() != _signals.process:
        return
    if _signals.noted or _signals.at_once:
        _end(number, _)
    _signals.noted = number
    if not _signals.silent:
        os.write(2, b"\r\x1b[2K" * os.isatty(2) + STOPPING)  # a progress bar may be in this line


def _end(number: int, _: object) -> None:
    if not _signals.command:
        raise KeyboardInterrupt
    if _signals.before_end is not None:
        _signals.before_end()
    if _signals.silent:
        os._exit(128 + number)
    end_process(number)


def _handle(handler: Callable[[int, Any], None] | None) -> None:
    """Replace the handlers that are Python's or ours; None restores Python's.

    A signal that is ignored stays so, and SIGTERM outside of a command is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number, default in DEFAULTS.items():
        if number == signal.SIGTERM and not _signals.command:
            continue
        if signal.getsignal(number) in (default, end_process, _end, _note):
            signal.signal(number, handler or default)


def end_at_signals(*, silent: bool = False, before_end: Callable[[], None] | None = None) -> None:
    """Let Ctrl-C and SIGTERM end this command at once, without a trace: nothing is at stake.

    Args:
        silent: Print nothing: this is a worker of a sweep.
        before_end: Called first.
    """
    _signals.command, _signals.silent, _signals.before_end = True, silent, before_end
    _handle(_end)


def restore_signals() -> None:
    """Restore Python's handlers: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process."""
    _handle(None)


@contextmanager
def stopping_between_batches() -> Iterator[None]:
    """Note the first Ctrl-C or SIGTERM, which `check_stop` then raises; the second ends at once.

    Outside of a command the second Ctrl-C raises KeyboardInterrupt, and SIGTERM is left alone.
    """
    before = {number: signal.getsignal(number) for number in DEFAULTS}
    _signals.process, _signals.noted = os.getpid(), 0
    try:
        _handle(_note)
        yield
    finally:
        _signals.process = 0
        for number, handler in before.items():
            if signal.getsignal(number) is _note:
                signal.signal(number, handler)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let signals end the process as long as the block runs: it imports, or downloads."""
    check_stop()
    _signals.at_once = True
    try:
        yield
    finally:
        _signals.at_once = False


_watches: Final[list[Callable[[], None]]] = []


@contextmanager
def watching(look: Callable[[], None]) -> Iterator[None]:
    """Let `check_watches` call a function, which may raise, as long as the block runs."""
    _watches.append(look)
    try:
        yield
    finally:
        _watches.remove(look)


def check_watches() -> None:
    """Look whether this process may still write, see `signlang.locks`."""
    for look in _watches:
        look()


def check_stop() -> None:
    """Stop here if Ctrl-C or SIGTERM has arrived, or what is watched is lost.

    Raises:
        StopRequested: It is called between two batches, images or jobs, where all is in order.
    """
    check_watches()
    if _signals.noted and os.getpid() == _signals.process:
        raise StopRequested


def interruption(text: str = "Interrupted.") -> Interrupted:
    """The error that tells the user, with the exit code of the signal that was noted."""
    return Interrupted(text, 128 + (_signals.noted or signal.SIGINT))
