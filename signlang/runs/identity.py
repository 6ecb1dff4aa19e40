"""Name, settings and fingerprint of a run, and its provenance record."""

import hashlib
import importlib.util
import json
import platform
import re
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

import signlang
from signlang.constraints import typed
from signlang.files import (
    content_digest,
    data_set_name,
    expanded,
    file_digest,
    joined_name,
    parse_json,
)
from signlang.hands import hand_networks
from signlang.hydra_app import default_config
from signlang.system import device, git_commit, processor

# settings of where and how a run is trained, not of what it is; data has its own fingerprint
ELSEWHERE: Final = (
    "study", "runs_dir", "run_folder", "cache_dir", "overwrite", "verbose", "workers", "logger",
    "lr_find", "wanted_precision", "data.root", "data.signers",
    "data.pattern", "data.groups", "data.boxes", "data.box_margin", "data.source", "data.sets",
    "data.mapping", "data.classes", "data.pretrained", "model.weights", "model.learning_rate",
    "ckpt_path", "callbacks.explanations",
    "callbacks.images", "callbacks.progress", "callbacks.history", "callbacks.cost",
    "callbacks.last", "callbacks.checkpoint.save_weights_only",
)  # fmt: skip
# what the name of a run leaves out: the same, but for what may change the images or the weights
UNNAMED: Final = {"fold", *ELSEWHERE} - {
    "data.boxes", "data.box_margin", "data.source", "data.sets", "data.mapping", "data.classes",
    "data.pretrained", "model.weights", "model.learning_rate", "ckpt_path",
}  # fmt: skip
# settings that came later, with the value under which a run is what it was without them
NEUTRAL: Final = {"split.gap": 0, "balance": "none", "mixup": 0.0, "cutmix": 0.0,
                  "model.network.reject_empty": False, "model.network.dimensions": 3,
                  "model.network.dropout": 0.5,  # of squeezenet, as torchvision has it
                  "model.network.tensorflow": False}  # fmt: skip
PACKAGES: Final = (
    "torch", "torchvision", "timm", "pytorch-lightning", "hydra-core", "albumentations",
    "torchmetrics", "scikit-learn", "fvcore", "numpy", "pillow", "opencv-python-headless",
)  # fmt: skip
PRECISION: Final = "trainer.precision"
PRETRAINED: Final = "model.pretrained"
BALANCE: Final = "balance"
AUTOMATIC: Final = (PRECISION, PRETRAINED, BALANCE)  # what their `auto` becomes is part of a run
# what dashboards compare runs by, beside their overrides: of metrics.json, and of the settings
DESCRIBED: Final = ("model", "data", "split", "protocol", "fold", "folds", "seed")
COMPARED: Final = (
    "optimizer", "optimizer.lr", "batch_size", "image_size", "augment", "label_smoothing",
    "trainer.max_epochs", "trainer.precision", "model.pretrained",
)  # fmt: skip
FOLDER: Final = "folder"  # data that is named after its folder
LONGEST_NAME: Final = 160  # a file system allows 255 bytes
FORMAT: Final = 2  # of record.json; 1 hashed the paths of Python modules


# settings that are chosen often, as they are called in the name of a run; never a key of conf/train
SHORT: Final = {
    "optimizer.lr": "lr", "optimizer.weight_decay": "weight_decay", "trainer.max_epochs": "epochs",
    "trainer.max_steps": "steps", "trainer.precision": "precision",
    "trainer.accelerator": "accelerator", "model.weights": "weights",
    "model.pretrained": "pretrained", "model.architecture": "architecture",
    "data.boxes": "boxes", "data.box_margin": "box_margin", "data.sets": "sets",
    "data.mapping": "mapping", "data.classes": "classes",
    "split.validation": "validation", "split.gap": "gap", "split.blocks": "blocks",
}  # fmt: skip
LONGEST_VALUE: Final = 24
LONGEST: Final = 120  # of a whole name


def name_of(model: str, chosen: Mapping[str, Any]) -> str:
    """Name a run by its network and the settings that are not the default, in alphabetical order.

    The name needs no quotes in a shell. What is long, or has other characters than letters, digits
    and `.-_`, is shortened and ends with a digest.

    Args:
        model: Name of the network.
        chosen: Values by dotted key.

    >>> name_of("squeezenet", {"seed": 3, "optimizer.lr": 1e-3, "callbacks.one_cycle": None})
    'squeezenet+callbacks.one_cycle=null+lr=0.001+seed=3'
    >>> name_of("timm", {"model.weights": "/data/my weights.pt"})
    'timm+weights=my-weights.pt-895dd2'
    """
    items = sorted(f"{SHORT.get(key, key)}={_value_name(value)}" for key, value in chosen.items())
    name = "+".join([_shortened(model, LONGEST_VALUE), *items])
    return name if len(name.encode()) <= LONGEST else f"{name[:80]}-{_digest(name)}"


def _value_name(value: Any) -> str:
    """Write a value; the same for all that are equal: 1e-3 and 0.001, 2 and 2.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = Path(value).name if isinstance(value, str) and "/" in value else typed(value)
    return _shortened(text, LONGEST_VALUE)


def _shortened(text: str, longest: int) -> str:
    plain = re.sub(r"[^\w.-]+", "-", text).strip("-") if text[:1] != "-" else text
    if plain == text and text and len(text.encode()) <= longest:
        return text
    return f"{re.sub(r'[^.a-zA-Z0-9_]+', '-', text)[:16].strip('-')}-{_digest(text)}".strip("-")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


def chosen_settings(overrides: Sequence[str], study: str, data: str) -> dict[str, Any]:
    """What the overrides of a run choose, as far as it is not the default and changes the outcome.

    A data set or an experiment after which the study is named is left out, and so is the network,
    with which the name of a run begins.

    Args:
        overrides: Of the command line.
        study: The study of the run.
        data: Name of its data set.
    """
    values = dict(map(_parsed_override, overrides))  # the last one counts
    presets = tuple(f"{key}={values[key]}" for key in PRESETS if values.get(key))
    default_groups = _defaults(presets).hydra.runtime.choices
    groups = {
        key: value for key, value in values.items() if key in default_groups and value is not None
    }
    words = sorted(f"{key}={value}" for key, value in groups.items() if key not in PRESETS)
    defaults = _defaults((*presets, *words))
    chosen = {}
    for key, value in values.items():
        named_after = {"data": (value, data), "experiment": (value,)}.get(key, ())
        if study in named_after or key == "model" or key.startswith("hydra"):
            continue
        if key == "data.sets" and study == data:  # the study is named after them
            continue
        if key in groups:
            default = None if key in PRESETS else default_groups[key]
        else:
            default = OmegaConf.select(defaults, key, default=MISSING)
        default = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
        is_same = default == value and isinstance(default, bool) == isinstance(value, bool)
        if not is_same and not is_below(key, UNNAMED):
            chosen[key] = joined_name(value) if key == "data.sets" else value
    return chosen


PRESETS: Final = ("experiment", "debug")  # groups that choose others
MISSING: Final = object()  # equal to no value


def _parsed_override(word: str) -> tuple[str, Any]:
    """Key and value of an override, as Hydra understands it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return value.text if isinstance(value, QuotedString) else value

    override = OverridesParser.create().parse_override(word)
    key = override.get_key_element().lstrip("+~")
    return (f"~{key}", None) if override.is_delete() else (key, plain(override.value()))


@lru_cache(maxsize=64)
def _defaults(groups: tuple[str, ...]) -> DictConfig:
    return default_config("train", groups)  # takes tens of milliseconds


@lru_cache(maxsize=4096)
def current_name(setting: Path) -> str | None:
    """The name that the runs in a folder of an earlier version would have now; None if unknown."""
    for file in sorted(setting.glob("fold=*/record.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, HydraException):
            record = parse_json(file.read_text("utf-8"))
            data = str(record["data"].get("name", ""))
            chosen = chosen_settings(record["overrides"], setting.parent.name, data)
            return name_of(str(record["settings"]["model.name"]), chosen)
    return None


def as_recorded(settings: Mapping[str, Any], record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings with the numbers of a record where these are equal: 1 and 1.0 are one choice.

    >>> as_recorded({"lr": 1, "seed": True}, {"settings": {"lr": 1.0, "seed": 1}})
    {'lr': 1.0, 'seed': True}
    """
    old = (record or {}).get("settings", {})
    numbers = {int, float}
    return {
        key: old[key]
        if {type(value), type(old.get(key))} <= numbers and old[key] == value
        else value
        for key, value in settings.items()
    }


def former_name(model: str, study: str, overrides: Sequence[str]) -> str:
    """Name of a run in earlier versions, and of a search: every other override, as it was typed.

    Whatever does not change the outcome is left out, and so are a data set or an experiment after
    which the study is named. Paths are shortened to their file name.

    >>> words = ["fold=1", "seed=3", "data=digits", "optimizer.lr=1e-3"]
    >>> former_name("squeezenet", "digits", words)
    'squeezenet,optimizer.lr=1e-3,seed=3'
    >>> former_name("timm", "digits", ["model=timm", "model.architecture=resnet10t"])
    'timm,model.architecture=resnet10t'
    """
    names = []
    named_by_folder = not any(word.startswith(("study=", "data.name=")) for word in overrides)
    chosen = dict(override.partition("=")[::2] for override in overrides)  # the last one counts
    for key, value in sorted((key.lstrip("+"), value) for key, value in chosen.items()):
        value = value.strip("'\"")
        named_after = key in {"data", "experiment"} and value == study
        named_after |= key == "data" and value == FOLDER and named_by_folder
        if named_after or key == "model" or key.startswith("hydra") or is_below(key, UNNAMED):
            continue
        names.append(f"{key}={Path(value).name if '/' in value else value}")
    name = ",".join([model, *names])
    if len(name.encode()) > LONGEST_NAME:
        name = f"{name[:120]}...{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    return name


def settings_of(cfg: DictConfig, chosen: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Flatten the settings that decide the outcome of a run to dotted keys and plain values.

    A component stands under its key with what its `_target_` names (see `component_name`), never
    with the path of a Python module: code that moves leaves finished runs as they are.

    Args:
        cfg: The configuration.
        chosen: What `auto` means for this run, by the keys of `AUTOMATIC`.
    """
    # callbacks and loggers write below the run folder, which is not part of its identity
    unplaced = OmegaConf.merge(cfg, {"run_folder": None})
    flat = _flatten(OmegaConf.to_container(unplaced, resolve=True))
    kept = {
        key.removesuffix("._target_"): component_name(value) if key.endswith("._target_") else value
        for key, value in flat.items()
        if not is_below(key, ELSEWHERE) and not key.endswith(("._partial_", "._convert_"))
    }
    own_name = data_set_name(OmegaConf.select(cfg, "data.root"))
    is_folder = flat.get("data.source._target_") == "signlang.data.sources.folder"
    if is_folder and kept.get("data.name") == own_name:
        kept["data.name"] = FOLDER  # images may be moved and renamed
    own_split = kept.pop("split", "")  # ours are known by their names
    if own_split and not own_split.startswith("signlang "):
        kept["split.name"] = own_split
    if cfg.model.weights:
        kept["model.weights"] = file_digest(cfg.model.weights)
        chosen = {**(chosen or {}), PRETRAINED: False}
    if cfg.get("ckpt_path"):
        kept["ckpt_path"] = file_digest(cfg.ckpt_path)
    if cfg.augment.backgrounds:
        kept["augment.backgrounds"] = content_digest(expanded(cfg.augment.backgrounds))
    kept = _with_networks(kept, cfg)
    kept |= {key: value for key, value in (chosen or {}).items() if kept.get(key) == "auto"}
    return {key: v for key, v in kept.items() if key not in NEUTRAL or v != NEUTRAL[key]}


def _with_networks(kept: dict[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """Name the networks that find hands by their content; hands=none leaves no trace."""
    if kept.get("hands.name", "none") == "none":
        return {key: value for key, value in kept.items() if not is_below(key, ["hands"])}
    for key in ("hands.model", "hands.views"):
        kept.pop(key, None)
    key = hand_networks.key_of_model(cfg.hands.get("model"), cfg.hands.get("views", 1))
    return kept | {"hands.networks": key}


def first_weights(settings: Mapping[str, Any]) -> str:
    """From what a run was started: the name and digest of a file or of weights of a hub.

    >>> first_weights({"model.pretrained": False})
    'scratch'
    """
    weights = settings.get("model.weights") or settings.get(PRETRAINED)
    return str(weights) if isinstance(weights, str) else "ImageNet" if weights else "scratch"


def recorded_choices(record: Mapping[str, Any]) -> dict[str, Any]:
    """What `auto` became when a run was started, for `settings_of`."""
    settings = {**NEUTRAL, **record.get("settings", {})}
    return {key: settings[key] for key in AUTOMATIC if key in settings}


def component_name(target: str) -> str:
    """Name what a `_target_` chooses.

    A component of signlang is named without its module, which may move between versions. One of
    another installed package keeps its path: `torchvision.models.resnet18` and
    `torchvision.models.quantization.resnet18` are two networks. Code that belongs to no installed
    package is named by the content of its file: a class that was edited is another choice, and a
    file that was renamed is not.

    >>> component_name("signlang.callbacks.one_cycle.OneCycle"), component_name("torch.optim.AdamW")
    ('signlang OneCycle', 'torch.optim.AdamW')
    """
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if package == "signlang":
        return f"signlang {name}"
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # reported by whoever imports it
        spec = None
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is None or not origin.is_file() or _is_installed(origin):
        return target
    files = [origin] if origin.name != "__init__.py" else sorted(origin.parent.rglob("*.py"))
    state = hashlib.blake2b(digest_size=4)
    for file in files:
        state.update(file.read_bytes())
    return f"{name} ({state.hexdigest()})"


def _is_installed(file: Path) -> bool:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(file.is_relative_to(folder) for folder in folders)


def fingerprint(settings: Mapping[str, Any], data: str) -> str:
    """Digest of everything that decides the outcome, 32 hexadecimal digits."""
    text = json.dumps({"settings": settings, "data": data}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the settings that differ, old before new.

    >>> differences({"seed": 0, "fold": 1}, {"seed": 1, "fold": 1})
    ['seed: 0 there, 1 now']
    """
    return [
        f"{key}: {old.get(key, 'not set')} there, {new.get(key, 'not set')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def record(settings: Mapping[str, Any], data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Collect the provenance of a run: versions, commit, machine, settings and data.

    Args:
        settings: See `settings_of`.
        data: Facts on the data; `fingerprint` is part of the run's.
        more: Further entries.
    """
    return {
        "format": FORMAT,
        "signlang": signlang.__version__,
        "git": git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": device(),
        "processor": processor(str(settings.get("trainer.accelerator", "auto"))),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": fingerprint(settings, data["fingerprint"]),
        "data": dict(data),
        "settings": dict(settings),
        "first_weights": first_weights(settings),
        **more,
    }


def environment(precision: str, accelerator: str) -> dict[str, str | None]:
    """What computes here and now: precision, processor or GPU, torch, commit of the code.

    Args:
        precision: That of training, resolved.
        accelerator: Lightning's name of the device.
    """
    return {
        "precision": precision,
        "processor": processor(accelerator),
        "torch": _version("torch"),
        "git": git_commit(),
    }


def recorded_environment(record: Mapping[str, Any]) -> dict[str, str | None]:
    """The same of a run when it was started; None for what earlier versions did not record.

    >>> old = {"settings": {"trainer.precision": "auto"}, "packages": {"torch": "2.15.0"}}
    >>> recorded_environment(old)
    {'precision': None, 'processor': None, 'torch': '2.15.0', 'git': None}
    """
    precision = record["settings"].get(PRECISION)
    return {
        "precision": None if precision == "auto" else precision,
        "processor": record.get("processor"),
        "torch": (record.get("packages") or {}).get("torch"),
        "git": record.get("git"),
    }


def overrides_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Overrides of a run, except the fold and settings without effect on the result."""
    pairs = dict(word.partition("=")[::2] for word in record["overrides"] if "=" in word)
    overrides = {key: v for key, v in pairs.items() if key not in {"model", "experiment"}}
    kept = {key: v for key, v in overrides.items() if not is_below(key, UNNAMED)}
    return {key.lstrip("+"): value.strip("'\"") for key, value in kept.items()}


def choice_of(record: Mapping[str, Any], key: str) -> str:
    """The value of a setting by the name of its override, shortened for people."""
    settings = record["settings"]
    if key in settings or f"{key}.name" in settings:
        value = settings.get(key, settings.get(f"{key}.name"))
    else:
        value = overrides_of(record).get(key)
    if key in {"model.weights", PRETRAINED} and value:
        value = str(value).split()[0]  # without the digest
    return f"{value:g}" if isinstance(value, float) else str(value)


def hyperparameters(
    record: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, bool | float | str]:
    """What dashboards compare runs by; all of a study have the same, whatever their network.

    Numbers are numbers, so that they can be drawn on an axis; the fold is a word, as that of a
    cross-validated mean is.

    Args:
        record: `record.json` of the run.
        metrics: Its `metrics.json`.
    """
    texts = {key: str(metrics[key]) for key in DESCRIBED}
    chosen = (*COMPARED, *sorted(overrides_of(record)))
    texts |= {key: choice_of(record, key) for key in chosen if key not in texts}
    return {key: text if key == "fold" else _scalar(text) for key, text in texts.items()}


def _scalar(text: str) -> bool | float | str:
    """Read a setting as what it is.

    >>> _scalar("0.0004"), _scalar("True"), _scalar("adam")
    (0.0004, True, 'adam')
    """
    if text in {"True", "False"}:
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


def is_below(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted key is one of some names, or lies below one.

    >>> is_below("data.root", ["data"]), is_below("database", ["data"])
    (True, False)
    """
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
