"""The bundle: manifest schema, reading and verification of a folder or ZIP file.

Everything in a bundle is JSON, ONNX, text or an image: nothing of it is ever executed. Only numpy,
PIL and onnxruntime are needed here.
"""

import hashlib
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from signlang.constraints import Count, Index, Name, Names, Positive, Probability, Strict, validated
from signlang.errors import BundleError, SettingError, near_path
from signlang.files import BUNDLE_MANIFEST, expanded, is_plain_name, parse_json
from signlang.hands.finder import POINTS
from signlang.hands.hand_input import HandInput, from_options
from signlang.hands.hand_networks import HandNetworks
from signlang.metrics.calibration import FALLBACK_THRESHOLD

CLASSES: Final = "classes.json"
SIGNS: Final = "signs.json"  # the mean hand of each class, of bundles that find hands
# what a damaged folder or archive raises
DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, NotImplementedError,
    RuntimeError, ValueError, struct.error, UnicodeDecodeError,
)  # fmt: skip
EXPORT_AGAIN: Final = "Copy it again, or export the run again."


def read_file(path: Path, name: str, most: int) -> bytes:
    """Read a file of a bundle.

    Args:
        path: A folder, or a ZIP file with its files at the top or in one folder.
        name: Of the file.
        most: Bytes that it may have; a small ZIP file can hold a bomb.

    Raises:
        BundleError: If it is missing, damaged, too large, or lies outside of the bundle.
    """
    if not is_plain_name(name):
        raise BundleError(f"{path} names a file outside of itself, {name!r}: it is not used.")
    try:
        if path.is_dir():
            return _from_folder(path, name, most)
        if path.is_file():
            return _from_zip(path, name, most)
    except FileNotFoundError:
        raise BundleError(_missing(path, name)) from None
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise BundleError(
            f"{path} is damaged: {name} cannot be read ({reason}). {EXPORT_AGAIN}"
        ) from None
    raise BundleError(f"bundle={path}: there is no such folder or ZIP file.{near_path(path)}")


def _missing(path: Path, name: str) -> str:
    if name == BUNDLE_MANIFEST:
        run = " It is a run: export it first." if (path / "record.json").is_file() else ""
        return f"{path} is no bundle: it has no {BUNDLE_MANIFEST}.{run}"
    return f"{path} is incomplete: {name} is missing. {EXPORT_AGAIN}"


def _from_folder(folder: Path, name: str, most: int) -> bytes:
    file = folder
    for component in PurePosixPath(name).parts:
        file /= component
        if file.is_symlink():
            raise BundleError(f"{file} is a link: a bundle holds its files itself. {EXPORT_AGAIN}")
    if not file.is_file():  # reading a pipe or a device may never end
        raise FileNotFoundError(file)
    if file.stat().st_size > most:
        raise BundleError(f"{file} has more bytes than {most:,}: it is no part of a bundle.")
    return file.read_bytes()


def _from_zip(path: Path, name: str, most: int) -> bytes:
    if not zipfile.is_zipfile(path):
        raise BundleError(f"{path} is no bundle: neither a folder nor a (complete) ZIP file.")
    with zipfile.ZipFile(path) as archive:
        outside = [info.filename for info in archive.infolist() if not is_plain_name(info.filename)]
        if outside:
            raise BundleError(
                f"{path} holds a file outside of itself, {outside[0]!r}: it is not used."
            )
        manifests = [
            i for i in archive.infolist() if PurePosixPath(i.filename).name == BUNDLE_MANIFEST
        ]
        base = (
            PurePosixPath(manifests[0].filename).parent if len(manifests) == 1 else PurePosixPath()
        )
        try:
            entry = archive.getinfo(str(base / name))
        except KeyError:
            raise FileNotFoundError(name) from None
        if entry.file_size > most:
            raise BundleError(f"{name} of {path} has more bytes than {most:,}: it is not used.")
        return archive.read(entry)  # zipfile stops at the size of the entry


HANDS_FORMAT: Final = 3  # of bundles that find hands first: earlier versions must not read them
HAND_FILES: Final = ("hands/palm.onnx", "hands/landmarks.onnx", "hands/LICENSE")
FORMAT: Final = 2  # 1 had preprocessing.sides in place of preprocessing.image_sizes


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """Read `bundle.json`.

    Args:
        data: Its bytes.
        where: The bundle, for errors.

    Raises:
        BundleError: If it is no JSON, of another format, or does not fit `Manifest`.
    """
    try:
        info = parse_json(data)
    except ValueError as error:
        raise BundleError(f"bundle.json of {where} is damaged ({error}).") from None
    if not isinstance(info, dict) or not isinstance(info.get("format"), int):
        raise BundleError(f"bundle.json of {where} is not that of a bundle: it has no format.")
    if info["format"] not in {FORMAT, HANDS_FORMAT}:
        export_again = "export its run again (signlang export)"
        fix = "update it" if info["format"] > HANDS_FORMAT else export_again
        raise BundleError(
            f"{where} has format {info['format']}, written by signlang "
            f"{info.get('signlang', 'unknown')}; this one reads formats {FORMAT} and "
            f"{HANDS_FORMAT}: {fix}."
        )
    validated(Manifest, info, error=BundleError, before=f"bundle.json of {where}", fix=EXPORT_AGAIN)
    return info


Size = Annotated[int, Field(ge=1, le=4096)]  # of an image, in pixels


class Preprocessing(Strict, extra="ignore"):
    """What happens to an image in front of the network."""

    image_sizes: Annotated[list[Size], Field(min_length=1, max_length=8)] | None = None


class CalibrationFacts(Strict, extra="ignore"):
    """How temperature and threshold came about; bundles of before do not say."""

    source: str
    images: Index
    kept: bool
    reason: str
    no_threshold: str | None


class HandsFacts(Strict, extra="ignore"):
    """What the network sees of an image: see `hands.hand_input.from_options`."""

    networks: str
    options: dict[str, str | float | bool]


class Manifest(Strict, extra="ignore"):
    """`bundle.json`, as far as a service needs it."""

    format: Count
    name: Name
    classes: Names
    image_size: Size
    preprocessing: Preprocessing = Preprocessing()
    hands: HandsFacts | None = None
    temperature: Positive
    reject_threshold: Probability | None
    wanted_precision: Probability | None = None
    calibration: CalibrationFacts | None = None
    protocol: str = ""
    models: dict[str, str]
    files: dict[str, str]

    @model_validator(mode="after")
    def _check_files(self) -> "Manifest":
        outside = [name for name in self.files if not is_plain_name(name)]
        if outside:
            raise ValueError(f"it names a file outside of the bundle, {outside[0]!r}.")
        unlisted = [name for name in self.models.values() if name not in self.files]
        if unlisted:
            raise ValueError(f"it has no checksum of {unlisted[0]}.")
        sizes = self.preprocessing.image_sizes or [self.image_size]
        if sizes[-1] != self.image_size:
            raise ValueError(
                f"image_size is {self.image_size}, but preprocessing.image_sizes end with "
                f"{sizes[-1]}."
            )
        if (self.hands is None) != (self.format == FORMAT):
            raise ValueError(f"format {HANDS_FORMAT} is that of bundles which find hands.")
        without = [name for name in HAND_FILES if self.hands and name not in self.files]
        if without:
            raise ValueError(f"it has no checksum of {without[0]}.")
        if "fp32" not in self.models:
            raise ValueError("models.fp32 is missing: it must be the name of an ONNX file.")
        return self


MAX_FILE: Final = 2**30  # bytes
MAX_BUNDLE: Final = 2 * 2**30
MAX_MANIFEST: Final = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Bundle:
    """What a service must know, read and checked.

    Attributes:
        path: The folder or the ZIP file.
        name: For people.
        classes: Names, in the order of the probabilities.
        image_size: Width and height of the network's images, in pixels; the graph itself resizes.
        temperature: What logits are divided by; the graph does it.
        reject_threshold: A prediction below this probability is unknown; None where none could be
            fitted, see `threshold`.
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
    def threshold(self) -> float:
        """The threshold in use: its own, or `FALLBACK_THRESHOLD`."""
        return FALLBACK_THRESHOLD if self.reject_threshold is None else self.reject_threshold

    @property
    def no_threshold(self) -> str:
        """Why it has no threshold of its own; empty where it has one."""
        if self.reject_threshold is not None:
            return ""
        facts = self.info.get("calibration") or {}
        return str(facts.get("no_threshold") or "the bundle does not say why")

    @property
    def fallback_text(self) -> str:
        """What its missing threshold means for its predictions."""
        return (
            f"{self.name} has no reject threshold ({self.no_threshold}): {self.threshold} stands "
            "in, below which a guess is more likely wrong than right"
        )

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Sizes that images are resized to, in order, as in training, in pixels.

        The graph does that. Clients may resize images to the first size before sending them,
        with `data.image_io.resize_image`, which changes nothing.
        """
        return tuple(self.info.get("preprocessing", {}).get("image_sizes") or [self.image_size])

    @property
    def fingerprint(self) -> str:
        """Digest of its manifest, which holds the checksums of all its files."""
        return hashlib.sha256(json.dumps(self.info, sort_keys=True).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """Read one of its files, e.g. `model.onnx`, `card.md`, `card.html` or `classes.json`.

        Raises:
            BundleError: If there is no such file, or it is not what was exported.
        """
        if name == BUNDLE_MANIFEST:
            return read_file(self.path, name, MAX_MANIFEST)
        if name not in self.info["files"]:
            raise BundleError(f"{self.path} has no {name}.")
        data = read_file(self.path, name, MAX_FILE)
        if hashlib.sha256(data).hexdigest() != self.info["files"][name]:
            raise BundleError(
                f"{name} of {self.path} is not the file that was exported: its checksum differs. "
                f"{EXPORT_AGAIN}"
            )
        return data


def load_hands(bundle: Bundle) -> HandInput | None:
    """What the network of a bundle sees of an image; None: the whole image.

    Raises:
        BundleError: If it was written by a later version.
    """
    facts = bundle.info.get("hands")
    if facts is None:
        return None
    palm, landmarks, license_ = (bundle.read(name) for name in HAND_FILES)
    try:
        networks = HandNetworks(str(facts["networks"]), palm, landmarks, license_.decode())
        return from_options(facts["options"], networks)
    except SettingError as error:
        raise BundleError(f"{bundle.path}: {error}") from None
    except UnicodeDecodeError:
        raise BundleError(
            f"{HAND_FILES[2]} of {bundle.path} is damaged: it is no text. {EXPORT_AGAIN}"
        ) from None


Point = Annotated[list[float], Field(min_length=2, max_length=2)]
DrawnHand = Annotated[list[Point], Field(min_length=POINTS, max_length=POINTS)]


class DrawnSigns(Strict):
    """`signs.json`: x and y of 21 points in palms from the wrist, by class."""

    signs: dict[str, DrawnHand]


def load_signs(bundle: Bundle) -> dict[str, DrawnHand]:
    """The mean hand of each class; nothing where the bundle has none.

    Raises:
        BundleError: If it cannot be drawn.
    """
    if SIGNS not in bundle.info["files"]:
        return {}
    where = f"{SIGNS} of {bundle.path}"
    try:
        content = {"signs": parse_json(bundle.read(SIGNS))}
    except ValueError as error:
        raise BundleError(f"{where} is damaged ({error}). {EXPORT_AGAIN}") from None
    signs = validated(DrawnSigns, content, error=BundleError, before=where, fix=EXPORT_AGAIN).signs
    return {name: signs[name] for name in bundle.classes if name in signs}


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and compare the checksums of all its files.

    Args:
        path: A folder, or a ZIP file with its files at the top or in one folder.

    Raises:
        BundleError: If it is missing, damaged, incomplete, or of another format.
    """
    path = expanded(path)
    info = parse_manifest(read_file(path, BUNDLE_MANIFEST, MAX_MANIFEST), str(path))
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
    size = 0
    for name in info["files"]:
        data = bundle.read(name)
        size += len(data)
        if size > MAX_BUNDLE:
            raise BundleError(f"{path} has more bytes than {MAX_BUNDLE:,}: it is not used.")
        if name == CLASSES and _names(data) != bundle.classes:
            raise BundleError(
                f"{CLASSES} of {path} names other classes than {BUNDLE_MANIFEST}. {EXPORT_AGAIN}"
            )
    return bundle


def _names(data: bytes) -> tuple[str, ...] | None:
    try:
        return tuple(parse_json(data))
    except (ValueError, TypeError):
        return None
