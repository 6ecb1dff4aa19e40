"""Assembly of a bundle in a temporary folder, published atomically."""

import hashlib
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig

import signlang
from signlang.deploy.ensemble import Ensemble
from signlang.errors import BundleError, SettingError
from signlang.files import (
    BUNDLE_MANIFEST,
    atomic_write,
    exclusively,
    expanded,
    in_use,
    is_bundle,
    remove_abandoned,
    temporary_path,
    write_json,
)
from signlang.hands.hand_input import HandInput
from signlang.inference.bundle import FORMAT, HAND_FILES, HANDS_FORMAT, SIGNS
from signlang.runs.trained_run import TrainedRun

# of every file in a ZIP: equal bundles give equal bytes
ZIP_TIMESTAMP: Final = (1980, 1, 1, 0, 0, 0)
MODEL_FILES: Final = {"fp32": "model.onnx", "int8": "model.int8.onnx"}  # by precision
OVERRIDE: Final = re.compile(r"((?:[+~]*[\w.@-]+=)?)(.*)", re.DOTALL)


def bundle_name(cfg: DictConfig, run: TrainedRun) -> str:
    """What a bundle is called."""
    if cfg.name is not None:
        return str(cfg.name)
    facts = run.metrics
    count = len(run.members)
    suffix = f"ensemble{count}" if count > 1 else f"fold{facts['fold']}"
    name = f"{facts.get('study', facts['data'])}-{facts['model']}-{suffix}"
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def bundle_target(cfg: DictConfig, run: TrainedRun) -> Path:
    """Where the bundle goes.

    Raises:
        BundleError: If something is there that may not be replaced.
    """
    out = Path(cfg.bundles_dir) / bundle_name(cfg, run) if cfg.out is None else Path(str(cfg.out))
    out = expanded(out)
    if cfg.zip and out.suffix.lower() != ".zip":
        out = out.with_name(f"{out.name}.zip")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    if not is_bundle(out):
        raise BundleError(f"{out} is there, and no bundle: choose another place with out=.")
    if not cfg.overwrite:
        raise BundleError(f"{out} exists already: set name=, out= or overwrite=true.")
    return out


@contextmanager
def assemble_bundle(out: Path) -> Iterator[Path]:
    """Yield an empty folder; at the end it becomes `out`, a folder or a ZIP file.

    If the block raises, nothing is left behind, and what was there stays.

    Raises:
        SettingError: If the place cannot be written to.
    """
    folder = temporary_path(out)
    with ExitStack() as stack:
        try:
            stack.enter_context(in_use(folder, folder=True))
        except OSError as error:
            raise SettingError(
                f"{out.parent} cannot be written to ({error.strerror}): choose another place with "
                "out=."
            ) from None
        remove_abandoned(out.parent, out.name)
        _restore(out)
        try:
            yield folder
            _move(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_files(
    run: TrainedRun,
    models: Mapping[str, bytes],
    folder: Path,
    hands: HandInput | None = None,
    drawn: Mapping[str, Any] | None = None,
) -> None:
    """Write what a service needs, and may want to know of the run; the user's paths are left out.

    Args:
        run: The run.
        models: ONNX file of each precision.
        folder: Where to.
        hands: What the network sees of an image; it needs the networks that find hands.
        drawn: The mean hand of each class, see `pipeline.mean_hands`.
    """
    if hands is not None:
        (folder / "hands").mkdir()
        networks = hands.networks
        contents = (networks.palm, networks.landmarks, networks.license.encode())
        for name, data in zip(HAND_FILES, contents, strict=True):
            (folder / name).write_bytes(data)
    for precision, data in models.items():
        (folder / MODEL_FILES[precision]).write_bytes(data)
    write_json(folder / "classes.json", list(run.classes))
    if drawn:
        write_json(folder / SIGNS, drawn)
    for name, facts in (
        ("record.json", [dict(member.record) for member in run.members]),
        ("metrics.json", [dict(member.metrics) for member in run.members]),
    ):
        write_json(folder / name, strip_paths(facts[0] if len(facts) == 1 else {"members": facts}))


def write_manifest(folder: Path, info: Mapping[str, Any]) -> None:
    """Write `bundle.json`, with the checksums of all other files."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: _checksum(folder / name) for name in names if name != BUNDLE_MANIFEST}
    write_json(folder / BUNDLE_MANIFEST, {**info, "files": files})


def manifest_fields(
    run: TrainedRun, name: str, models: Iterable[str], hands: HandInput | None = None
) -> dict[str, Any]:
    """Content of `bundle.json` before the measurements.

    Args:
        run: The run.
        name: Of the bundle.
        models: Precisions, keys of `MODEL_FILES`.
        hands: What the network sees of an image; None: the whole image.
    """
    model, calibration = run.classifier, run.calibration
    mean, std = (model.mean / 255).flatten(), (1 / (255 * model.scale)).flatten()
    optional: dict[str, Any] = {}
    if isinstance(run, Ensemble):
        optional["ensemble"] = {
            "members": len(run.members),
            "accuracies": run.accuracies,
            "fingerprints": [one.metrics["fingerprint"] for one in run.members],
        }
    if hands is not None:
        optional["hands"] = {"networks": hands.networks.key, "options": hands.options}
    return {
        "format": FORMAT if hands is None else HANDS_FORMAT,
        "name": name,
        "signlang": signlang.__version__,
        "model": run.metrics["model"],
        "classes": list(run.classes),
        "image_size": run.image_size,
        "preprocessing": {
            "resize": "without keeping the aspect ratio, bilinear, antialiased",
            "image_sizes": list(run.image_sizes),
            "mean": [round(value, 6) for value in mean.tolist()],
            "std": [round(value, 6) for value in std.tolist()],
            "colours": "RGB",
            "where": "in the graph: its input is images of any size, uint8 (N, H, W, 3)",
        },
        **optional,
        "temperature": calibration.temperature,
        "reject_threshold": calibration.reject_threshold,
        "wanted_precision": calibration.wanted_precision,
        "calibration": {
            "source": calibration.source,
            "images": calibration.images,
            "kept": calibration.kept,
            "reason": calibration.reason,
            "no_threshold": calibration.no_threshold or None,
        },
        "protocol": str(run.metrics["protocol"]),
        **_boxes(run),
        "models": {precision: MODEL_FILES[precision] for precision in models},
        "fingerprint": run.metrics["fingerprint"],
    }


def _boxes(run: TrainedRun) -> dict[str, Any]:
    """What the images of the run were cropped to; nothing where they were whole."""
    data = run.record["data"]
    if not data.get("boxes"):
        return {}
    facts = {"images": data["boxes"], "of": data["images"], "margin": data.get("box_margin")}
    return {"boxes": facts}


def strip_paths(value: Any) -> Any:
    """Replace paths of this machine by file names, so that none is published.

    >>> strip_paths({"overrides": ["data.root='/home/me/Bilder'", "fold=0"], "a": "~/b/c"})
    {'overrides': ["data.root='Bilder'", 'fold=0'], 'a': 'c'}
    """
    if isinstance(value, Mapping):
        return {key: strip_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [strip_paths(inner) for inner in value]
    if not isinstance(value, str) or "/" not in value.replace("\\", "/"):
        return value
    key, text = OVERRIDE.fullmatch(value).groups()  # type: ignore[union-attr]  # it always fits
    quote = text[:1] if text[:1] in {"'", '"'} else ""
    name = text.strip("'\"").replace("\\", "/").rstrip("/").rpartition("/")[2]
    return f"{key}{quote}{name}{quote}"


def _move(folder: Path, out: Path) -> None:
    if out.suffix.lower() == ".zip":
        with atomic_write(out) as temporary:
            _pack(folder, temporary)
        return
    with exclusively(out.parent):
        if out.exists():
            out.rename(_replaced(out))
        folder.rename(out)
        shutil.rmtree(_replaced(out), ignore_errors=True)


def _replaced(out: Path) -> Path:
    """Where a bundle is while another takes its place."""
    return out.with_name(f".{out.name}.replaced")


def _restore(out: Path) -> None:
    """Put back the bundle that a process was replacing when it was killed."""
    with exclusively(out.parent):
        if _replaced(out).exists():
            if out.exists():
                shutil.rmtree(_replaced(out), ignore_errors=True)
            else:
                _replaced(out).rename(out)


def _pack(folder: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), ZIP_TIMESTAMP)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
