"""Output files and terminal tables of an evaluation."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from signlang.console import log, show_columns, show_table
from signlang.data.index import distinct_name, other_root
from signlang.errors import SettingError
from signlang.evaluation import results
from signlang.evaluation.results import (
    ClassScore,
    CorruptionScore,
    Evaluation,
    Robustness,
    by_class,
    by_set,
    by_signer,
)
from signlang.files import BUNDLE_MANIFEST, SET, expanded, parse_json, write_csv, write_json
from signlang.metrics import classification
from signlang.metrics.calibration import calibration_effects, fields_of
from signlang.metrics.classification import Proportion
from signlang.reporting import formatting
from signlang.reporting.formatting import counted, interval_text, percent, printable
from signlang.runs import identity

CLASSES: Final = 12  # on the terminal
SIGNERS: Final = 5  # there
HEADER: Final = (
    "class", "images", "recognised", "95 % interval", "over the\nshared", "mostly mistaken for",
    "rejected",
)  # fmt: skip


def show_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Show the metrics, the worst classes and signers, and the warnings."""
    for sentence in results.warnings(evaluation):
        log.warning("%s", printable(sentence))
    for sentence in results.notes(evaluation):
        log.info("%s", printable(sentence))
    title = f"{evaluation.predictor.name} on {evaluation.name}"
    rows = {key: escape(printable(value)) for key, value in headlines(evaluation).items()}
    show_table(printable(title), rows, {"report": printable(str(out / "report.html"))})
    classes = by_class(evaluation)
    cells = [[printable(cell) for cell in cells_of(one)] for one in classes[:CLASSES]]
    show_columns(coverage_text("classes", len(cells), len(classes)), HEADER, cells, flexible=0)
    sets = by_set(evaluation)
    if sets:
        lines = [[printable(name), *share_cells(share)] for name, share in sets.items()]
        header = ("data set", "images", "recognised", "95 % interval")
        show_columns(counted(len(lines), "data set"), header, lines, flexible=0)
    signers = by_signer(evaluation)
    if signers:
        lines = [[printable(name), *share_cells(share)] for name, share in signers.items()][
            :SIGNERS
        ]
        header = ("signer", "images", "recognised", "95 % interval")
        show_columns(coverage_text("signers", len(lines), len(signers)), header, lines, flexible=0)
    show_robustness(evaluation)


def show_robustness(evaluation: Evaluation) -> None:
    """Show the accuracy under each corruption, and the share without a hand."""
    if evaluation.robustness is None:
        return
    clean = evaluation.share(evaluation.correct, evaluation.known)
    title = f"corrupted images: accuracy and 95 % interval; as they are {with_interval(clean)}"
    grades = grade_header(evaluation.robustness)
    rows = robustness_cells(evaluation.robustness, lambda one: one.accuracy)
    show_columns(title, ["corruption", *grades], rows, flexible=0)
    if evaluation.hands is not None:
        rows = robustness_cells(evaluation.robustness, lambda one: one.without_hand)
        title = "share of the corrupted images in which no hand is found"
        show_columns(title, ["corruption", *grades], rows, flexible=0)


def grade_header(robustness: Robustness) -> list[str]:
    """Names of the columns of grades."""
    return [f"grade {number + 1}" for number in range(max(map(len, robustness.kinds.values())))]


def robustness_cells(
    robustness: Robustness, share: Callable[[CorruptionScore], Proportion | None]
) -> list[list[str]]:
    """One row for each kind of corruption: a share of each grade."""
    grades = len(grade_header(robustness))
    rows = []
    for kind, scores in robustness.kinds.items():
        cells = [short_share(share(one)) for one in scores]
        rows.append([kind, *cells, *["-"] * (grades - len(cells))])
    return rows


def short_share(share: Proportion | None) -> str:
    r"""Write a share above its interval, in nine characters a line.

    >>> short_share(Proportion(81, 263, (0.2553, 0.3662))), short_share(None)
    ('0.308\n0.26-0.37', '-')
    """
    if share is None or not share.total:
        return "-"
    ends = "-".join(f"{end:.2f}" for end in share.interval) if share.interval else "no interval"
    return f"{share.value:.3f}\n{ends}"


def headlines(evaluation: Evaluation) -> dict[str, str]:
    """The main metrics by name."""
    known, calibration = evaluation.known, evaluation.calibration
    errors = calibration_effects(
        calibration, evaluation.probabilities[known], evaluation.labels[known]
    )["calibration_error"]
    fitted_on = evaluation.calibrated_on
    in_sample = f" (in-sample: fitted on {fitted_on:,} of these images)" if fitted_on else ""
    temperature = f"{calibration.temperature:.3g}" + " (none was kept)" * (not calibration.kept)
    fitted = "" if calibration.reject_threshold is not None else " (no threshold was fitted)"
    shared = counted(len(evaluation.shared), "shared class")
    shared_only = evaluation.share(evaluation.shared_only_correct, known)
    classes = len(evaluation.predictor.classes)
    rows = {
        "images": f"{len(evaluation.rows):,}, of which {int(known.sum()):,} are of {shared}",
        f"accuracy, over all {classes} classes of the network": with_interval(
            evaluation.share(evaluation.correct, known)
        ),
        **(
            {f"accuracy, over the {shared} alone": with_interval(shared_only)}
            if len(evaluation.shared) < classes
            else {}
        ),
        "macro F1": f"{evaluation.metrics['macro_f1']:.4f}",
        "calibration error": f"{errors['before']:.4f}; {errors['after']:.4f} after the temperature "
        f"{temperature}{in_sample}",
        f"accepted, at least {percent(calibration.threshold)} sure{fitted}": (
            f"{percent(evaluation.coverage.value)} of the images of shared classes; "
            f"of these {with_interval(evaluation.precision)} are right{in_sample}"
        ),
    }
    if evaluation.hands is not None:
        share = Proportion(int(evaluation.hands.sum()), len(evaluation.hands))
        rows["a hand was found in"] = (
            f"{share.count:,} of {counted(share.total, 'image')}; the others count as they are "
            "predicted"
        )
    if not known.all():
        rejected = Proportion.of(~evaluation.accepted[~known])
        rows["of unknown classes"] = (
            f"{counted(rejected.total, 'image')}, {rejected.count:,} rejected"
        )
    return rows


def cells_of(one: ClassScore) -> list[str]:
    """Cells of a class in a table."""
    known = one.match.network is not None
    other = f"{one.mistaken_for} ({one.times:,})" if one.times else "-"
    return [
        one.match.data,
        f"{one.images:,}",
        *(share_cells(one.right)[1:] if known else ("not known", "-")),
        f"{one.shared_only.value:.4f}" if known else "-",
        other,
        f"{one.rejected:,}",
    ]


def share_cells(share: Proportion) -> list[str]:
    """Cells of a share: total, value and interval.

    >>> share_cells(Proportion(1, 2, interval=(0.0945, 0.9055)))
    ['2', '0.5000', '0.0945 to 0.9055']
    """
    return [f"{share.total:,}", f"{share.value:.4f}", interval_text(share.interval)]


def with_interval(share: Proportion) -> str:
    """Write a share with its 95 % interval.

    >>> with_interval(Proportion(81, 263, (0.2553, 0.3662))), with_interval(Proportion(0, 0))
    ('0.3080 (0.2553 to 0.3662)', '-')
    >>> with_interval(Proportion(1, 2, interval=None))
    '0.5000 (no interval)'
    """
    if not share.total:
        return "-"
    return (
        f"{share.value:.4f} ({interval_text(share.interval) if share.interval else 'no interval'})"
    )


def coverage_text(what: str, rows: int, total: int) -> str:
    """Title of a table that may show only its first rows.

    >>> coverage_text("signers", 5, 50), coverage_text("classes", 3, 3)
    ('the worst 5 of 50 signers', '3 classes, the worst first')
    """
    return (
        f"the worst {rows} of {total} {what}"
        if rows < total
        else f"{total} {what}, the worst first"
    )


LONGEST: Final = 60  # characters of the data set's name in the folder's
OUTPUTS: Final = (
    "predictions.csv", "per_class.csv", "per_signer.csv", "per_set.csv", "corruptions.csv",
    "files.csv", "metrics.json",
)  # fmt: skip
FOUND: Final = ("not found", "found")
PER_CORRUPTION: Final = (
    "corruption", "grade", "amount", "images", "recognised", "accuracy", "low", "high",
    "without_hand",
)  # fmt: skip
PER_CLASS: Final = (
    "class", "network_class", "matched", "images", "recognised", "accuracy", "low", "high",
    "accuracy_among_shared", "mistaken_for", "times", "rejected",
)  # fmt: skip


def output_folder(cfg: DictConfig, evaluation: Evaluation) -> Path:
    """Create the folder of the evaluation.

    Raises:
        SettingError: If it cannot be created, or is the folder of a run or bundle.
    """
    name = f"{evaluation.predictor.name}-on-{evaluation.name[:LONGEST]}"
    base = expanded(cfg.evaluations_dir)
    out = base / name if cfg.out is None else expanded(str(cfg.out))
    if any((out / file).exists() for file in ("data.csv", BUNDLE_MANIFEST)):
        raise SettingError(
            f"out={out} is a run or a bundle, which must not be changed: set out=DIR."
        )
    if cfg.out is None:
        _refuse_namesake(evaluation, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"out={out} cannot be created ({error.strerror}): set out=DIR."
        ) from None
    return out


def _refuse_namesake(evaluation: Evaluation, out: Path) -> None:
    """Refuse to replace the evaluation on another folder that has the same name.

    Raises:
        SettingError: Names both folders, and how to tell them apart.
    """
    try:
        recorded = parse_json((out / "record.json").read_text("utf-8")).get("data")
    except (OSError, ValueError, AttributeError):
        return
    index = evaluation.index
    other = other_root(recorded, index) if isinstance(recorded, dict) else None
    if other is not None:
        suggestion = distinct_name(evaluation.name, index)
        raise SettingError(
            f"{out} is the evaluation on another folder of that name, {other}; this one is "
            f"{index.place}. Name this data set, e.g. data.name={suggestion}, or give out=DIR."
        )


def write_evaluation(evaluation: Evaluation, cfg: DictConfig, out: Path) -> None:
    """Write predictions, metrics of each class and signer, `record.json` and `metrics.json`."""
    for name in OUTPUTS:  # of an earlier evaluation
        (out / name).unlink(missing_ok=True)
    probability_columns = [f"p_{name}" for name in evaluation.predictor.classes]
    header = ["path", "label", "predicted", "confidence", *probability_columns]
    extra = ["class", "calibrated_confidence", "accepted"]
    extra += [SET] if evaluation.index.sets else []
    extra += ["hand"] * (evaluation.hands is not None)
    write_csv(out / "predictions.csv", [*header, *extra], _predictions(evaluation))
    write_csv(out / "per_class.csv", PER_CLASS, _classes(evaluation))
    for kind, shares in (("signer", by_signer(evaluation)), ("set", by_set(evaluation))):
        if shares:
            rows = [(name, share.total, *_recognised(share)) for name, share in shares.items()]
            header = [kind, "images", "recognised", "accuracy", "low", "high"]
            write_csv(out / f"per_{kind}.csv", header, rows)
    if evaluation.robustness is not None:
        write_csv(out / "corruptions.csv", PER_CORRUPTION, _corruptions(evaluation))
    if evaluation.index.excluded:
        excluded = ((file.path, file.reason) for file in evaluation.index.excluded)
        write_csv(out / "files.csv", ("path", "reason"), excluded)
    index = evaluation.index
    facts = {"name": evaluation.name, "root": index.place, "fingerprint": index.fingerprint}
    settings: Any = OmegaConf.to_container(cfg, resolve=False)
    write_json(out / "record.json", _readable(identity.record(settings, facts)))
    write_json(out / "metrics.json", _readable(metrics_json(evaluation)))


def metrics_json(evaluation: Evaluation) -> dict[str, Any]:
    """Content of `metrics.json`; the keys of `test` are those of a run's, uncalibrated."""
    known, calibration, predictor = evaluation.known, evaluation.calibration, evaluation.predictor
    return {
        "status": "finished",
        "model": predictor.facts.get("model"),
        "data": evaluation.name,
        "network": {
            "kind": predictor.kind,
            "path": str(predictor.path),
            "classes": len(predictor.classes),
            **predictor.facts,
        },
        "images": {
            "evaluated": len(evaluation.rows),
            "of_shared_classes": int(known.sum()),
            "of_unknown_classes": int((~known).sum()),
            "trained_on": int(evaluation.overlap.trained_on[evaluation.rows].sum()),
            "validated_on": int(evaluation.overlap.selected_on[evaluation.rows].sum()),
            "excluded": len(evaluation.index.excluded),
        },
        **_hands_json(evaluation),
        "classes": [vars(match) for match in evaluation.matches],
        "test": {
            **_rounded(evaluation.metrics),
            "interval": classification.as_json(evaluation.share(evaluation.correct, known)),
            "per_class_accuracy": {
                one.match.data: round(one.right.value, 6)
                for one in sorted(by_class(evaluation), key=lambda one: one.match.data)
                if one.right.total
            },
            **_per_set(evaluation),
        },
        "shared_classes_only": {
            **_rounded(evaluation.shared_only_metrics),
            "interval": classification.as_json(
                evaluation.share(evaluation.shared_only_correct, known)
            ),
        },
        "calibration": {
            **fields_of(calibration),
            "threshold": calibration.threshold,
            "fitted_on": calibration.source if calibration.images else None,
            "images_fitted_on": evaluation.calibrated_on,
            **calibration_effects(
                calibration, evaluation.probabilities[known], evaluation.labels[known]
            ),
            "precision_interval": classification.as_json(evaluation.precision),
        },
        "unknown_classes_rejected": classification.as_json(
            evaluation.share(~evaluation.accepted, ~known)
        ),
        **_corruptions_json(evaluation.robustness),
        "intervals_by": {"kind": evaluation.clusters.kind, "count": evaluation.clusters.count},
        "remarks": [*results.warnings(evaluation), *results.notes(evaluation)],
        "seconds": round(evaluation.seconds, 3),
        "images_per_second": round(len(evaluation.rows) / max(evaluation.seconds, 1e-9), 1),
    }


def _per_set(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy on each joined data set, with its interval."""
    sets = by_set(evaluation)
    as_json = classification.as_json
    return {"per_set": {name: as_json(share) for name, share in sets.items()}} if sets else {}


def _hands_json(evaluation: Evaluation) -> dict[str, Any]:
    """Where the network looks for hands: how, and in how many images it found none."""
    hands = evaluation.predictor.hands
    if hands is None or evaluation.hands is None:
        return {}
    return {"hands": {**hands.options, "not_found_in": int((~evaluation.hands).sum())}}


def _predictions(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    names, sets = evaluation.predictor.classes, evaluation.index.sets
    confidence = evaluation.calibrated.max(1)
    for row, path in enumerate(evaluation.paths):
        class_name = evaluation.class_names[row]
        yield (
            path,
            names[evaluation.labels[row]] if evaluation.known[row] else class_name,
            names[evaluation.predicted[row]],
            formatting.seven_digits(evaluation.probabilities[row].max()),
            *map(formatting.seven_digits, evaluation.probabilities[row]),
            class_name,
            formatting.seven_digits(confidence[row]),
            int(evaluation.accepted[row]),
            *([sets[evaluation.rows[row]]] if sets else ()),
            *([] if evaluation.hands is None else [FOUND[int(evaluation.hands[row])]]),
        )


def _classes(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    for one in by_class(evaluation):
        known = one.match.network is not None
        yield (
            one.match.data, one.match.network or "", one.match.how, one.images,
            *(_recognised(one.right) if known else ("",) * 4),
            f"{one.shared_only.value:.6f}" if known else "",
            one.mistaken_for, one.times, one.rejected,
        )  # fmt: skip


def _corruptions(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    """The images as they are, then each grade of each corruption."""
    assert evaluation.robustness is not None
    known, hands = evaluation.known, evaluation.hands
    clean = evaluation.share(evaluation.correct, known)
    missing = None if hands is None else evaluation.share(~hands, known)
    for one in (CorruptionScore("none", 0, "", clean, missing), *evaluation.robustness.scores):
        without_hand = "" if one.without_hand is None else f"{one.without_hand.value:.6f}"
        share = one.accuracy
        cells = _recognised(share) if share.total else (0, "", "", "")
        yield one.kind, one.grade, one.amount, share.total, *cells, without_hand


def _corruptions_json(robustness: Robustness | None) -> dict[str, Any]:
    """Accuracy of each grade of each corruption, with its interval."""
    if robustness is None:
        return {}
    as_json = classification.as_json
    scores = [
        {
            "corruption": one.kind, "grade": one.grade, "amount": one.amount,
            "accuracy": as_json(one.accuracy),
            "without_hand": one.without_hand and as_json(one.without_hand),
        }
        for one in robustness.scores
    ]  # fmt: skip
    return {"corruptions": {"seconds": round(robustness.seconds, 1), "scores": scores}}


def _recognised(share: Proportion) -> tuple[object, ...]:
    ends = ("", "") if share.interval is None else (f"{end:.6f}" for end in share.interval)
    return share.count, f"{share.value:.6f}", *ends


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in metrics.items()}


def _readable(content: Any) -> Any:
    """Replace undecodable bytes of file names, which JSON cannot hold."""
    if isinstance(content, dict):
        return {_readable(str(key)): _readable(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_readable(value) for value in content]
    return formatting.printable(content) if isinstance(content, str) else content
