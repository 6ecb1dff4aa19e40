"""Validation of the configurations of all verbs, before data or torch is touched."""

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from signlang.errors import SettingError, suggestion
from signlang.files import is_plain_name

# network -> side of the smallest image that its layers can work on, in pixels
MINIMUM_SIZES: Final[Mapping[str, int]] = {
    "resnet18": 32,
    "mobilenetv2": 32,
    "squeezenet": 32,
    "simple_cnn": 27,
    "mobilenetv2_dense": 32,
    "timm": 8,
}
# mean and standard deviation of red, green and blue, of pixels in 0 to 1
NORMALIZATIONS: Final[Mapping[str, tuple[list[float], list[float]]]] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "unit": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
}


def check_image_size(name: str, image_size: int) -> None:
    """Refuse images that are too small for a network.

    Raises:
        SettingError: Names the smallest side.

    >>> check_image_size("simple_cnn", 100)
    """
    smallest = MINIMUM_SIZES[name]
    if image_size < smallest:
        raise SettingError(
            f"image_size={image_size} is too small for {name}: it needs at least {smallest}."
        )


Rule = tuple[Callable[[Any], bool], str]


def _whole(least: int) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return holds, f"must be a whole number of at least {least}"


def _number(test: Callable[[float], bool], text: str) -> Rule:
    def holds(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and test(float(value))

    return holds, f"must be {text}"


def _flag() -> Rule:
    return lambda value: isinstance(value, bool), "must be true or false"


def _word(words: tuple[str, ...]) -> Rule:
    return lambda value: value in words, f"must be one of {', '.join(words)}"


RULES: Final[Mapping[str, Rule]] = {
    "folds": _whole(2),
    "fold": _whole(0),
    "seed": _whole(0),
    "batch_size": _whole(1),
    "workers": _whole(0),
    "image_size": _whole(1),
    "overwrite": _flag(),
    "verbose": _flag(),
    "label_smoothing": _number(lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "wanted_precision": _number(lambda x: 0 < x < 1, "a number between 0 and 1"),
    "trainer.max_epochs": _whole(1),
    "model.pretrained": _flag(),
    "model.normalization": _word((*NORMALIZATIONS, "training")),
    "data.on_bad_image": _word(("error", "exclude")),
    "split.name": _word(("stratified", "signer", "blocks")),
    "split.seed": _whole(0),
}
OTHER_COMPONENTS: Final = ("split", "data.source", "augment.transforms", "trainer")
OPTIONAL: Final[Mapping[str, Rule]] = {
    "optimizer.lr": _number(lambda x: x > 0, "a number above 0"),
    "optimizer.weight_decay": _number(lambda x: x >= 0, "a number of at least 0"),
    "split.blocks": _whole(2),
    "augment.background_weight": _number(lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "data.stored_size": _whole(1),
}


def check_train_config(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, without reading data or importing torch.

    Raises:
        SettingError: Names the setting, what it is and what it must be.
    """
    for key, (holds, text) in RULES.items():
        value = setting(cfg, key)
        if not holds(value):
            raise SettingError(f"{key}={value}: it {text}.")
    for key, (holds, text) in OPTIONAL.items():
        value = setting(cfg, key)
        if value is not None and not holds(value):
            raise SettingError(f"{key}={value}: it {text}.")
    _check_fold(cfg)
    _check_validation(cfg.split.validation)
    _check_network(cfg)
    _check_files(cfg)


def setting(cfg: DictConfig, key: str) -> Any:
    """Value of a dotted key, None where there is none, resolved.

    Raises:
        SettingError: If it is mandatory and missing, or refers to something that is not there.
    """
    try:
        return OmegaConf.select(cfg, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise SettingError(f"{key} is missing: {first}.") from None


def _check_fold(cfg: DictConfig) -> None:
    if cfg.fold >= cfg.folds:
        raise SettingError(
            f"fold={cfg.fold}: there are {cfg.folds} folds, counted from 0 to {cfg.folds - 1}."
        )


def _check_validation(share: Any) -> None:
    if share == "fold":
        return
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 0.5:
        raise SettingError(
            f"split.validation={share}: it must be a share of the training folds above 0 and up to "
            "0.5, or the word fold (the test fold also chooses the checkpoint)."
        )


def _check_network(cfg: DictConfig) -> None:
    for key in ("model", "model.network", "loss", "optimizer", *OTHER_COMPONENTS):
        target = setting(cfg, f"{key}._target_")
        if not isinstance(target, str) or "." not in target:
            raise SettingError(
                f"{key}._target_={target}: it must be the dotted path of a class or function, "
                "e.g. my_networks.TinyNet."
            )
    module, _, name = str(cfg.model.network._target_).rpartition(".")
    if module == "signlang.models.networks" and name in MINIMUM_SIZES:
        check_image_size(name, cfg.image_size)
    if cfg.model.name == "timm" and not isinstance(setting(cfg, "model.architecture"), str):
        raise SettingError("model=timm needs model.architecture=NAME, e.g. efficientnet_b0.")


def _check_files(cfg: DictConfig) -> None:
    for key in ("model.weights", "data.root", "augment.backgrounds"):
        value = setting(cfg, key)
        if value is not None and not Path(str(value)).expanduser().exists():
            raise SettingError(f"{key}={value}: there is no such file or folder.")
    if cfg.data.name == "folder" and cfg.data.root is None:
        raise SettingError("data=folder needs data.root=DIR, a folder with one folder per sign.")
    if cfg.split.name == "signer" and not cfg.data.signers:
        raise SettingError(
            "split=signer needs data.signers=FILE, a CSV path,signer: who is in each image."
        )
    precision, known = cfg.trainer.precision, ("auto", "32-true", "bf16-mixed")
    if str(precision) not in known:
        raise SettingError(f"trainer.precision={precision}: {suggestion(str(precision), known)}")


DESCRIBE_SHARED: Final = ("folds", "seed", "verbose", "split.name", "split.seed")
DESCRIBE_RULES: Final[dict[str, Rule]] = {
    "near": (
        lambda x: isinstance(x, int | float) and not isinstance(x, bool) and 0.5 <= x <= 1,
        "must be a correlation from 0.5 to 1, where 1 is the same image",
    ),
    "detail": (
        lambda x: isinstance(x, int | float) and not isinstance(x, bool) and x > 0,
        "must be a number of standard deviations above 0",
    ),
    "samples": (
        lambda x: isinstance(x, int) and not isinstance(x, bool) and 1 <= x <= 100,
        "must be a whole number from 1 to 100",
    ),
}


def check_describe_config(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, in milliseconds.

    Raises:
        SettingError: Names the setting, what it is and what it must be.
    """
    for key, (holds, text) in {
        **{key: RULES[key] for key in DESCRIBE_SHARED},
        **DESCRIBE_RULES,
    }.items():
        value = setting(cfg, key)
        if not holds(value):
            raise SettingError(f"{key}={value}: it {text}.")
    blocks = setting(cfg, "split.blocks")
    holds, text = OPTIONAL["split.blocks"]
    if blocks is not None and not holds(blocks):
        raise SettingError(f"split.blocks={blocks}: it {text}.")
    root = setting(cfg, "data.root")
    if root is not None and not Path(str(root)).expanduser().exists():
        raise SettingError(f"data.root={root}: there is no such file or folder.")


EVALUATE_SHARED: Final = (
    "folds",
    "seed",
    "verbose",
    "data.on_bad_image",
    "split.name",
    "split.seed",
)
OF_WEIGHTS: Final = ("classes", "mean", "std", "size", "swap_axes")
OF_RUNS: Final = ("unseen", "calibrate", "wanted_precision")
FILES: Final = ("run", "bundle", "model.weights", "classes", "mapping", "data.root")


def _three(least: float) -> Rule:
    def holds(value: Any) -> bool:
        numbers = list(value) if isinstance(value, list | ListConfig) else []
        return len(numbers) == 3 and all(
            isinstance(x, int | float) and math.isfinite(x) and x >= least for x in numbers
        )

    return holds, f"must be [R,G,B], three numbers of at least {least:g}"


EVALUATE_OPTIONAL: Final[Mapping[str, Rule]] = {
    "optimizer.lr": _number(lambda x: x > 0, "a number above 0"),
    "fold": RULES["fold"],
    "split.blocks": OPTIONAL["split.blocks"],
    "size": RULES["image_size"],
    "mean": _three(0),
    "std": _three(1e-6),
    "wanted_precision": RULES["wanted_precision"],
    **dict.fromkeys(("swap_axes", "unseen", "calibrate", "trust"), RULES["overwrite"]),
}


def check_evaluate_config(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, in milliseconds.

    Raises:
        SettingError: Names the setting, what it is and what it must be.
    """
    for key in EVALUATE_SHARED:
        _check_evaluate(key, setting(cfg, key), RULES[key])
    for key, rule in EVALUATE_OPTIONAL.items():
        value = setting(cfg, key)
        if value is not None:
            _check_evaluate(key, value, rule)
    _check_predictor(cfg)
    for key in FILES:
        value = setting(cfg, key)
        if value is not None and not Path(str(value)).expanduser().exists():
            raise SettingError(f"{key}={value}: there is no such file or folder.")
    if cfg.data.name == "folder" and cfg.data.root is None:
        raise SettingError("data=folder needs data.root=DIR, a folder with one folder per sign.")
    if cfg.fold is not None and cfg.fold >= cfg.folds:
        raise SettingError(
            f"fold={cfg.fold}: there are {cfg.folds} folds, counted from 0 to {cfg.folds - 1}."
        )


def _check_evaluate(key: str, value: Any, rule: Rule) -> None:
    holds, text = rule
    if not holds(value):
        raise SettingError(f"{key}={value}: it {text}.")


def _check_predictor(cfg: DictConfig) -> None:
    """There must be one network, and no setting that is for another kind."""
    kinds = {"run": cfg.run, "bundle": cfg.bundle, "model": setting(cfg, "model.name")}
    given = [kind for kind, value in kinds.items() if value is not None]
    if len(given) != 1:
        raise SettingError(
            "Which network is to be evaluated? Give one of run=RUN, bundle=BUNDLE, and "
            "model=NAME model.weights=FILE classes=FILE"
            + (f", not {' and '.join(given)}." if given else ".")
        )
    (kind,) = given
    if kind == "model":
        lacking = [key for key in ("model.weights", "classes") if setting(cfg, key) is None]
        if lacking:
            raise SettingError(
                f"model={cfg.model.name} needs {' and '.join(f'{key}=FILE' for key in lacking)}: "
                "its weights, and the names of its classes in order."
            )
    idle = [*(OF_WEIGHTS if kind != "model" else ()), *(OF_RUNS if kind != "run" else ())]
    for key in idle:
        if cfg[key] not in (None, False):
            only = "model=NAME" if key in OF_WEIGHTS else "run=RUN"
            raise SettingError(f"{key}={cfg[key]} is for {only}, it has no effect with {kind}.")


EXPORT_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
FORMATS: Final = ("onnx", "torch_export")
GENERATED: Final = "generated"


def check_export_config(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, in milliseconds.

    Raises:
        SettingError: Names the setting, what it is and what it must be.
    """
    missing = [name for name in EXPORT_PACKAGES if find_spec(name) is None]
    if missing:
        raise SettingError(f'An export needs {", ".join(missing)}: pip install "signlang[export]".')
    if not Path(str(cfg.run)).expanduser().is_dir():
        raise SettingError(f"run={cfg.run}: there is no such folder.")
    if cfg.images is not None and not Path(str(cfg.images)).expanduser().exists():
        raise SettingError(f"images={cfg.images}: there is no such folder.")
    for key in ("zip", "overwrite", "quantize", "trust"):
        if not isinstance(cfg[key], bool):
            raise SettingError(f"{key}={cfg[key]}: it must be true or false.")
    if cfg.name is not None and not _is_name(str(cfg.name)):
        raise SettingError(f"name={cfg.name}: it must do as the name of a folder.")
    _check_formats(cfg.formats)
    _check_numbers(cfg)
    if cfg.quantize and cfg.verify == GENERATED:
        raise SettingError(
            "quantize=true needs the run's images, to calibrate and to measure what it costs: "
            "leave verify=generated out, or quantize=true."
        )


def _is_name(name: str) -> bool:
    return is_plain_name(name) and "/" not in name and name.strip() == name and name != "."


def _check_formats(formats: Any) -> None:
    given = [formats] if isinstance(formats, str) else list(formats)
    for name in given:
        if name not in FORMATS:
            raise SettingError(f"formats={name}: {suggestion(str(name), FORMATS)}")
    if "onnx" not in given:
        raise SettingError("formats: onnx must be among them, for it is what a bundle is used by.")


def _check_numbers(cfg: DictConfig) -> None:
    if cfg.verify != GENERATED and not _is_count(cfg.verify):
        raise SettingError(
            f"verify={cfg.verify}: it must be a number of images of at least 1, or the word "
            "generated (the run's images are gone: only drawn ones are compared)."
        )
    if not _is_count(cfg.calibration_images):
        raise SettingError(f"calibration_images={cfg.calibration_images}: it must be at least 1.")
    loss = cfg.int8_loss
    if not isinstance(loss, int | float) or isinstance(loss, bool) or not 0 <= loss < 1:
        raise SettingError(f"int8_loss={loss}: it must be a number from 0 to below 1.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
