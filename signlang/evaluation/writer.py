"""Output files and terminal tables of an evaluation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from signlang.console import log, show_columns, show_table
from signlang.errors import SettingError
from signlang.evaluation import results
from signlang.evaluation.results import ClassScore, Evaluation, by_class, by_signer
from signlang.files import write_csv, write_json
from signlang.metrics import classification
from signlang.metrics.calibration import calibration_errors
from signlang.metrics.classification import Proportion
from signlang.reporting import formatting
from signlang.reporting.formatting import counted, percent, printable
from signlang.runs import identity

CLASSES: Final = 12  # on the terminal
SIGNERS: Final = 5  # there
HEADER: Final = (
    "class", "images", "recognised", "95 % interval", "over the\nshared", "mostly mistaken for",
    "rejected",
)  # fmt: skip


def show_evaluation(found: Evaluation, out: Path) -> None:
    """Show the figures, the worst classes and signers, and what to beware of."""
    for sentence in results.warnings(found):
        log.warning("%s", printable(sentence))
    for sentence in results.notes(found):
        log.info("%s", printable(sentence))
    title = f"{found.candidate.name} on {found.name}"
    rows = {**headlines(found), "report": str(out / "report.html")}
    show_table(
        escape(printable(title)), {key: escape(printable(value)) for key, value in rows.items()}
    )
    classes = by_class(found)
    cells = [[printable(cell) for cell in cells_of(one)] for one in classes[:CLASSES]]
    show_columns(coverage_text("classes", len(cells), len(classes)), HEADER, cells, flexible=0)
    signers = by_signer(found)
    if signers:
        lines = [[printable(name), *share_cells(share)] for name, share in signers.items()][
            :SIGNERS
        ]
        header = ("signer", "images", "recognised", "95 % interval")
        show_columns(coverage_text("signers", len(lines), len(signers)), header, lines, flexible=0)


def headlines(found: Evaluation) -> dict[str, str]:
    """The most important figures by name."""
    known, made = found.known, found.calibration
    errors = calibration_errors(made, found.probabilities[known], found.labels[known])[
        "calibration_error"
    ]
    shared = counted(len(found.shared), "shared class")
    among = Proportion.of(found.correct_among[known])
    rows = {
        "images": f"{len(found.rows):,}, of which {int(known.sum()):,} are of {shared}",
        f"accuracy, over all {len(found.candidate.classes)} classes of the network": with_interval(
            Proportion.of(found.correct[known])
        ),
        **(
            {f"accuracy, over the {shared} alone": with_interval(among)}
            if len(found.shared) < len(found.candidate.classes)
            else {}
        ),
        "macro F1": f"{found.figures['macro_f1']:.4f}",
        "calibration error": f"{errors['before']:.4f}; {errors['after']:.4f} after the temperature "
        f"{made.temperature:.3g}",
    }
    if made.reject_threshold is not None:
        rows[f"accepted, at least {percent(made.reject_threshold)} sure"] = (
            f"{percent(found.coverage.value)} of the images of shared classes; "
            f"of these {with_interval(found.precision)} are right"
        )
    if not known.all():
        taken = Proportion.of(~found.accepted[~known])
        rows["of classes that it does not know"] = (
            f"{counted(taken.total, 'image')}, {taken.count:,} rejected"
        )
    return rows


def cells_of(one: ClassScore) -> list[str]:
    """A class for a table."""
    known = one.match.network is not None
    other = f"{one.mistaken_for} ({one.times:,})" if one.times else "-"
    return [
        one.match.data,
        f"{one.images:,}",
        *(share_cells(one.right)[1:] if known else ("not known", "-")),
        f"{one.among.value:.4f}" if known else "-",
        other,
        f"{one.rejected:,}",
    ]


def share_cells(share: Proportion) -> list[str]:
    """Images, share and interval.

    >>> share_cells(Proportion(1, 2))
    ['2', '0.5000', '0.0945 to 0.9055']
    """
    low, high = share.interval
    return [f"{share.total:,}", f"{share.value:.4f}", f"{low:.4f} to {high:.4f}"]


def with_interval(share: Proportion) -> str:
    """Write a share with its 95 % interval.

    >>> with_interval(Proportion(81, 263)), with_interval(Proportion(0, 0))
    ('0.3080 (0.2553 to 0.3662)', '-')
    """
    _, value, interval = share_cells(share)
    return f"{value} ({interval})" if share.total else "-"


def coverage_text(what: str, shown: int, total: int) -> str:
    """Name a table that may show the beginning only.

    >>> coverage_text("signers", 5, 50), coverage_text("classes", 3, 3)
    ('the worst 5 of 50 signers', '3 classes, the worst first')
    """
    return (
        f"the worst {shown} of {total} {what}"
        if shown < total
        else f"{total} {what}, the worst first"
    )


LONGEST: Final = 60  # characters of the data's name in that of a folder
OUTPUTS: Final = ("predictions.csv", "per_class.csv", "per_signer.csv", "files.csv", "metrics.json")
PER_CLASS: Final = (
    "class", "network_class", "matched", "images", "recognised", "accuracy", "low", "high",
    "accuracy_among_shared", "mistaken_for", "times", "rejected",
)  # fmt: skip


def output_folder(cfg: DictConfig, found: Evaluation) -> Path:
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


def write_evaluation(found: Evaluation, cfg: DictConfig, out: Path) -> None:
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
        header = ["signer", "images", "recognised", "accuracy", "low", "high"]
        write_csv(out / "per_signer.csv", header, rows)
    if found.index.excluded:
        bad = ((file.path, file.reason) for file in found.index.excluded)
        write_csv(out / "files.csv", ("path", "reason"), bad)
    facts = {"name": found.name, "fingerprint": found.index.fingerprint}
    settings: Any = OmegaConf.to_container(cfg, resolve=False)
    write_json(out / "record.json", _readable(identity.record(settings, facts)))
    write_json(out / "metrics.json", _readable(metrics_json(found)))


def metrics_json(found: Evaluation) -> dict[str, Any]:
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
        "images": {
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
            "interval": classification.as_json(Proportion.of(found.correct[known])),
            "per_class_accuracy": {
                one.match.data: round(one.right.value, 6)
                for one in sorted(by_class(found), key=lambda one: one.match.data)
                if one.right.total
            },
        },
        "shared_classes_only": {
            **_rounded(found.figures_among),
            "interval": classification.as_json(Proportion.of(found.correct_among[known])),
        },
        "calibration": {
            "temperature": made.temperature,
            "reject_threshold": made.reject_threshold,
            "wanted_precision": made.wanted_precision,
            **calibration_errors(made, found.probabilities[known], found.labels[known]),
            "precision_interval": (
                classification.as_json(found.precision)
                if made.reject_threshold is not None
                else None
            ),
        },
        "unknown_classes_rejected": classification.as_json(Proportion.of(~found.accepted[~known])),
        "remarks": [*results.warnings(found), *results.notes(found)],
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
            one.match.data, one.match.network or "", one.match.how, one.images,
            *(_recognised(one.right) if known else ("",) * 4),
            f"{one.among.value:.6f}" if known else "",
            one.mistaken_for, one.times, one.rejected,
        )  # fmt: skip


def _recognised(share: Proportion) -> tuple[object, ...]:
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
    return formatting.printable(content) if isinstance(content, str) else content
