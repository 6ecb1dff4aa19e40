"""Cross-validated results of a study as TensorBoard runs.

The event files are written record by record, for which neither torch nor TensorFlow is needed.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb, hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from signlang.files import atomic_write
from signlang.studies.leaderboard_columns import chosen
from signlang.studies.ranking import Ranking, Row
from signlang.studies.study import Setting, Study

FOLDER: Final = "cross_validated"
EVENTS: Final = "events.out.tfevents."
# of the HPARAMS page, in its order, and of each fold
LISTED: Final = ("accuracy", "accuracy_2sd", "macro_f1", "calibration_error")
OF_FOLDS: Final = ("accuracy", "macro_f1", "calibration_error")


def write_tensorboard(ranking: Ranking, out: Path) -> Path:
    """Write `cross_validated/<setting>/` for each setting; those of other settings go away.

    Returns:
        The folder to start TensorBoard on.
    """
    place = out / FOLDER
    names = {row.setting.name for row in ranking.rows}
    for row in ranking.rows:
        folder = place / row.setting.name
        folder.mkdir(parents=True, exist_ok=True)
        # a new name each time: a TensorBoard that is running switches to the next file
        file = folder / f"{EVENTS}{time.time():.6f}.signlang"
        _write(file, ranking.study, row)
        _clear(folder, keep=file)
    for folder in place.iterdir():
        if folder.is_dir() and folder.name not in names:
            _clear(folder)
    return place


def hyperparameters(study: Study, setting: Setting) -> dict[str, bool | float | str]:
    """What was chosen, numbers as numbers, so that TensorBoard can draw them on an axis."""
    words = {
        "model": setting.model,
        "split": setting.split,
        "protocol": setting.protocol,
        "folds": str(setting.folds),
        **{key: setting.choice(key) for key in study.factors},
    }
    return {key: _value(word) for key, word in words.items()}


def _write(file: Path, study: Study, row: Row) -> None:
    setting = row.setting
    hparams = hyperparameters(study, setting)
    listed = chosen(LISTED)
    metrics = [
        Metric(f"cv/{column.key}", display_name=column.key, description=column.meaning)
        for column in listed
    ]
    with atomic_write(file) as temporary, temporary.open("wb") as stream:
        writer = RecordWriter(stream)
        now = time.time()

        def add(step: int = 0, **content: object) -> None:
            writer.write(Event(wall_time=now, step=step, **content).SerializeToString())

        def scalars(values: Mapping[str, float], step: int = 0) -> None:
            known = {tag: value for tag, value in values.items() if not math.isnan(value)}
            summaries = [Summary.Value(tag=tag, simple_value=v) for tag, v in known.items()]
            add(step, summary=Summary(value=summaries))

        add(file_version="brain.Event:2")
        add(summary=hparams_config_pb([HParam(name) for name in hparams], metrics))
        add(summary=hparams_pb(hparams, trial_id=setting.name))
        scalars({f"cv/{column.key}": column.value(row) for column in listed})
        for run in setting.runs:
            scalars({f"fold/{name}": run.metric(name) for name in OF_FOLDS}, run.fold)


def _clear(folder: Path, keep: Path | None = None) -> None:
    """Remove the event files of earlier comparisons, and the folder if nothing is left in it."""
    for file in folder.glob(f"{EVENTS}*"):
        if file != keep:
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _value(word: str) -> bool | float | str:
    """Read a setting as what it is.

    >>> _value("0.0004"), _value("True"), _value("adam")
    (0.0004, True, 'adam')
    """
    if word in {"True", "False"}:
        return word == "True"
    try:
        return float(word)
    except ValueError:
        return word
