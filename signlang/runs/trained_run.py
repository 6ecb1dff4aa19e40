"""A finished run with its best checkpoint, its calibration and its source images."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image
from pydantic import Field

from signlang.arrays import Floats32, Ints, Pixels
from signlang.components import (
    TARGET,
    import_listed,
    import_target,
    read_saved_config,
    saved_value,
)
from signlang.console import track
from signlang.constraints import Index, Positive, Probability, Strict, read_validated
from signlang.data.boxes import Crop
from signlang.data.image_io import (
    BadImageError,
    batched,
    decode_crop,
    map_in_order,
    read_bytes,
    resize_image,
)
from signlang.data.sources import Root, images_root
from signlang.errors import DataError, RunError
from signlang.files import expanded
from signlang.hands.hand_input import HandInput, prepared, recorded_input
from signlang.inference.onnx_model import OnnxModel
from signlang.metrics.calibration import FILE, Calibration
from signlang.runs.folder import BEST, TRAIN_AGAIN, RunFolder
from signlang.runs.results import Run, require_run
from signlang.system import cpu_count

if TYPE_CHECKING:  # it imports torch
    from signlang.models.classifier import Classifier


HOLD_POINTS: Final = ("signlang HandPoints", "signlang HandBoth")


class CalibrationFile(Strict, extra="ignore"):
    """`calibration.json`, as far as it is read again; `kept` and `reason` are new in it."""

    temperature: Positive
    wanted_precision: Probability
    reject_threshold: Probability | None
    images: Index
    kept: bool = True
    reason: str = ""
    calibration_error: dict[str, dict[str, Probability]] = Field(default={})


def read_calibration(run: Path) -> Calibration | None:
    """Read `calibration.json` of a run folder; None where there is none.

    Raises:
        RunError: If it is damaged.
    """
    fix = "Delete it, or calibrate again."
    RunFolder(run).report_changes(FILE)
    content = read_validated(CalibrationFile, run / FILE, error=RunError, fix=fix)
    if content is None:
        return None
    values = content.model_dump(exclude={"calibration_error"})
    return Calibration(**values, test_error=content.calibration_error.get("test", {}))


@dataclass(frozen=True, eq=False)
class TrainedRun(Run):
    """A finished run with its network.

    Attributes:
        classifier: The checkpoint that was tested, on the processor, in evaluation mode.
        stored: The calibration that lies in its folder, if any.
    """

    classifier: "Classifier"
    stored: Calibration | None

    @property
    def members(self) -> "tuple[TrainedRun, ...]":
        """The runs whose probabilities are averaged: itself, see `deploy.ensemble`."""
        return (self,)

    @property
    def unseen(self) -> "Rows":
        """Paths and labels of images on which its accuracy can be measured."""
        return self.subset("test")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the logits."""
        return self.classifier.classes

    @property
    def calibration(self) -> Calibration:
        """Of its probabilities; temperature 1 and no threshold if none is stored."""
        return self.stored or Calibration()

    @property
    def image_size(self) -> int:
        """Width and height of the network's images, in pixels."""
        return self.classifier.image_size

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Sizes to which images are resized one after another, in pixels."""
        settings = self.record["settings"]
        holds_points = settings.get("hands") in HOLD_POINTS  # which are never resized
        stored = None if holds_points else settings.get("data.stored_size")
        sizes = (int(stored or self.image_size), self.image_size)
        return sizes[:1] if sizes[0] == sizes[1] else sizes

    def hand_input(self, cache_dir: str | None = None) -> HandInput | None:
        """What its network sees of an image; None where that is the whole image.

        Raises:
            SettingError: If the networks that find hands are not in the cache.
        """
        return recorded_input(self.record["settings"], cache_dir)

    @property
    def signers(self) -> int:
        """People in all images of the run, or 0 where that is not known."""
        names = {row["signer"] for row in self.folder.images}
        return 0 if "" in names else len(names)

    def subset(self, name: str) -> list[tuple[str, int]]:
        """Paths and labels of the images of a subset: `train`, `validation` or `test`.

        Raises:
            DataError: If `data.csv` names classes that the network does not know.
        """
        return self.folder.subset(name, self.classes)


def load_trained_run(
    path: Path, *, trust: bool = False, nodes: Mapping[str, Any] | None = None
) -> TrainedRun:
    """Read a finished run and load its best checkpoint.

    Args:
        path: Its folder.
        trust: Follow whatever code the run names; else only known networks are built.
        nodes: `_target_` and arguments of the LightningModule in the user's own configuration, see
            `components.configured_nodes`; nothing that the folder names is followed then.

    Raises:
        RunError: If there is no finished run, it is damaged, or names unknown code.
    """
    return load_network(require_run(path), trust=trust, nodes=nodes)


def load_network(
    run: Run, *, trust: bool = False, nodes: Mapping[str, Any] | None = None
) -> TrainedRun:
    """Load the best checkpoint of a run that has been read; see `load_trained_run`.

    Raises:
        RunError: If the checkpoint is missing or damaged, or names unknown code.
    """
    from signlang.models.classifier import load_classifier  # torch, once there is a run

    resolve = import_target if trust or nodes else import_listed
    module_nodes = dict(nodes or {})
    kind = str(module_nodes.pop(TARGET, "") or _module_target(run.path))
    checkpoint = run.metrics.get("checkpoint", BEST)
    if checkpoint is None:
        raise RunError(
            f"{run.path} holds no weights: it was trained with trainer.enable_checkpointing=false "
            "or trainer.fast_dev_run. Train it again without that setting."
        )
    file = run.folder.checkpoints / checkpoint
    model = load_classifier(file, resolve=resolve, kind=kind, nodes=module_nodes)
    stored = read_calibration(run.path)
    if stored is not None and run.is_optimistic:  # files of before measured it on the test fold
        stored = replace(stored, test_error={})
    trained = TrainedRun(run.path, run.metrics, run.record, run.history, model, stored)
    model.stored_sizes = trained.image_sizes[:-1]
    if "hands" in trained.record["settings"]:
        hands = cache(trained.hand_input)  # found when an image comes
        model.prepare = lambda image: prepared(image, hands())
    return trained


def _module_target(path: Path) -> str:
    """`_target_` of the LightningModule that the run's saved configuration names."""
    file = path / ".hydra" / "config.yaml"
    if not file.is_file():  # it is our own then, or its checkpoint will not fit
        return ""
    try:
        return str(saved_value(read_saved_config(file), f"model.{TARGET}") or "")
    except RunError as error:
        raise RunError(f"{error} {TRAIN_AGAIN}") from None


Rows = Sequence[tuple[str, int]]  # paths and labels
BATCH: Final = 64
IMAGES_MOVED: Final = (
    "Say where they are now with images=DIR, or have run and bundle compared on drawn images "
    "only, with verify=generated."
)


@dataclass(frozen=True)
class RunImages:
    """The images of a run, where they lie.

    Attributes:
        root: To which their paths are relative.
        size: First size that they are resized to, in pixels.
        crops: The part of an image that is used, by path; of whole images none.
        hands: What the network sees of an image; None: the whole image.
    """

    root: Root
    size: int
    crops: Mapping[str, Crop] = field(default_factory=dict)
    hands: HandInput | None = None

    def read(self, path: str) -> bytes:
        """Read the file of an image; of one with a crop, the crop as a PNG file.

        Raises:
            DataError: If it is not there, or unreadable.
        """
        try:
            data, crop = read_bytes(self.root / path), self.crops.get(path)
            return data if crop is None else _png(decode_crop(data, crop))
        except BadImageError as error:
            raise DataError(f"{self.root / path}: {error}. {IMAGES_MOVED}") from None

    def resized_image(self, path: str) -> Pixels:
        """Decode an image as training does: (size, size, 3).

        Raises:
            DataError: If it is not there, or damaged.
        """
        try:
            image = decode_crop(read_bytes(self.root / path), self.crops.get(path))
            return resize_image(prepared(image, self.hands), self.size)
        except BadImageError as error:
            raise DataError(f"{self.root / path}: {error}. {IMAGES_MOVED}") from None

    def batches(self, rows: Rows, description: str) -> Iterator[Pixels]:
        """Decode images in batches of at most 64: (n, size, size, 3)."""
        paths = [path for path, _ in rows]
        images = map_in_order(self.resized_image, paths, cpu_count(), 2 * BATCH)
        for batch in batched(track(images, description, len(rows)), BATCH):
            yield np.stack(batch)

    def probabilities(
        self, networks: Sequence[OnnxModel], rows: Rows, description: str
    ) -> list[Floats32]:
        """(n, classes) probabilities of each network."""
        outputs: list[list[Floats32]] = [[] for _ in networks]
        for batch in self.batches(rows, description):
            for network, of_network in zip(networks, outputs, strict=True):
                of_network.append(network(batch))
        return [np.concatenate(of_network) for of_network in outputs]


def find_images(run: TrainedRun, moved_to: str | None, cache_dir: str | None = None) -> RunImages:
    """Find the images of a run.

    Args:
        run: The run.
        moved_to: Where they are now; None asks the run's own configuration.
        cache_dir: The caller's cache, in which drawn images may be drawn again; None: they must be
            there.

    Raises:
        DataError: If they are gone.
    """
    size, crops = run.image_sizes[0], run.folder.crops
    hands = run.hand_input(cache_dir)
    if moved_to is not None:
        return RunImages(expanded(moved_to), size, crops, hands)
    try:
        return RunImages(images_root(run.path, cache_dir), size, crops, hands)
    except DataError as error:
        raise DataError(f"The images of {run.path} are not found: {error} {IMAGES_MOVED}") from None


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def label_array(rows: Rows) -> Ints:
    """(n,) labels."""
    return np.array([label for _, label in rows], dtype=np.int64)


def evenly_spaced(rows: Rows, most: int) -> Rows:
    """Take at most so many, spread evenly; they are sorted by class.

    >>> evenly_spaced([("a", 0), ("b", 0), ("c", 1), ("d", 1)], 2)
    [('a', 0), ('d', 1)]
    """
    if len(rows) <= most:
        return list(rows)
    return [rows[number] for number in np.linspace(0, len(rows) - 1, most).round().astype(int)]
