"""Properties of this machine: cores, processor and GPU, their precision, git commit of the code."""

import os
import platform
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

from signlang.errors import SettingError

ARITHMETIC: Final = {  # flags of a processor that decide its results and speed, the best first
    "amx_bf16": "AMX bf16", "avx512_bf16": "AVX-512 bf16", "bf16": "bf16", "avx512f": "AVX-512",
    "avx2": "AVX2",
}  # fmt: skip
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


def choose_precision(precision: str, accelerator: str) -> str:
    """Resolve `auto` to one of Lightning's precisions; pass anything else through.

    bfloat16 where the device multiplies it in hardware, else float32. Where it is only emulated,
    it costs accuracy and time.

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
        supported = any(
            capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16")
        )
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
