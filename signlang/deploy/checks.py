"""The configuration of an export comes in; what cannot work is refused before torch is imported."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig

from signlang.deploy.manifest import is_plain
from signlang.errors import SettingError, suggestion

NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")
FORMATS: Final = ("onnx", "torch_export")
GENERATED: Final = "generated"


def check(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, in milliseconds.

    Raises:
        SettingError: Names the setting, what it is and what it must be.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SettingError(f'An export needs {", ".join(missing)}: pip install "signlang[export]".')
    if not Path(str(cfg.run)).expanduser().is_dir():
        raise SettingError(f"run={cfg.run}: there is no such folder.")
    if cfg.pictures is not None and not Path(str(cfg.pictures)).expanduser().exists():
        raise SettingError(f"pictures={cfg.pictures}: there is no such folder.")
    for key in ("zip", "overwrite", "quantize"):
        if not isinstance(cfg[key], bool):
            raise SettingError(f"{key}={cfg[key]}: it must be true or false.")
    if cfg.name is not None and not _is_name(str(cfg.name)):
        raise SettingError(f"name={cfg.name}: it must do as the name of a folder.")
    _check_formats(cfg.formats)
    _check_numbers(cfg)
    if cfg.quantize and cfg.verify == GENERATED:
        raise SettingError(
            "quantize=true needs the run's pictures, to calibrate and to measure what it costs: "
            "leave verify=generated out, or quantize=true."
        )


def _is_name(name: str) -> bool:
    return is_plain(name) and "/" not in name and name.strip() == name and name != "."


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
            f"verify={cfg.verify}: it must be a number of pictures of at least 1, or the word "
            "generated (the run's pictures are gone: only drawn ones are compared)."
        )
    if not _is_count(cfg.calibration_pictures):
        raise SettingError(
            f"calibration_pictures={cfg.calibration_pictures}: it must be at least 1."
        )
    loss = cfg.int8_loss
    if not isinstance(loss, int | float) or isinstance(loss, bool) or not 0 <= loss < 1:
        raise SettingError(f"int8_loss={loss}: it must be a number from 0 to below 1.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
