"""ONNX models, run by onnxruntime."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from signlang.arrays import Floats32, Pixels
from signlang.errors import BundleError, SettingError
from signlang.inference.bundle import Bundle

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxModel:
    """An ONNX network that maps images to probabilities; any number of threads may call it.

    Args:
        data: Content of the ONNX file.
        classes: Names, in the order of the probabilities.
        file: Where the content comes from, for errors.
        device: `cpu` or `cuda`.
        threads: That share the work of one call, on a processor.

    Attributes:
        classes: Names, in the order of the probabilities.

    Raises:
        BundleError: If the network cannot be used.
        SettingError: If onnxruntime is not installed, or the device is not there.
    """

    def __init__(
        self, data: bytes, classes: Sequence[str], file: str, device: str = "cpu", threads: int = 1
    ) -> None:
        self.classes = tuple(classes)
        self._session = _session(data, len(classes), file, device, threads)

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, precision: str = "fp32", device: str = "cpu", threads: int = 1
    ) -> "OnnxModel":
        """Load a network of a bundle.

        Args:
            bundle: See `load_bundle`.
            precision: One of `bundle.models`.
            device: `cpu` or `cuda`.
            threads: That share the work of one call, on a processor.

        Raises:
            BundleError: If there is no such model in the bundle, or it cannot be used.
            SettingError: If onnxruntime is not installed, or the device is not there.
        """
        if precision not in bundle.models:
            raise BundleError(
                f"{bundle.path} has no {precision} model, only {', '.join(bundle.models)}."
                + (" Export it with quantize=true." if precision == "int8" else "")
            )
        name = bundle.models[precision]
        file = f"{name} of {bundle.path}"
        return cls(bundle.read(name), bundle.classes, file, device, threads)

    def __call__(self, images: Pixels) -> Floats32:
        """Map (N, H, W, 3) RGB images of any one size to (N, classes) probabilities.

        Raises:
            ValueError: If they are not uint8 of that shape.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images are uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
        if not len(images):
            return np.empty((0, len(self.classes)), dtype=np.float32)
        if not images.size:
            raise ValueError(f"images of shape {images.shape} have no pixels")
        (probabilities,) = self._session.run(["probabilities"], {"images": images})
        return np.asarray(probabilities, dtype=np.float32)


def session_options(threads: int) -> Any:
    """How every network is run by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    if _overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@cache
def _overflows() -> bool:
    """Whether the fastest int8 kernels overflow here: on x86 processors without VNNI they do.

    Slower ones that do not are then used.
    """
    try:
        found = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: unknown, and elsewhere than on x86 it makes no difference
        return True
    return not set(found.split()) & {"avx512_vnni", "avx_vnni"}


def _session(data: bytes, classes: int, file: str, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise SettingError(
            f"Bundles need onnxruntime ({error}): pip install signlang brings it."
        ) from None
    known = onnxruntime.get_available_providers()
    wanted = PROVIDERS.get(device)
    if wanted not in known:
        there = ", ".join(name for name, provider in PROVIDERS.items() if provider in known)
        raise SettingError(f"device={device}: onnxruntime does not offer it here, only {there}.")
    try:
        session = onnxruntime.InferenceSession(data, session_options(threads), providers=[wanted])
        given = [(i.name, i.type, len(i.shape)) for i in session.get_inputs()]
        made = [(o.name, o.type, o.shape[-1]) for o in session.get_outputs()]
    except Exception as error:  # onnxruntime has no base class for what it raises
        first = str(error).strip().splitlines()[0][:200]
        raise BundleError(
            f"{file} cannot be used by onnxruntime {onnxruntime.__version__}: {first}"
        ) from None
    if given != [("images", "tensor(uint8)", 4)] or made != [
        ("probabilities", "tensor(float)", classes)
    ]:
        raise BundleError(f"{file} is another kind of network: {given} to {made}.")
    return session
