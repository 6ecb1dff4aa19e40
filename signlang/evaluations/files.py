"""An evaluation comes in; its CSV and JSON files go out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from signlang.confidence.calibration import measure
from signlang.data.files import write_csv, write_json
from signlang.errors import SettingError
from signlang.evaluations import remarks, scores
from signlang.evaluations.answers import Evaluation
from signlang.evaluations.breakdown import by_class, by_signer
from signlang.evaluations.scores import Share
from signlang.runs import identity

LONGEST: Final = 60  # characters of the data's name in that of a folder
OUTPUTS: Final = ("predictions.csv", "per_class.csv", "per_signer.csv", "files.csv", "metrics.json")
PER_CLASS: Final = (
    "class", "network_class", "matched", "pictures", "recognised", "accuracy", "low", "high",
    "accuracy_among_shared", "mistaken_for", "times", "rejected",
)  # fmt: skip


def place(cfg: DictConfig, found: Evaluation) -> Path:
    """Make the folder of the evaluation.

    Raises:
        SettingError: If it cannot be made, or is the folder of a run or bundle.
    """
    name = f"{found.candidate.name}-on-{found.name[:LONGEST]}"
    base = Path(cfg.evaluations_dir).expanduser()
    out = base / name if cfg.out is None else Path(str(cfg.out)).expanduser()
    if any((out / file).exists() for file in ("data.csv", "bundle.json")):
        raise SettingError(
            f"out={out} is a run or a bundle, which must stay as it is: set out=DIR."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"out={out} cannot be made ({error.strerror}): set out=DIR.") from None
    return out


def write(found: Evaluation, cfg: DictConfig, out: Path) -> None:
    """Write predictions, figures of each class and signer, `record.json` and `metrics.json`."""
    for name in OUTPUTS:  # of an earlier evaluation
        (out / name).unlink(missing_ok=True)
    network = [f"p_{name}" for name in found.candidate.classes]
    header = ["path", "label", "predicted", "confidence", *network]
    more = ["class", "calibrated_confidence", "accepted"]
    write_csv(out / "predictions.csv", [*header, *more], _predictions(found))
    write_csv(out / "per_class.csv", PER_CLASS, _classes(found))
    signers = by_signer(found)
    if signers:
        rows = [(name, share.total, *_recognised(share)) for name, share in signers.items()]
        header = ["signer", "pictures", "recognised", "accuracy", "low", "high"]
        write_csv(out / "per_signer.csv", header, rows)
    if found.index.excluded:
        bad = ((file.path, file.reason) for file in found.index.excluded)
        write_csv(out / "files.csv", ("path", "reason"), bad)
    facts = {"name": found.name, "fingerprint": found.index.fingerprint}
    settings: Any = OmegaConf.to_container(cfg, resolve=False)
    write_json(out / "record.json", _readable(identity.record(settings, facts)))
    write_json(out / "metrics.json", _readable(metrics(found)))


def metrics(found: Evaluation) -> dict[str, Any]:
    """The content of `metrics.json`; the figures of `test` are those of a run, uncalibrated."""
    known, made, candidate = found.known, found.calibration, found.candidate
    return {
        "status": "finished",
        "model": candidate.facts.get("model"),
        "data": found.name,
        "network": {
            "kind": candidate.kind,
            "path": str(candidate.path),
            "classes": len(candidate.classes),
            **candidate.facts,
        },
        "pictures": {
            "judged": len(found.rows),
            "of_shared_classes": int(known.sum()),
            "of_unknown_classes": int((~known).sum()),
            "trained_on": int(found.seen.trained[found.rows].sum()),
            "validated_on": int(found.seen.chosen[found.rows].sum()),
            "excluded": len(found.index.excluded),
        },
        "classes": [vars(match) for match in found.matches],
        "test": {
            **_rounded(found.figures),
            "interval": scores.as_json(Share.of(found.correct[known])),
            "per_class_accuracy": {
                one.match.data: round(one.right.value, 6)
                for one in sorted(by_class(found), key=lambda one: one.match.data)
                if one.right.total
            },
        },
        "shared_classes_only": {
            **_rounded(found.figures_among),
            "interval": scores.as_json(Share.of(found.correct_among[known])),
        },
        "calibration": {
            "temperature": made.temperature,
            "reject_threshold": made.reject_threshold,
            "wanted_precision": made.wanted_precision,
            **measure(made, found.probabilities[known], found.labels[known]),
            "precision_interval": (
                scores.as_json(found.precision) if made.reject_threshold is not None else None
            ),
        },
        "unknown_classes_rejected": scores.as_json(Share.of(~found.accepted[~known])),
        "remarks": [*remarks.warnings(found), *remarks.remarks(found)],
        "seconds": round(found.seconds, 3),
        "images_per_second": round(len(found.rows) / max(found.seconds, 1e-9), 1),
    }


def _predictions(found: Evaluation) -> Iterator[tuple[object, ...]]:
    names = found.candidate.classes
    confidence = found.calibrated.max(1)
    for row, path in enumerate(found.paths):
        own = found.class_names[row]
        yield (
            path,
            names[found.labels[row]] if found.known[row] else own,
            names[found.predicted[row]],
            f"{found.probabilities[row].max():.6f}",
            *(f"{p:.6f}" for p in found.probabilities[row]),
            own,
            f"{confidence[row]:.6f}",
            int(found.accepted[row]),
        )


def _classes(found: Evaluation) -> Iterator[tuple[object, ...]]:
    for one in by_class(found):
        known = one.match.network is not None
        yield (
            one.match.data, one.match.network or "", one.match.how, one.pictures,
            *(_recognised(one.right) if known else ("",) * 4),
            f"{one.among.value:.6f}" if known else "",
            one.mistaken_for, one.times, one.rejected,
        )  # fmt: skip


def _recognised(share: Share) -> tuple[object, ...]:
    low, high = share.interval
    return share.count, f"{share.value:.6f}", f"{low:.6f}", f"{high:.6f}"


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in figures.items()}


def _readable(content: Any) -> Any:
    """Replace bytes of file names that are no text, which JSON cannot hold."""
    if isinstance(content, dict):
        return {_readable(str(key)): _readable(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_readable(value) for value in content]
    return remarks.plain(content) if isinstance(content, str) else content
