"""A bundle, as folder or ZIP file, comes in; a network that needs no torch goes out.

Everything in a bundle is JSON, ONNX, text or a picture: nothing of it is ever executed. Only numpy,
PIL and onnxruntime are needed here.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from signlang.data.pictures import MAX_PIXELS, BadPictureError, decode
from signlang.deploy import manifest, unpacking
from signlang.deploy.unpacking import AGAIN, MANIFEST
from signlang.errors import BundleError, SettingError

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
MAX_FILE: Final = 4 * 2**30  # bytes
MAX_MANIFEST: Final = 16 * 2**20
PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, eq=False)
class Bundle:
    """What a service must know, read and checked.

    Attributes:
        path: The folder or the ZIP file.
        name: For people.
        classes: Names, in the order of the probabilities.
        image_size: Side of the square that the network sees, in pixels; the graph itself resizes.
        temperature: What logits are divided by; the graph does it.
        reject_threshold: Below this probability a guess is better called unknown; None: not known.
        models: File of each precision, `fp32` and perhaps `int8`.
        info: The whole content of `bundle.json`.
    """

    path: Path
    name: str
    classes: tuple[str, ...]
    image_size: int
    temperature: float
    reject_threshold: float | None
    models: Mapping[str, str]
    info: Mapping[str, Any]

    @property
    def sides(self) -> tuple[int, ...]:
        """Squares that pictures are brought to one after another, as in training, in pixels.

        The graph does that. Who wants to send smaller pictures may squeeze them to the first side
        with `data.pictures.resized`, which changes nothing.
        """
        found = self.info.get("preprocessing", {}).get("sides", [self.image_size])
        return tuple(int(side) for side in found)

    def read(self, name: str) -> bytes:
        """Read one of its files, e.g. `model.onnx`, `card.md`, `card.html` or `classes.json`.

        Raises:
            BundleError: If there is no such file, or it is not what was exported.
        """
        if name == MANIFEST:
            return unpacking.read(self.path, name, MAX_MANIFEST)
        if name not in self.info["files"]:
            raise BundleError(f"{self.path} has no {name}.")
        data = unpacking.read(self.path, name, MAX_FILE)
        if hashlib.sha256(data).hexdigest() != self.info["files"][name]:
            raise BundleError(
                f"{name} of {self.path} is not the file that was exported: its checksum differs. "
                f"{AGAIN}"
            )
        return data


def load(path: Path) -> Bundle:
    """Read a bundle and compare the checksums of all its files.

    Args:
        path: A folder, or a ZIP file with its files at the top or in one folder.

    Raises:
        BundleError: If it is missing, damaged, incomplete, or of a newer format.
    """
    path = Path(path).expanduser()
    info = manifest.parsed(unpacking.read(path, MANIFEST, MAX_MANIFEST), str(path))
    threshold = info.get("reject_threshold")
    bundle = Bundle(
        path=path,
        name=str(info["name"]),
        classes=tuple(info["classes"]),
        image_size=int(info["image_size"]),
        temperature=float(info["temperature"]),
        reject_threshold=None if threshold is None else float(threshold),
        models=dict(info["models"]),
        info=info,
    )
    for name in info["files"]:
        bundle.read(name)
    return bundle


class Network:
    """The network of a bundle; may be called from several threads at once.

    Args:
        bundle: See `load`.
        precision: One of `bundle.models`.
        device: `cpu` or `cuda`.
        threads: That share the work of one call, on a processor.

    Attributes:
        classes: Names, in the order of the probabilities.

    Raises:
        BundleError: If there is no such model in the bundle, or it cannot be used.
        SettingError: If onnxruntime is not installed, or the device is not there.
    """

    def __init__(
        self, bundle: Bundle, precision: str = "fp32", device: str = "cpu", threads: int = 1
    ) -> None:
        if precision not in bundle.models:
            raise BundleError(
                f"{bundle.path} has no {precision} model, only {', '.join(bundle.models)}."
                + (" Export it with quantize=true." if precision == "int8" else "")
            )
        self.classes = bundle.classes
        self._session = _session(bundle, bundle.models[precision], device, threads)

    def __call__(self, pictures: Pixels) -> Probabilities:
        """Map (N, H, W, 3) RGB pictures of any one size to (N, classes) probabilities.

        Raises:
            ValueError: If they are not uint8 of that shape.
        """
        if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != np.uint8:
            raise ValueError(
                f"pictures are uint8 (N, H, W, 3), not {pictures.dtype} {pictures.shape}"
            )
        if not len(pictures):
            return np.empty((0, len(self.classes)), dtype=np.float32)
        if not pictures.size:
            raise ValueError(f"pictures of shape {pictures.shape} have no pixels")
        (found,) = self._session.run(["probabilities"], {"pictures": pictures})
        return np.asarray(found, dtype=np.float32)


def read_picture(data: bytes, limit_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode the bytes of a picture file as training does: (H, W, 3), upright, RGB.

    Raises:
        BadPictureError: If they are no picture, damaged, animated, or above the limit; the text
            says which.
    """
    if not data:
        raise BadPictureError("empty (0 bytes)")
    if limit_pixels < MAX_PIXELS:
        _check_pixels(data, limit_pixels)
    return np.asarray(decode(data), dtype=np.uint8)


def _check_pixels(data: bytes, limit: int) -> None:
    """Refuse by what the first bytes say, before memory is taken for the pixels."""
    try:
        width, height = Image.open(io.BytesIO(data)).size
    except Exception:  # of whatever kind: decoding will say what is wrong
        return
    if width * height > limit:
        raise BadPictureError(f"{width} x {height} pixels, more than the limit of {limit:,}")


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
    except OSError:  # no Linux: nobody knows, and elsewhere than on x86 it makes no difference
        return True
    return not set(found.split()) & {"avx512_vnni", "avx_vnni"}


def _session(bundle: Bundle, file: str, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise SettingError(
            f'Bundles need onnxruntime ({error}): pip install "signlang[serve]".'
        ) from None
    known = onnxruntime.get_available_providers()
    wanted = PROVIDERS.get(device)
    if wanted not in known:
        there = ", ".join(name for name, provider in PROVIDERS.items() if provider in known)
        raise SettingError(f"device={device}: onnxruntime does not offer it here, only {there}.")
    options, data = session_options(threads), bundle.read(file)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[wanted])
        given = [(i.name, i.type, len(i.shape)) for i in session.get_inputs()]
        made = [(o.name, o.type, o.shape[-1]) for o in session.get_outputs()]
    except Exception as error:  # onnxruntime has no base class for what it raises
        first = str(error).strip().splitlines()[0][:200]
        raise BundleError(
            f"{file} of {bundle.path} cannot be used by onnxruntime {onnxruntime.__version__}: "
            f"{first}"
        ) from None
    if given != [("pictures", "tensor(uint8)", 4)] or made != [
        ("probabilities", "tensor(float)", len(bundle.classes))
    ]:
        raise BundleError(f"{file} of {bundle.path} is another kind of network: {given} to {made}.")
    return session
