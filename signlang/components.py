"""Components by `_target_`: importing, signature-aware construction, contracts and trust.

A component is a class or function that the configuration names by its dotted path. What the user's
own command line and configuration name is followed wherever it leads. What a file names that came
from elsewhere (a run folder, a checkpoint) is followed only inside a list of known places, because
importing and calling it runs code.

The contract of each kind, checked before training:

* network: a callable that takes `num_classes` (and `image_size` and `pretrained`, where its
  signature has them) and returns a `torch.nn.Module` from (N, 3, size, size) floats to
  (N, num_classes) logits. In training it may return (N, heads, num_classes): the loss is then the
  mean of those of the heads. With a method `parameter_groups(learning_rate)` it says what torch's
  optimizers take for parameters with learning rates of their own.
* LightningModule: a subclass of `signlang.models.classifier.Classifier`.
* loss: a callable that returns one that maps logits (N, num_classes) and int64 labels (N,) to a
  scalar; `label_smoothing` is handed in where its signature has it. It trains only: validation and
  test report the cross-entropy, so that runs with different losses compare.
* optimizer: a class of `torch.optim.Optimizer`, called with the parameters and its settings.
* split, data source, transforms: see `Split` in `signlang.data.splits`, `sources` and
  `augmentation`.
* callback (`callbacks.x`), logger (`logger.x`): a class or function that is called with its own
  arguments of the node, in which nodes with a `_target_` are built first, and returns a
  `pytorch_lightning.Callback` or a `pytorch_lightning.loggers.Logger`. The same object serves
  training, validation of the best checkpoint and test; `trainer.datamodule` holds `index` (all
  images) and `subsets` (rows of each subset). A callback that changes training must depend on the
  seed and the epoch only, and keep what it needs to resume in `state_dict`.
* trainer: called with its own arguments of the node and with `callbacks`, `logger`, `precision`,
  `plugins` and `default_root_dir`, returns a `pytorch_lightning.Trainer`; once for training and
  once, in float32, for the test.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf

from signlang.errors import RunError, SettingError, SignlangError

Resolver = Callable[[str], Any]
Component = TypeVar("Component")
TARGET: Final = "_target_"
HYDRA_KEYS: Final = {TARGET, "_partial_", "_convert_", "_recursive_"}
OWN_NETWORKS: Final = "signlang.models.networks"
OWN_MODULE: Final = "signlang.models.classifier.Classifier"
# of conf/model, and no component of a LightningModule
MODEL_KEYS: Final = (
    "name", "architecture", "image_size", "pretrained", "weights", "normalization", "learning_rate",
)  # fmt: skip
# names of arguments by which a factory fetches or reads files
FETCHING: Final = (
    "pretrained", "weights", "checkpoint", "cache_dir", "hub", "url", "file", "path", "pickle",
)  # fmt: skip


def import_target(target: str) -> Any:
    """Import what a dotted path names, wherever it is.

    Raises:
        SettingError: If there is no such module or name; suggests similar names.

    >>> import_target("collections.Counter").__name__
    'Counter'
    """
    module_name, _, name = str(target).rpartition(".")
    if not module_name:
        raise SettingError(f"_target_={target}: it must be a dotted path, module.Name.")
    module = _import_module(module_name, target)
    try:
        return getattr(module, name)
    except AttributeError:
        similar = get_close_matches(name, [n for n in vars(module) if n[0] != "_"], n=3)
        hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
        raise SettingError(f"_target_={target}: {module_name} has no {name}.{hint}") from None


def _import_module(name: str, target: str) -> Any:
    """Import a module, or the class that a nested name stands in."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (name == missing or name.startswith(f"{missing}.")):
            raise SettingError(
                f"_target_={target} needs a package that is not installed: {error}."
            ) from error
        outer, _, inner = name.rpartition(".")
        if outer and missing == name:
            outer_module = _import_module(outer, target)
            if hasattr(outer_module, inner):
                return getattr(outer_module, inner)
        raise SettingError(
            f"_target_={target}: there is no module {missing}. A module of your own lies in the "
            "folder in which the command is typed, or on PYTHONPATH."
        ) from None
    except SignlangError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise SettingError(
            f"_target_={target}: importing {name} fails: {type(error).__name__}: {error}"
        ) from error


def import_listed(target: str) -> Any:
    """Import what a file from elsewhere names, if it is a known network factory or class.

    Raises:
        RunError: If it is anything else; the message names trust=true.
    """
    if not is_listed(str(target)):
        raise untrusted(target)
    return import_target(str(target))


def untrusted(target: Any) -> RunError:
    """The error for code that a file from elsewhere names."""
    return RunError(
        f"The run names code to run that is not known to be harmless: {target}. If you trust "
        "where the folder comes from, set trust=true."
    )


def read_saved_config(file: Path) -> dict[str, Any]:
    """Read the saved configuration of a run folder as plain data.

    It may come from elsewhere: an interpolation in it, `${oc.env:SECRET}` for one, stays a text.

    Raises:
        RunError: If the file is missing or holds no mapping.
    """
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunError(f"{file} cannot be read ({type(error).__name__}).") from None
    if not isinstance(content, dict):
        raise RunError(f"{file} holds no configuration.")
    return content


def saved_value(config: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key of a saved configuration, None where there is none.

    >>> saved_value({"data": {"root": "images"}}, "data.root"), saved_value({}, "data.root")
    ('images', None)
    """
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def configured_nodes(cfg: DictConfig) -> dict[str, Any]:
    """`_target_` and components of the LightningModule, as the user's own configuration names them.

    The checkpoint of a run holds them as well, but a run folder may come from elsewhere, even one
    that is resumed here.
    """
    model = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(model, dict)
    nodes = {str(key): value for key, value in model.items() if key not in MODEL_KEYS}
    for key in ("optimizer", "loss"):
        nodes[key] = OmegaConf.to_container(cfg[key], resolve=True)
    return nodes


def is_listed(target: str) -> bool:
    """Whether a path names a network that may be built from a file of unknown origin.

    >>> is_listed("signlang.models.networks.squeezenet"), is_listed("timm.create_model")
    (True, True)
    >>> is_listed("os.system"), is_listed("torch.hub.load"), is_listed("torch.load")
    (False, False, False)
    """
    module, _, name = target.rpartition(".")
    if module == OWN_NETWORKS:
        return name in importlib.import_module(OWN_NETWORKS).FACTORIES
    if target == "timm.create_model":
        return True
    if module == "torch.optim":
        return inspect.isclass(getattr(importlib.import_module(module), name, None))
    if module == "torch.nn":
        return name.endswith("Loss")
    if module == "torchvision.models":
        return name in importlib.import_module(module).list_models(importlib.import_module(module))
    return False


def check_listed_arguments(target: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments by which a known factory would fetch or read something.

    Raises:
        RunError: Names the argument.
    """
    for key, value in arguments.items():
        fetches = any(word in key.lower() for word in FETCHING)
        is_name = key in {"model_name", "architecture", "image"}
        remote = is_name and not str(value).replace("_", "").replace(".", "").isalnum()
        if remote or (fetches and value) or key.startswith("_") or not _is_plain(value):
            raise RunError(
                f"The run's {target} has the argument {key}={value}, which could fetch or read "
                "files. If you trust where the folder comes from, set trust=true."
            )


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, or a list of such: nothing that names a component."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def build(
    node: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    key: str,
    resolve: Resolver = import_target,
    positional: tuple[Any, ...] = (),
) -> Any:
    """Call the target of a node with its own arguments and those inputs that its signature takes.

    Args:
        node: `_target_` and arguments.
        inputs: Offered; handed in where a parameter has the name. Arguments of the node go first.
        key: The node's place in the configuration, for errors.
        resolve: `import_target`, or `import_listed` for a node from a file.
        positional: Handed in first.

    Raises:
        SettingError: If the target refuses.
        RunError: If `resolve` is `import_listed` and the target or an argument is not known.
    """
    target = str(node.get(TARGET, ""))
    if not target:
        raise SettingError(f"{key}._target_ is missing: the dotted path of a class or function.")
    factory = resolve(target)
    own_arguments = {str(k): v for k, v in node.items() if k not in HYDRA_KEYS}
    if resolve is import_listed:
        check_listed_arguments(target, own_arguments)
    offered = {name: value for name, value in inputs.items() if name not in own_arguments}
    arguments = own_arguments | {name: offered[name] for name in offered if takes(factory, name)}
    try:
        return factory(*positional, **arguments)
    except SignlangError:
        raise
    except Exception as error:  # a user's class may raise anything
        text = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise SettingError(
            f"{key}: {target}({text}) fails: {type(error).__name__}: {error}"
        ) from error


def takes(factory: Callable[..., Any], name: str) -> bool:
    """Whether a signature has a parameter of this name; `**kwargs` counts for `num_classes` only.

    >>> takes(lambda num_classes, width: None, "num_classes"), takes(lambda **more: None, "width")
    (True, False)
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return False
    if name in parameters:
        return True
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return any_name and name == "num_classes"


def check_timm_name(name: str) -> None:
    """Refuse a network that timm does not have.

    The names are read from timm's files: to ask timm itself takes the seconds of importing torch.

    Raises:
        SettingError: Names those that are near.
    """
    known = timm_names()
    if name.partition(".")[0] in known:  # behind the dot stands which weights
        return
    similar = get_close_matches(name, known, n=5)
    raise SettingError(
        f"model.architecture={name}: timm has no such network"
        + (f"; did you mean {' or '.join(similar)}?" if similar else ", nor one with such a name.")
    )


@cache
def timm_names() -> tuple[str, ...]:
    """Names of the networks of timm, and former names that it still follows."""
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec else None
    names: set[str] = set()
    for file in Path(folders[0]).glob("models/*.py") if folders else ():
        text = file.read_text("utf-8")
        names |= set(re.findall(r"@register_model\s+def (\w+)", text))
        for table in re.findall(r"register_model_deprecations\(__name__, \{(.*?)\n\}", text, re.S):
            names |= set(re.findall(r"""['"](\w+)['"]\s*:""", table))
    return tuple(sorted(names))


def instantiate_component(
    node: DictConfig, kind: type[Component], key: str, **more: Any
) -> Component:
    """Instantiate a node of the configuration.

    Args:
        node: `_target_` and arguments, which may be nodes themselves.
        kind: What it must be.
        key: Its place in the configuration, for errors.
        more: Further arguments.

    Raises:
        SettingError: If its class is missing, refuses its settings, or is of another kind; names
            the cause.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate  # a tenth of a second, which --help does not need

    import_target(str(node.get(TARGET)))
    try:
        component = instantiate(node, **more)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, SignlangError):
            raise cause from None
        if isinstance(cause, ModuleNotFoundError):
            raise SettingError(
                f"{key}: {node[TARGET]} needs a package that is not installed: {cause}. "
                'Optional loggers come with pip install "signlang[wandb]" or "signlang[mlflow]".'
            ) from error
        raise SettingError(
            f"{key}: {node.get(TARGET)} refuses its settings: {cause or error}"
        ) from error
    if not isinstance(component, kind):
        raise SettingError(
            f"{key}: {node.get(TARGET)} returns {type(component).__name__}, not a "
            f"{kind.__module__.partition('.')[0]} {kind.__name__}."
        )
    return component
