"""MediaPipe's palm detector and hand landmark network: fetched once, converted, kept in the cache.

They are Apache-2.0 and lie in the wheel of an older release, which is downloaded by pip without its
dependencies and never installed; pip's own configuration says from where. Both are converted to
ONNX, so that training, evaluation, prediction and service run them by onnxruntime.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from signlang import files
from signlang.console import log
from signlang.errors import DataError, SettingError
from signlang.files import expanded
from signlang.hands.finder import CROP, POINTS, HandFinder

WHEEL: Final = "mediapipe==0.10.21"
WHEEL_SHA256: Final = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
# the wheel of one platform for all: what is taken out of it is the same everywhere
PLATFORM: Final = (
    "--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp",
    "--abi=cp311",
)  # fmt: skip
PALM, LANDMARKS, LICENSE = "palm.onnx", "landmarks.onnx", "LICENSE"
NAMES: Final = (PALM, LANDMARKS, LICENSE)
IN_WHEEL: Final[Mapping[str, str]] = {
    PALM: "mediapipe/modules/palm_detection/palm_detection_full.tflite",
    LANDMARKS: "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
    LICENSE: "mediapipe-0.10.21.dist-info/LICENSE",
}
IN_TASK: Final[Mapping[str, str]] = {
    PALM: "hand_detector.tflite",
    LANDMARKS: "hand_landmarks_detector.tflite",
}
# outputs of each network by their places in the TFLite file
OUTPUTS: Final[Mapping[str, Mapping[str, int]]] = {
    PALM: {"boxes": 0, "scores": 1},
    LANDMARKS: {"points": 0, "presence": 1, "handedness": 2},
}
VERSION: Final = 1  # of conversion and pipeline; raise it when either finds other hands
DEFAULT_KEY: Final = "d195da73"  # of the wheel's two networks
NOTICE: Final = (
    "The hand networks of MediaPipe, Copyright The MediaPipe Authors, converted to ONNX from "
    "{name}.\nLicensed under the Apache License, Version 2.0.\n"
)
LATER: Final = (
    "Type signlang hands (or make hands) where pip reaches an index, or give MediaPipe's "
    "hand_landmarker.task as hands.model=FILE."
)
SECONDS: Final = 600  # that pip may take


@dataclass(frozen=True)
class HandNetworks:
    """Both networks as ONNX files.

    Attributes:
        key: Digest of what they were converted from, with the version of the pipeline.
        palm: Content of the detector's file.
        landmarks: Content of the other's.
        license: Text that goes with copies of them.
    """

    key: str
    palm: bytes = field(compare=False, repr=False)
    landmarks: bytes = field(compare=False, repr=False)
    license: str = field(compare=False, repr=False)

    def finder(self) -> HandFinder:
        """Load them."""
        return HandFinder(self.palm, self.landmarks)


MIRRORED: Final = "-2views"  # end of the key of networks that see the mirrored hand as well


def key_of(palm: bytes, landmarks: bytes) -> str:
    """Digest of two TFLite files, with the version of the pipeline around them."""
    state = hashlib.blake2b(digest_size=4)
    for data in (palm, landmarks, str(VERSION).encode()):
        state.update(hashlib.blake2b(data).digest())
    return state.hexdigest()


def find_networks(model: str | None, cache_dir: str, views: int = 1) -> HandNetworks:
    """Find the networks in the cache, or convert those of a `.task` file.

    Args:
        model: `hands.model`, MediaPipe's hand_landmarker.task; None: those of `signlang hands`.
        cache_dir: The cache folder.
        views: `hands.views`; 2: points are the mean of those of the hand and of its mirror image.

    Raises:
        SettingError: If they are not there; says how to get them.
        DataError: If the file is no such model.
    """
    if model is not None:
        networks = _read_task(str(expanded(model)), cache_dir)
    else:
        networks = _read(str(network_folder(cache_dir, DEFAULT_KEY)))
    return _with_views(networks, cache_dir) if views == 2 else networks


def key_of_model(model: str | None, views: int = 1) -> str:
    """Key of the networks of `hands.model` and `hands.views`.

    Raises:
        DataError: If the file is no such model.
    """
    key = DEFAULT_KEY if model is None else _task_key(expanded(model))
    return key + MIRRORED * (views == 2)


def networks_of_key(key: str, cache_dir: str | None) -> HandNetworks:
    """Find the networks that a run was trained with.

    Args:
        key: Theirs.
        cache_dir: The cache folder; None: the default one.

    Raises:
        SettingError: If they are not in the cache.
    """
    cache = cache_dir or os.environ.get("SIGNLANG_CACHE") or "~/.cache/signlang"
    base_key = key.removesuffix(MIRRORED)
    # the key may come from elsewhere, and names what is written
    if base_key != key and base_key.isalnum():
        return _with_views(networks_of_key(base_key, cache), cache)
    if key != DEFAULT_KEY and not _is_complete(network_folder(cache, key)):
        raise SettingError(
            f"The run found hands with other networks ({key}) than those of signlang hands: type "
            "signlang hands model=FILE with the file that was hands.model."
        )
    return _read(str(network_folder(cache, key)))


def fetch_networks(cache_dir: str) -> Path:
    """Download, check, convert and keep the networks; those that are there are kept.

    Returns:
        Their folder.

    Raises:
        SettingError: If pip cannot fetch them.
        DataError: If it brings other files than those known by checksum.
    """
    folder = network_folder(cache_dir, DEFAULT_KEY)
    if _is_complete(folder):
        return folder
    with tempfile.TemporaryDirectory(prefix="signlang-") as temporary:
        wheel = _download_wheel(Path(temporary))
        return _convert(wheel, IN_WHEEL, cache_dir, DEFAULT_KEY)


def network_folder(cache_dir: str, key: str) -> Path:
    """Where networks of a key are kept."""
    return files.cache_folder(cache_dir, "hands") / key


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in NAMES)


@lru_cache(maxsize=4)
def _read(folder: str) -> HandNetworks:
    path = Path(folder)
    if not _is_complete(path):
        raise SettingError(f"The hand networks are not in the cache, {path.parent}. {LATER}")
    palm, landmarks = ((path / name).read_bytes() for name in (PALM, LANDMARKS))
    return HandNetworks(path.name, palm, landmarks, (path / LICENSE).read_text("utf-8"))


@lru_cache(maxsize=2)
def _read_task(file: str, cache_dir: str) -> HandNetworks:
    path, key = Path(file), _task_key(Path(file))
    folder = network_folder(cache_dir, key)
    return _read(str(folder if _is_complete(folder) else _convert(path, IN_TASK, cache_dir, key)))


def _task_key(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return key_of(*(archive.read(IN_TASK[name]) for name in (PALM, LANDMARKS)))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"hands.model={path} is no hand landmarker of MediaPipe ({error}): its file is "
            "hand_landmarker.task, a ZIP file of two TFLite networks."
        ) from None


def _download_wheel(folder: Path) -> Path:
    """Have pip download the wheel, by its own configuration, and check it."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", "utf-8")
    command = (
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary=:all:", *PLATFORM, "--require-hashes",
        f"--requirement={requirements}", f"--dest={folder}",
    )  # fmt: skip
    log.info("fetching the hand networks: pip downloads %s (36 MB), which is not installed", WHEEL)
    try:
        completed = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingError(f"pip does not answer ({type(error).__name__}). {LATER}") from None
    wheels = list(folder.glob("*.whl"))
    if completed.returncode or not wheels:
        errors = [line for line in completed.stderr.splitlines() if line.startswith("ERROR")]
        reason = (
            errors[-1].removeprefix("ERROR: ") if errors else f"exit code {completed.returncode}"
        )
        raise SettingError(f"pip cannot fetch {WHEEL} ({reason.rstrip('. ')}). {LATER}")
    return wheels[0]


def _convert(archive: Path, names: Mapping[str, str], cache_dir: str, key: str) -> Path:
    """Convert the networks of an archive into a folder of the cache, atomically."""
    try:
        from signlang.hands.tflite_conversion import to_onnx

        with zipfile.ZipFile(archive) as content:
            contents = {name: content.read(inner) for name, inner in names.items()}
        if key_of(contents[PALM], contents[LANDMARKS]) != key:
            raise DataError(f"{archive.name} holds other networks than those known by checksum.")
        onnx_files = {name: to_onnx(contents[name], OUTPUTS[name]) for name in (PALM, LANDMARKS)}
    except ModuleNotFoundError as error:
        raise SettingError(
            f'{error.name} is not installed: pip install "signlang[hands]" brings it.'
        ) from None
    license_ = contents.get(LICENSE, NOTICE.format(name=archive.name).encode())
    return _write(network_folder(cache_dir, key), {**onnx_files, LICENSE: license_})


def _write(folder: Path, contents: Mapping[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in contents.items():
        with files.atomic_write(folder / name) as temporary:
            temporary.write_bytes(data)
    return folder


def _with_views(networks: HandNetworks, cache_dir: str) -> HandNetworks:
    """The same networks, of which the second averages two views; kept in the cache."""
    folder = network_folder(cache_dir, networks.key + MIRRORED)
    if not _is_complete(folder):
        onnx_files = {PALM: networks.palm, LANDMARKS: averaged_over_mirror(networks.landmarks)}
        _write(folder, {**onnx_files, LICENSE: networks.license.encode()})
    return _read(str(folder))


def averaged_over_mirror(landmarks: bytes) -> bytes:
    """The network of landmarks, seeing each image and its mirror image; the mean of what it says.

    Python, service and browser take it for the one network that it is. It takes twice the time.
    The points of the mirror image are mirrored back, and its left hands are right ones.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ModuleNotFoundError as error:
        raise SettingError(
            f'{error.name} is not installed: pip install "signlang[hands]" brings it.'
        ) from None
    model = onnx.load_from_string(landmarks)
    (images,), names = model.graph.input, [output.name for output in model.graph.output]
    inner = onnx.compose.add_prefix(model, "hand/")
    mirror_factor = np.tile(np.array([-0.5, 0.5, 0.5], np.float32), POINTS)
    mirror_shift = np.tile(np.array([CROP / 2, 0, 0], np.float32), POINTS)
    one_half = np.array([0.5], np.float32)
    # what the second view says, times its factor, and what is added to it
    factors = {"points": (mirror_factor, mirror_shift), "handedness": (-one_half, one_half)}
    constants: dict[str, Any] = {
        "last": np.array([-1], np.int64), "end": np.array([-CROP - 1], np.int64),
        "along": np.array([2], np.int64), "half": one_half,
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["images", "last", "end", "along", "last"], ["mirrored"]),
        helper.make_node("Concat", ["images", "mirrored"], [f"hand/{images.name}"], axis=0),
        *inner.graph.node,
    ]
    for name in names:
        factor, shift = factors.get(name, (one_half, np.zeros(1, np.float32)))
        constants |= {f"{name}/factor": factor, f"{name}/shift": shift}
        nodes += [
            helper.make_node("Split", [f"hand/{name}"], [f"{name}/1", f"{name}/2"], axis=0),
            helper.make_node("Mul", [f"{name}/1", "half"], [f"{name}/first"]),
            helper.make_node("Mul", [f"{name}/2", f"{name}/factor"], [f"{name}/scaled"]),
            helper.make_node("Add", [f"{name}/scaled", f"{name}/shift"], [f"{name}/second"]),
            helper.make_node("Add", [f"{name}/first", f"{name}/second"], [name]),
        ]
    graph = helper.make_graph(
        nodes, "landmarks", [images], list(model.graph.output),
        [*inner.graph.initializer,
         *(numpy_helper.from_array(value, name) for name, value in constants.items())],
    )  # fmt: skip
    averaged = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    onnx.checker.check_model(averaged, full_check=True)
    return bytes(averaged.SerializeToString())
