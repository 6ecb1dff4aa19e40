"""signlang trains, cross-validates, compares and deploys classifiers of static hand signs.

Importing the package prepares the process, before torch is imported anywhere: it keeps glibc from
handing large buffers back to the kernel after every training step, OpenCV from starting threads
beside torch's, and albumentations from asking the network for a newer release of itself.
"""

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from signlang import api
    from signlang.api import load_bundle, load_run, load_study

__version__ = "0.1.0"
__all__ = ["__version__", "api", "load_bundle", "load_run", "load_study"]

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


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


def __getattr__(name: str) -> Any:
    """Import the Python API when it is used; `import signlang` alone takes a few milliseconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    api = import_module("signlang.api")
    return api if name == "api" else getattr(api, name)


os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
_keep_large_buffers()
