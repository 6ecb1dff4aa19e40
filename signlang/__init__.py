"""signlang trains, cross-validates, compares and deploys classifiers of static hand signs.

Importing the package prepares the process, before torch is imported anywhere: it keeps glibc from
handing large buffers back to the kernel after every training step, torch's threads from keeping
cores of a busy machine while they wait for each other, OpenCV from starting threads beside
torch's, and albumentations from asking the network for a newer release of itself. For a command,
the folder in which it is typed comes last in the search for modules, so that a `torch.py` beside a
run folder is not taken for torch; and Ctrl-C ends it without a stack trace of whichever module is
being imported.
"""

import ctypes
import os
import signal
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from signlang import api
    from signlang.api import load_bundle, load_run, load_study

__version__ = "0.1.0"
__all__ = ["__version__", "api", "load_bundle", "load_run", "load_study"]

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
BUSY = 1.0  # processes of others, from which on the cores are shared
SPINS = 10_000  # turns of a loop, some 10 microseconds: experiments/speed


def _keep_large_buffers() -> None:
    """Let malloc reuse large activations instead of returning them to the kernel (glibc only).

    Without it every training step on a CPU faults its activations in again, which costs small
    networks more than their arithmetic does.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, musl for one, has no such switch
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _yield_busy_cores(environment: MutableMapping[str, str], load: float) -> None:
    """Let threads of libgomp sleep soon where other processes need the cores.

    A thread that waits for another one turns in a loop 300,000 times before it sleeps, and on a
    busy machine keeps the core from the very thread that it waits for; on an idle one to sleep
    costs more than to turn. A user's own choice stays.

    Args:
        environment: Of the process, before torch is imported; changed in place.
        load: Mean number of processes that want a core.

    >>> idle, busy, chosen = {}, {}, {"OMP_WAIT_POLICY": "ACTIVE"}
    >>> for environment, load in ((idle, 0.5), (busy, 1.5), (chosen, 1.5)):
    ...     _yield_busy_cores(environment, load)
    >>> idle, busy, chosen
    ({}, {'GOMP_SPINCOUNT': '10000'}, {'OMP_WAIT_POLICY': 'ACTIVE'})
    """
    if load >= BUSY and "OMP_WAIT_POLICY" not in environment:  # it would count no more
        environment.setdefault("GOMP_SPINCOUNT", str(SPINS))


def _search_here_last(arguments: list[str], path: list[str]) -> None:
    """Move the current folder, which `python -m` puts first, to the end of the search path.

    Args:
        arguments: Of the interpreter; those of a notebook or of another module change nothing.
        path: `sys.path`, changed in place.

    >>> path = ["/home/me", "/usr/lib/python3"]
    >>> _search_here_last(["python", "-m", "signlang.train"], path)
    >>> path
    ['/usr/lib/python3', '/home/me']
    """
    module = arguments[arguments.index("-m") + 1 :][:1] if "-m" in arguments else []
    if path and module and module[0].partition(".")[0] == "signlang":
        path.append(path.pop(0))


def end_process(number: int, _: object = None) -> None:
    """Handle Ctrl-C or SIGTERM: end this process at once, with the exit code that shells report."""
    try:
        cursor = b"\x1b[?25h" * os.isatty(2)  # which a progress bar hides
        os.write(2, cursor + b"Interrupted.\n")
    finally:
        os._exit(128 + number)


def _is_command(arguments: list[str], program: str) -> bool:
    """Whether this process runs a verb, by `python -m signlang.VERB` or by its script.

    Args:
        arguments: Of the interpreter.
        program: Path of the script.

    >>> _is_command(["python", "-m", "signlang.train"], "-m"), _is_command(["python"], "a.py")
    (True, False)
    """
    module = arguments[arguments.index("-m") + 1 :][:1] if "-m" in arguments else []
    name = module[0] if module else program.rpartition("/")[2]
    return name == "signlang" or name.startswith(("signlang.", "signlang-"))


def __getattr__(name: str) -> Any:
    """Import the Python API when it is used; `import signlang` alone takes a few milliseconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    api = import_module("signlang.api")
    return api if name == "api" else getattr(api, name)


os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
with suppress(AttributeError, OSError):  # Windows has no load, and some systems do not tell it
    _yield_busy_cores(os.environ, os.getloadavg()[0])
_keep_large_buffers()
if _is_command(sys.orig_argv, sys.argv[0] if sys.argv else ""):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have ignored it
        signal.signal(signal.SIGINT, end_process)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end_process)
if not sys.flags.safe_path:
    _search_here_last(sys.orig_argv, sys.path)
