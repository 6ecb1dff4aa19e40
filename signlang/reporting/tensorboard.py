"""What TensorBoard's pages show of a run: tags, the HPARAMS row, the layout of CUSTOM SCALARS.

Neither torch nor TensorFlow is needed: `signlang.compare` writes its event files record by record.
"""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.summary.writer.record_writer import RecordWriter

from signlang.files import atomic_write, remove_abandoned

EVENTS: Final = "events.out.tfevents."
# of a run on its test fold, and their means of a cross-validated one: columns of HPARAMS
FINAL: Final = ("accuracy", "macro_f1", "loss", "calibration_error")
# hyper-parameters that HPARAMS shows before anything is ticked: it has room for five
FIRST_COLUMNS: Final = ("model", "split", "fold", "optimizer.lr", "batch_size")
TITLES: Final = {
    "batch_size": "batch size",
    "image_size": "image size",
    "label_smoothing": "label smoothing",
    "optimizer.lr": "learning rate",
    "macro_f1": "macro F1",
    "calibration_error": "calibration error",
    "trainer.max_epochs": "epochs planned",
    "trainer.precision": "precision",
}
# TensorBoard groups tags by their first word, sorts the groups and opens the first two: curves come
# before what has one value, which is below `test/`
MAIN: Final = ("accuracy", "loss")
TAGS: Final = {
    "learning_rate": "optimizer/learning_rate",
    "images_per_second": "speed/images_per_second",
}
CHARTS: Final = (*MAIN, "metrics/macro_f1", "metrics/calibration_error")  # of CUSTOM SCALARS


def tag(metric: str) -> str:
    """Name a metric of a run so that training and validation stand side by side.

    >>> tag("validation/accuracy"), tag("validation/macro_f1"), tag("test/loss")
    ('accuracy/validation', 'metrics/macro_f1/validation', 'test/loss')
    >>> tag("learning_rate"), tag("cost/flops")
    ('optimizer/learning_rate', 'test/cost/flops')
    """
    stage, _, name = metric.partition("/")
    if stage in {"train", "validation"} and name:
        return f"{name}/{stage}" if name in MAIN else f"metrics/{name}/{stage}"
    return f"test/{metric}" if stage == "cost" else TAGS.get(metric, metric)


def hparams_row(values: Mapping[str, bool | float | str]) -> list[Summary]:
    """One row of HPARAMS, with the columns of the page.

    TensorBoard takes the columns from any one of the runs that it shows: all must name the same.

    Args:
        values: Hyper-parameters, see `signlang.runs.identity.hyperparameters`.
    """
    experiment = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(
                name=name,
                display_name=TITLES.get(name, name),
                type=_type(value),
                differs=name in FIRST_COLUMNS,  # those come first
            )
            for name, value in values.items()
        ],
        metric_infos=[
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(tag=f"test/{name}"),
                display_name=f"test {TITLES.get(name, name)}",
            )
            for name in FINAL
        ],
    )
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in values.items():
        field = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(start.hparams[name], field, value)
    end = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.STATUS_SUCCESS, end_time_secs=start.start_time_secs
    )
    return [
        _hparams(hparams.EXPERIMENT_TAG, experiment=experiment),
        _hparams(hparams.SESSION_START_INFO_TAG, session_start_info=start),
        _hparams(hparams.SESSION_END_INFO_TAG, session_end_info=end),
    ]


def layout() -> Summary:
    """The layout of CUSTOM SCALARS: train and validation of all runs in one chart a metric."""
    charts = [
        layout_pb2.Chart(
            title=TITLES.get(name.rpartition("/")[2], name),
            multiline=layout_pb2.MultilineChartContent(tag=[f"{name}/(train|validation)$"]),
        )
        for name in CHARTS
    ]
    content = layout_pb2.Layout(
        category=[layout_pb2.Category(title="train and validation of all runs", chart=charts)]
    )
    return Summary(
        value=[
            Summary.Value(
                tag=custom_scalar.CONFIG_SUMMARY_TAG,
                tensor=TensorProto(dtype=DT_STRING, string_val=[content.SerializeToString()]),
                metadata=custom_scalar.create_summary_metadata(),
            )
        ]
    )


def scalars(values: Mapping[str, float]) -> Summary:
    """Values by tag; those that are not known are left out."""
    known = {tag: value for tag, value in values.items() if not math.isnan(value)}
    return Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in known.items()])


def write_events(folder: Path, summaries: Iterable[tuple[int, Summary]]) -> None:
    """Write the events of a run, each at its step, in place of those written before."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    # a new name each time: a TensorBoard that is running switches to the next file
    file = folder / f"{EVENTS}{now:.6f}.signlang"
    remove_abandoned(folder)
    with atomic_write(file) as temporary, temporary.open("wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for step, summary in summaries:
            event = Event(wall_time=now, step=step, summary=summary)
            writer.write(event.SerializeToString())
    clear_events(folder, keep=file)


def clear_events(folder: Path, keep: Path | None = None) -> None:
    """Remove the event files of a folder, and the folder if nothing is left in it."""
    for file in folder.glob(f"{EVENTS}*"):
        if file != keep:
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _hparams(name: str, **content: object) -> Summary:
    data = plugin_data_pb2.HParamsPluginData(version=hparams.PLUGIN_DATA_VERSION, **content)
    plugin = SummaryMetadata.PluginData(
        plugin_name=hparams.PLUGIN_NAME, content=data.SerializeToString()
    )
    metadata = SummaryMetadata(plugin_data=plugin)
    return Summary(value=[Summary.Value(tag=name, metadata=metadata, tensor=hparams.NULL_TENSOR)])


def _type(value: bool | float | str) -> int:
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    return int(kinds.get(type(value), api_pb2.DATA_TYPE_FLOAT64))
