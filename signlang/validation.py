"""Schemas of the configurations of train, describe, evaluate and export.

Each verb checks its configuration in milliseconds, before data is read or torch is imported.
"""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from signlang.components import OWN_NETWORKS, check_timm_name
from signlang.constraints import (
    Batches,
    Count,
    Duration,
    ExistingFile,
    ExistingFolder,
    ExistingPath,
    Index,
    Place,
    Positive,
    Share,
    Strict,
    Text,
    requirement_of,
    typed,
    validated,
)
from signlang.errors import SettingError, first_line, suggestion
from signlang.files import expanded, is_plain_name
from signlang.system import cpu_count

# network -> smallest image size that its layers can work on, in pixels
MINIMUM_SIZES: Final[Mapping[str, int]] = {
    "resnet18": 32,
    "mobilenetv2": 32,
    "squeezenet": 32,
    "simple_cnn": 27,
    "mobilenetv2_dense": 32,
    "timm": 8,
    "landmarks": 8,
    "fusion": 64,
}
POINTS_SIZE: Final = 8  # width and height of the image that holds the points of a hand
POINTS_ROW: Final = 64  # pixels of the row that holds them under a crop
LARGEST_IMAGE: Final = 2048  # width in pixels; a batch of 32 takes 1.6 GB before the first layer
# mean and standard deviation of red, green and blue, of pixels in 0 to 1
NORMALIZATIONS: Final[Mapping[str, tuple[list[float], list[float]]]] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "unit": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
}


def check_image_size(name: str, image_size: int) -> None:
    """Refuse images that are too small for a network.

    Raises:
        SettingError: Names the smallest size.

    >>> check_image_size("simple_cnn", 100)
    """
    smallest = MINIMUM_SIZES[name]
    if image_size < smallest:
        raise SettingError(
            f"image_size={image_size} is too small for {name}: it needs at least {smallest}."
        )


Target = Annotated[
    str,
    Field(
        pattern=r"\.",
        description="the dotted path of a class or function, e.g. my_networks.TinyNet",
    ),
]
Pretrained = Annotated[
    Literal["auto"] | bool,
    Field(description="auto (a hub's weights where they can be had), true or false"),
]
Precision = Annotated[float, Field(gt=0, lt=1)]


def _check_folder_name(name: str) -> str:
    if not is_plain_name(name) or "/" in name or name.strip() != name or name == ".":
        raise ValueError("it must do as the name of a folder: not empty, and without / or ..")
    return name


FolderName = Annotated[Text, AfterValidator(_check_folder_name)]


class Config(Strict, extra="ignore"):
    """A node of a configuration, which may have keys that only the component itself knows."""


class Component(Config):
    """A component that Hydra instantiates, of ours or of the user's own."""

    target: Target = Field(alias="_target_")


class NetworkConfig(Component):
    """A network."""

    model_name: Any = None  # of timm.create_model


class ModelConfig(Component):
    """The LightningModule and its network."""

    name: FolderName
    network: NetworkConfig
    architecture: str = Field(
        default="", description="the name of a network of timm, e.g. efficientnet_b0"
    )
    normalization: Literal["imagenet", "half", "unit", "training"]
    pretrained: Pretrained
    weights: ExistingFile | None = None

    @model_validator(mode="after")
    def _check_timm(self) -> "ModelConfig":
        """A network of timm must be there, however it is named."""
        names = {
            f"{OWN_NETWORKS}.timm": self.architecture,
            "timm.create_model": self.network.model_name,
        }
        name = names.get(self.network.target)
        if isinstance(name, str) and ":" not in name:  # with a colon it is on a hub or in a folder
            check_timm_name(name)
        return self


class OptimizerConfig(Component):
    """An optimizer; one of the user's own may lack either."""

    lr: Positive = 1.0
    weight_decay: float = Field(default=0.0, ge=0)


BOX_SOURCES: Final = ("auto", "yolo", "coco", "voc", "columns", "none")


class DataConfig(Config):
    """A data set."""

    name: Text
    source: Component
    root: ExistingPath | None = None
    signers: Text | None = None
    pattern: Text | None = None
    groups: ExistingFile | None = None
    boxes: Text | None = None
    box_margin: float = Field(
        default=0.1, ge=0, le=2, description="a share of the box's width and height, from 0 to 2"
    )
    sets: list[Any] | dict[str, Any] | None = Field(
        default=None, description="[SET,SET...] or {NAME: DIR, NAME: DIR}, two or more data sets"
    )
    mapping: ExistingFile | None = None
    classes: Literal["union", "common"] | list[Text | int] = Field(
        default="union", description="union, common, or a list of classes, e.g. [A,B,C]"
    )
    on_bad_image: Literal["error", "exclude"]
    stored_size: Count | None = None
    pretrained: Pretrained = "auto"

    @model_validator(mode="after")
    def _check_boxes(self) -> "DataConfig":
        boxes = self.boxes
        if boxes in {None, *BOX_SOURCES} or expanded(str(boxes)).is_file():
            return self
        raise ValueError(
            f"data.boxes={boxes}: it must be {', '.join(BOX_SOURCES)} or a CSV file that is there. "
            f"{suggestion(str(boxes), BOX_SOURCES)}"
        )


class SplitConfig(Component):
    """A rule that assigns images to folds, of ours or of the user's own."""

    name: Text
    seed: Index
    validation: Literal["fold"] | Annotated[float, Field(gt=0, le=0.5)] = Field(
        description="a share of the training folds above 0 and up to 0.5, or the word fold (the "
        "test fold also chooses the checkpoint)"
    )
    folds: Count | None = Field(
        default=None, description="1, where split brings one fold, or the number of data sets"
    )
    blocks: int | None = Field(default=None, ge=2)
    gap: int | None = Field(default=None, ge=0)
    trained: list[Text] | None = Field(
        default=None, description="null, or a list of names of data.sets, e.g. [mine]"
    )


class AugmentConfig(Config):
    """Random transforms of training images."""

    transforms: Component
    backgrounds: ExistingPath | None = None
    background_weight: Share | None = None


class HandsConfig(Config):
    """What the network sees of an image: all of it, a crop around the hand, or its points."""

    name: Text
    target: Target | None = Field(default=None, alias="_target_")
    margin: float = Field(default=0.0, ge=0, le=4)
    mirror: bool = False
    not_found: Literal["full", "blank"] = Field(
        default="full", description="full (the whole image) or blank (a grey one)"
    )
    image_size: Count | None = None
    views: Literal[1, 2] = Field(
        default=1, description="1, or 2 for the mean of the points of a hand and its mirror image"
    )
    model: ExistingFile | None = None


# options of Lightning's Trainer that are chosen elsewhere: what to type instead
CHOSEN_ELSEWHERE: Final[Mapping[str, str]] = {
    "logger": "loggers are chosen by logger=none, logger=csv and so on",
    "callbacks": "callbacks are chosen by callbacks=none, callbacks.NAME=null, and "
    "+callbacks.NAME._target_=CLASS",
    "plugins": "the run's own plugin writes its checkpoints; leave it out",
    "default_root_dir": "runs go to runs_dir=DIR",
    "barebones": "Lightning then logs no metrics, and a run needs them; say callbacks=none "
    "logger=none trainer.enable_checkpointing=false instead",
}


class TrainerConfig(Component):
    """Options of Lightning's Trainer; it checks those that are not here."""

    max_epochs: Literal[-1] | Count = Field(
        description="a whole number of at least 1, or -1 (no limit, with trainer.max_time or "
        "trainer.max_steps)"
    )
    max_steps: Literal[-1] | Count = Field(
        default=-1, description="a whole number of at least 1, or -1 (no limit)"
    )
    max_time: Duration = None
    fast_dev_run: bool | Count = False
    overfit_batches: Literal[0] | Batches = 0
    limit_train_batches: Batches | None = None
    limit_val_batches: Batches | None = None
    limit_test_batches: Batches | None = None
    enable_checkpointing: bool = True
    precision: Literal["auto", "32-true", "bf16-mixed"]
    accelerator: Text = "auto"
    devices: Count = 1
    num_nodes: Count = 1
    strategy: Any = None
    sync_batchnorm: bool = False
    use_distributed_sampler: bool = False
    gradient_clip_val: float | None = Field(default=None, ge=0)
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    logger: Any = None
    callbacks: Any = None
    plugins: Any = None
    default_root_dir: Any = None
    barebones: Any = None

    @model_validator(mode="after")
    def _check_switches(self) -> "TrainerConfig":
        for name, instead in CHOSEN_ELSEWHERE.items():
            value = getattr(self, name)
            if value is not None and (name != "barebones" or value is not False):
                raise ValueError(f"trainer.{name}={typed(value)}: {instead}.")
        return self

    @property
    def processes(self) -> int:
        """How many train the run together."""
        return self.devices * self.num_nodes

    @model_validator(mode="after")
    def _check_processes(self) -> "TrainerConfig":
        """Several processes share their gradients by DDP, and the data module divides batches."""
        if self.use_distributed_sampler:
            raise ValueError(
                "trainer.use_distributed_sampler=true: the data module divides each batch among "
                "the devices; leave it out."
            )
        if self.processes == 1:
            return self
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"trainer.strategy={typed(self.strategy)}: a run on several devices is trained "
                f"with ddp, or {UNUSED_PARAMETERS} if the network does not use all of its weights."
            )
        if self.accelerator not in {"auto", "cpu", "gpu", "cuda"}:
            raise ValueError(
                f"trainer.accelerator={self.accelerator}: a run is trained on several devices on "
                "cpu or gpu only; say trainer.devices=1."
            )
        if self.sync_batchnorm and self.accelerator == "cpu":
            raise ValueError(
                "trainer.sync_batchnorm=true: PyTorch has it for GPUs only; leave it out."
            )
        return self


UNUSED_PARAMETERS: Final = "ddp_find_unused_parameters_true"
STRATEGIES: Final = (None, "auto", "ddp", UNUSED_PARAMETERS)


class FoldsConfig(Config):
    """What train, describe and evaluate share."""

    folds: int = Field(ge=1, description="a whole number of at least 2")
    seed: Index
    runs_dir: Place
    cache_dir: Place
    verbose: bool
    data: DataConfig
    split: SplitConfig

    @model_validator(mode="after")
    def _check_folds(self) -> "FoldsConfig":
        if self.split.name == "dataset" and not self.data.sets:
            raise ValueError("split=dataset needs data=joined data.sets=[SET,SET...].")
        if self.split.name == "dataset" and self.folds != self.split.folds:
            raise ValueError(
                f"folds={self.folds}: split=dataset has a fold for each of the {self.split.folds} "
                "sets; leave folds out."
            )
        if self.split.folds is not None and self.folds != self.split.folds:
            raise ValueError(
                f"folds={self.folds}: split={self.split.name} takes the data set's own subsets, "
                "which are one fold; leave folds out."
            )
        if self.split.folds is None and self.folds < 2:
            raise ValueError(f"folds={self.folds}: it must be a whole number of at least 2.")
        return self

    @model_validator(mode="after")
    def _check_data(self) -> "FoldsConfig":
        if self.data.source.target == "signlang.data.sources.folder" and self.data.root is None:
            raise ValueError("data=folder needs data.root=DIR, a folder with one folder per sign.")
        if self.data.source.target == "signlang.data.sources.joined" and not self.data.sets:
            raise ValueError(
                "data=joined needs data.sets=[SET,SET...], names of data sets or folders."
            )
        if self.split.name == "signer" and not (self.data.signers or self.data.pattern):
            raise ValueError(
                "split=signer needs data.signers=FILE, a CSV path,signer: who is in each image."
            )
        return self


class TrainConfig(FoldsConfig):
    """`conf/train.yaml`."""

    study: FolderName
    fold: Index
    batch_size: Count
    workers: Annotated[int, Field(ge=0, le=4 * cpu_count())]
    image_size: int = Field(ge=1, le=LARGEST_IMAGE)
    overwrite: bool
    lr_find: bool = False
    ckpt_path: ExistingFile | None = None
    label_smoothing: Share
    mixup: float = Field(default=0.0, ge=0, le=10)
    cutmix: float = Field(default=0.0, ge=0, le=10)
    balance: Literal["auto", "none", "loss", "sampler", "signer", "set"] = Field(
        default="none",
        description="loss (weights of the classes), sampler (equal shares of the classes in each "
        "epoch), signer (likewise, and of the signers of each), set (likewise, and of the sets of "
        "each class), none, or auto (sampler where they are uneven)",
    )
    wanted_precision: Precision
    trainer: TrainerConfig
    model: ModelConfig
    loss: Component
    optimizer: OptimizerConfig
    augment: AugmentConfig
    hands: HandsConfig = HandsConfig(name="none")
    callbacks: Mapping[str, Any] = Field(default={})
    logger: Mapping[str, Any] = Field(default={})

    @field_validator("runs_dir", mode="after")
    @classmethod
    def _check_place(cls, runs_dir: str) -> str:
        """No folder of the path may be a file, and a new folder must be possible."""
        folder = expanded(runs_dir)
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise ValueError(f"{folder} is a file: choose a folder, which need not be there yet.")
        if not os.access(folder, os.W_OK):
            raise ValueError(f"{folder} cannot be written to: choose another folder.")
        return runs_dir

    @model_validator(mode="after")
    def _check_named_components(self) -> "TrainConfig":
        """Each callback and logger names what it is, or is switched off."""
        for group in ("callbacks", "logger"):
            for name, node in getattr(self, group).items():
                if node is None:
                    continue
                key = f"{group}.{name}"
                if not isinstance(node, Mapping):
                    raise ValueError(
                        f"{key}={typed(node)}: null switches it off, its settings are "
                        f"{key}.KEY=VALUE."
                    )
                target = node.get("_target_")
                if not isinstance(target, str) or "." not in target:
                    raise ValueError(
                        f"{key}._target_={typed(target)}: it must be the dotted path of a class or "
                        "function, e.g. my_callbacks.Beep."
                    )
        return self

    @model_validator(mode="after")
    def _check_best(self) -> "TrainConfig":
        """The checkpoint that is tested must be found."""
        checkpoint = self.callbacks.get("checkpoint")
        name = checkpoint.get("filename", "best") if isinstance(checkpoint, Mapping) else "best"
        if name != "best":
            raise ValueError(
                f"callbacks.checkpoint.filename={name}: it must be best, the checkpoint that is "
                "tested; add another as +callbacks.NAME, or say callbacks.checkpoint=null."
            )
        return self

    @model_validator(mode="after")
    def _check_finder(self) -> "TrainConfig":
        if self.lr_find and self.trainer.fast_dev_run:
            raise ValueError("lr_find=true takes 100 steps: leave trainer.fast_dev_run out.")
        if self.lr_find and self.ckpt_path is not None:
            raise ValueError("lr_find=true starts from the first weights: leave ckpt_path out.")
        return self

    @model_validator(mode="after")
    def _check_devices(self) -> "TrainConfig":
        """Each device has an equal part of every batch, and shares the gradients of all weights."""
        devices = self.trainer.processes
        if self.batch_size % devices:
            divisible = max(1, round(self.batch_size / devices)) * devices
            raise ValueError(
                f"batch_size={self.batch_size} cannot be divided equally among {devices} devices: "
                f"say batch_size={divisible}, of which each computes {divisible // devices}."
            )
        if devices > 1 and self.callbacks.get("finetuning") is not None:
            raise ValueError(
                "callbacks.finetuning thaws weights in the middle of the training, which several "
                "devices would not share: say trainer.devices=1, or callbacks=default."
            )
        return self

    @model_validator(mode="after")
    def _check_end(self) -> "TrainConfig":
        """Training must end, and a schedule must know when."""
        if self.trainer.max_epochs != -1 or self.trainer.max_steps != -1:
            return self
        if self.callbacks.get("one_cycle") is not None:
            raise ValueError(
                "trainer.max_epochs=-1: callbacks.one_cycle needs the number of steps; give "
                "trainer.max_steps=N, or switch it off with callbacks.one_cycle=null."
            )
        if self.trainer.max_time is None and self.callbacks.get("early_stopping") is None:
            raise ValueError(
                "trainer.max_epochs=-1: the training would never end; give "
                "trainer.max_time=DD:HH:MM:SS or trainer.max_steps=N."
            )
        return self

    @model_validator(mode="after")
    def _check_points(self) -> "TrainConfig":
        """Points are no image: only their own network reads them, and no transform turns them."""
        points = self.hands.target == "signlang.hands.hand_input.HandPoints"
        if self.model.network.target == f"{OWN_NETWORKS}.landmarks" and not points:
            raise ValueError("model=landmarks reads points of the hand: say hands=landmarks.")
        if not points:
            return self
        if self.image_size != POINTS_SIZE:
            raise ValueError(
                f"image_size={self.image_size}: the points of hands=landmarks are an image of "
                f"{POINTS_SIZE} x {POINTS_SIZE}; say model=landmarks and image_size={POINTS_SIZE}."
            )
        untransformed = self.augment.transforms.target == "signlang.data.augmentation.none"
        blends = self.augment.backgrounds is not None or bool(self.augment.background_weight)
        if not untransformed or blends:
            raise ValueError(
                "augment: the points of hands=landmarks cannot be transformed as images; say "
                "augment=none (model=landmarks turns and moves them itself)."
            )
        return self

    @model_validator(mode="after")
    def _check_mixing(self) -> "TrainConfig":
        """Points of two hands cannot be blended as pixels."""
        if (self.mixup or self.cutmix) and self.hands.name in {"landmarks", "both"}:
            raise ValueError(
                f"mixup, cutmix: images of hands={self.hands.name} hold points, which cannot be "
                "mixed; leave both out, or say hands=crop."
            )
        return self

    @model_validator(mode="after")
    def _check_both(self) -> "TrainConfig":
        """A crop with points is read by a network of both, at its own size."""
        module, _, name = self.model.network.target.rpartition(".")
        own_network = name if module == OWN_NETWORKS else ""
        if self.hands.target != "signlang.hands.hand_input.HandBoth":
            if own_network == "fusion":
                raise ValueError("model=fusion reads crop and points of the hand: say hands=both.")
            return self
        if own_network not in {"", "fusion"}:
            raise ValueError(
                f"hands=both holds points, which model={own_network} does not read: say "
                "model=fusion, or hands=crop."
            )
        if self.image_size < POINTS_ROW or self.hands.image_size != self.image_size:
            raise ValueError(
                f"image_size={self.image_size}: hands=both needs at least {POINTS_ROW}, for the "
                "points, and hands.image_size is the same; leave that out."
            )
        return self

    @model_validator(mode="after")
    def _check_fold_and_size(self) -> "TrainConfig":
        check_fold(self.fold, self.folds)
        module, _, name = self.model.network.target.rpartition(".")
        if module == "signlang.models.networks" and name in MINIMUM_SIZES:
            check_image_size(name, self.image_size)
        return self


def check_fold(fold: int | None, folds: int) -> None:
    """Refuse a fold that there is not; None are all.

    Raises:
        SettingError: If it is not below the number of folds.

    >>> check_fold(4, 5)
    """
    if fold is not None and fold >= folds:
        if folds == 1:
            raise SettingError(f"fold={fold}: there is one fold, 0.")
        raise SettingError(f"fold={fold}: there are {folds} folds, counted from 0 to {folds - 1}.")


class DescribeConfig(FoldsConfig):
    """`conf/describe.yaml`."""

    near: float = Field(
        ge=0.5, le=1, description="a correlation from 0.5 to 1, where 1 is the same image"
    )
    detail: float = Field(gt=0, description="a number of standard deviations above 0")
    samples: int = Field(ge=1, le=100)
    predictions: Text | list[Text] | None = None
    out: Place
    hands: HandsConfig = HandsConfig(name="none")


def _check_rgb(numbers: list[float]) -> list[float]:
    if len(numbers) != 3:
        raise ValueError("it must be [R,G,B], three numbers.")
    return numbers


OF_WEIGHTS: Final = ("classes", "mean", "std", "size", "swap_axes")
OF_RUNS: Final = ("unseen", "calibrate", "wanted_precision")
CORRUPTIONS: Final = (
    "brightness", "contrast", "blur", "motion_blur", "jpeg", "noise", "rotation", "scale", "shift",
    "occlusion", "mirror", "background",
)  # fmt: skip


def _check_corruptions(value: object) -> object:
    if isinstance(value, bool):
        return value
    for name in value if isinstance(value, list) else [value]:
        if name not in CORRUPTIONS:
            raise ValueError(
                f"{name} is no corruption; true tries all. {suggestion(str(name), CORRUPTIONS)}"
            )
    return value if isinstance(value, list) else [value]


class EvaluateConfig(FoldsConfig):
    """`conf/evaluate.yaml`."""

    run: ExistingPath | None = None
    bundle: ExistingPath | None = None
    model: ModelConfig | None = None
    classes: ExistingFile | None = None
    mean: Annotated[list[Annotated[float, Field(ge=0)]], AfterValidator(_check_rgb)] | None = None
    std: Annotated[list[Annotated[float, Field(ge=1e-6)]], AfterValidator(_check_rgb)] | None = None
    size: Count | None = None
    swap_axes: bool = False
    mapping: ExistingFile | None = None
    fold: Index | None = None
    unseen: bool = False
    calibrate: bool = False
    trust: bool = False
    wanted_precision: Precision | None = None
    evaluations_dir: Place
    out: Place | None = None
    corruptions: Annotated[bool | list[str], BeforeValidator(_check_corruptions)] = False

    @model_validator(mode="after")
    def _check_network(self) -> "EvaluateConfig":
        """There must be one network, and no setting that is for another kind."""
        kinds = {"run": self.run, "bundle": self.bundle, "model": self.model}
        networks = [kind for kind, value in kinds.items() if value is not None]
        if len(networks) != 1:
            raise ValueError(
                "Which network is to be evaluated? Give one of run=RUN, bundle=BUNDLE, and "
                "model=NAME model.weights=FILE classes=FILE"
                + (f", not {' and '.join(networks)}." if networks else ".")
            )
        (kind,) = networks
        if self.model:
            needed = {"model.weights": self.model.weights, "classes": self.classes}
            lacking = [f"{key}=FILE" for key, value in needed.items() if value is None]
            if lacking:
                raise ValueError(
                    f"model={self.model.name} needs {' and '.join(lacking)}: its weights, and the "
                    "names of its classes in order."
                )
        ineffective = [
            *(OF_WEIGHTS if kind != "model" else ()),
            *(OF_RUNS if kind != "run" else ()),
        ]
        for key in ineffective:
            if (value := getattr(self, key)) not in (None, False):
                only = "model=NAME" if key in OF_WEIGHTS else "run=RUN"
                raise ValueError(
                    f"{key}={typed(value)} is for {only}, it has no effect with {kind}."
                )
        check_fold(self.fold, self.folds)
        return self


EXPORT_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
GENERATED: Final = "generated"


def _check_formats(formats: list[str]) -> list[str]:
    if "onnx" not in formats:
        raise ValueError("onnx must be among them, for it is what a bundle is used by.")
    return formats


class ExportConfig(Config):
    """`conf/export.yaml`."""

    run: Annotated[
        list[ExistingFolder],
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
        Field(min_length=1, description="the path of a run folder, or a list of them"),
    ]
    ensemble: Literal[False, "folds", "seeds"] = Field(description="false, folds or seeds")
    name: FolderName | None
    bundles_dir: Place
    out: Place | None
    cache_dir: Place
    zip: bool
    overwrite: bool
    formats: Annotated[
        list[Literal["onnx", "torch_export"]],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        AfterValidator(_check_formats),
    ]
    calibration: Literal["auto", "run", "study"]
    quantize: bool
    int8_loss: Share
    calibration_images: Count
    int8_training: Index
    verify: Literal["generated"] | Count = Field(
        description="a number of images of at least 1, or the word generated (the run's images are "
        "gone: only drawn ones are compared)"
    )
    images: ExistingPath | None
    trust: bool
    verbose: bool

    @model_validator(mode="after")
    def _check_images(self) -> "ExportConfig":
        if self.quantize and self.verify == GENERATED:
            raise ValueError(
                "quantize=true needs the run's images, to calibrate and to measure what it costs: "
                "leave verify=generated out, or quantize=true."
            )
        return self


ConfigModel = TypeVar("ConfigModel", bound=Config)


def validated_config(model: type[ConfigModel], cfg: DictConfig) -> ConfigModel:
    """Check the configuration of a verb, without reading data or importing torch.

    Raises:
        SettingError: Names each setting that cannot work, what it is and what it must be.
    """
    problems: list[str] = []
    values = _plain_config(cfg, model, problems)
    if problems:
        raise SettingError("\n".join(problems))
    checked = validated(model, values)
    _write_texts(checked, cfg)
    return checked


def _write_texts(checked: Config, cfg: DictConfig) -> None:
    """Write texts back that were typed as numbers, for those who read the configuration."""
    for name, field in type(checked).model_fields.items():
        key, value = field.alias or name, getattr(checked, name)
        if key not in cfg:
            continue
        if isinstance(value, Config) and isinstance(cfg[key], DictConfig):
            _write_texts(value, cfg[key])
        elif isinstance(value, str | Path) and isinstance(cfg[key], int):
            cfg[key] = str(cfg[key])


def _plain_config(node: Any, model: type[Config], problems: list[str], prefix: str = "") -> Any:
    """A configuration as dicts and lists, without references that no rule needs and that fail."""
    if not isinstance(node, DictConfig):
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    plain = {}
    for name in node:
        key = prefix + str(name)
        try:
            plain[name] = _plain_config(node[name], model, problems, f"{key}.")
        except MissingMandatoryValue:
            wanted = requirement_of(model, key)
            hint = f"it must be {wanted}" if wanted else f"give {key}=VALUE"
            problems.append(f"{key} is missing: {hint}.")
        except OmegaConfBaseException as error:
            if requirement_of(model, key):
                problems.append(f"{key} cannot be used: {first_line(error)}.")
    return plain


def check_train_config(cfg: DictConfig) -> None:
    """See `validated_config`."""
    validated_config(TrainConfig, cfg)


def check_describe_config(cfg: DictConfig) -> None:
    """See `validated_config`."""
    validated_config(DescribeConfig, cfg)


def check_evaluate_config(cfg: DictConfig) -> None:
    """See `validated_config`."""
    validated_config(EvaluateConfig, cfg)


def check_export_packages() -> None:
    """Look for the packages of an export.

    Raises:
        SettingError: If one is missing.
    """
    lacking = [name for name in EXPORT_PACKAGES if find_spec(name) is None]
    if lacking:
        raise SettingError(f'An export needs {", ".join(lacking)}: pip install "signlang[export]".')


def check_export_config(cfg: DictConfig) -> None:
    """See `validated_config`."""
    validated_config(ExportConfig, cfg)
