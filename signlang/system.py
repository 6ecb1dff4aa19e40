"""Properties of this machine: usable cores, processor and GPU names, git commit of the code."""

import os
import platform
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

from signlang.errors import SettingError

GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, Windows' (WSL)


def cpu_count() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def cpu_name() -> str:
    """Name of the processor: its model name if the system has it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Commit of the checkout of this code, with `+changes` if it was edited; None without one."""
    place = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(place), *words],
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
