"""ONNX models, run by onnxruntime."""

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from signlang.arrays import Floats32, Pixels
from signlang.errors import BundleError, SettingError, first_line
from signlang.inference.bundle import EXPORT_AGAIN, Bundle

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
        self.classes, self._file = tuple(classes), file
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
            BundleError: If what the network makes of them are no probabilities.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images are uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
        if not len(images):
            return np.empty((0, len(self.classes)), dtype=np.float32)
        if not images.size:
            raise ValueError(f"images of shape {images.shape} have no pixels")
        (probabilities,) = self._session.run(["probabilities"], {"images": images})
        return _checked(probabilities, len(images), len(self.classes), self._file)


def _checked(values: Any, images: int, classes: int, file: str) -> Floats32:
    """The output of a network, if it can be probabilities."""
    probabilities = np.asarray(values, dtype=np.float32)
    if probabilities.shape != (images, classes):
        raise BundleError(
            f"{file} makes an output of shape {probabilities.shape} of {images} images, not "
            f"{(images, classes)}. {EXPORT_AGAIN}"
        )
    if not (
        (probabilities >= 0).all() and np.allclose(probabilities.sum(axis=1), 1, atol=SUM_ERROR)
    ):
        raise BundleError(f"{file} makes no probabilities of images. {EXPORT_AGAIN}")
    return probabilities


SUM_ERROR: Final = 1e-2  # of the probabilities of an image, which an int8 network may round
# what a network may take for its first image, when it is loaded
PROBE_S: Final = 60.0
PROBE_BYTES: Final = 4 * 2**30
PROBE_PIXELS: Final = 32  # width and height of that image


def session_options(threads: int) -> Any:
    """How every network is run by onnxruntime; it reads no other file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", f"{__file__}/none"
    )
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
        cpu_info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: unknown, and elsewhere than on x86 it makes no difference
        return True
    return not set(cpu_info.split()) & {"avx512_vnni", "avx_vnni"}


def _session(data: bytes, classes: int, file: str, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise SettingError(
            f"Bundles need onnxruntime ({error}): pip install signlang brings it."
        ) from None
    available = onnxruntime.get_available_providers()
    chosen = PROVIDERS.get(device)
    if chosen not in available:
        offered = ", ".join(name for name, provider in PROVIDERS.items() if provider in available)
        raise SettingError(f"device={device}: onnxruntime does not offer it here, only {offered}.")
    try:
        _probe(data, classes, file)
        session = onnxruntime.InferenceSession(data, session_options(threads), providers=[chosen])
        inputs = [(i.name, i.type, len(i.shape)) for i in session.get_inputs()]
        outputs = [(o.name, o.type, o.shape[-1]) for o in session.get_outputs()]
    except BundleError:
        raise
    except Exception as error:  # onnxruntime has no base class for what it raises
        raise BundleError(
            f"{file} cannot be used by onnxruntime {onnxruntime.__version__}: {first_line(error)}"
        ) from None
    if inputs != [("images", "tensor(uint8)", 4)] or outputs != [
        ("probabilities", "tensor(float)", classes)
    ]:
        raise BundleError(f"{file} is another kind of network: {inputs} to {outputs}.")
    return session


@cache
def _bounded_arena() -> None:
    """Let sessions of this process that ask for it share an arena of `PROBE_BYTES`."""
    import onnxruntime as ort

    memory_info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,
                                    ort.OrtMemType.DEFAULT)  # fmt: skip
    ort.create_and_register_allocator(memory_info, ort.OrtArenaCfg(PROBE_BYTES, 1, -1, -1))


def _probe(data: bytes, classes: int, file: str) -> None:
    """Run a network once, on one image, in bounded time and memory.

    It is not optimised for this: onnxruntime computes constants while it optimises, for as long as
    they take, and nothing can stop it then.
    """
    import onnxruntime as ort

    _bounded_arena()
    options = session_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = ort.InferenceSession(data, options, providers=[PROVIDERS["cpu"]])
    if [output.name for output in session.get_outputs()] != ["probabilities"]:
        return  # reported by the caller
    run = ort.RunOptions()
    run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    run.log_severity_level = 4
    timer = threading.Timer(PROBE_S, setattr, (run, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        images = np.zeros((1, PROBE_PIXELS, PROBE_PIXELS, 3), np.uint8)
        (probabilities,) = session.run(["probabilities"], {"images": images}, run)
    except Exception as error:  # onnxruntime has no base class for what it raises
        if run.terminate:
            raise BundleError(
                f"{file} takes more than {PROBE_S:g} seconds for one image: it is not used."
            ) from None
        raise error from None
    finally:
        timer.cancel()
    _checked(probabilities, 1, classes, file)
