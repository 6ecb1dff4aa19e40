"""What the hardware can do comes in, the arithmetic that is fast on it goes out."""

import torch

from signlang.console import log


def choose(wanted: str, accelerator: str) -> str:
    """Resolve `auto` to one of Lightning's precisions; pass anything else through.

    bfloat16 where the device multiplies it in hardware, else float32. Where it is only emulated,
    it costs accuracy and time.

    Args:
        wanted: `auto`, or a precision of Lightning, e.g. `32-true`.
        accelerator: Lightning's name of the device: `auto`, `cpu`, `gpu`, ...
    """
    if wanted != "auto":
        return wanted
    on_gpu = accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    if on_gpu:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = torch.cpu.get_capabilities()
        fast = any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    chosen = "bf16-mixed" if fast else "32-true"
    log.info("trainer.precision=auto: %s on this %s", chosen, "GPU" if on_gpu else "processor")
    return chosen
