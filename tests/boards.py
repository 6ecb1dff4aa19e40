"""What TensorBoard's own backend makes of event files."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups, metadata
from tensorboard.plugins.hparams.backend_context import Context

Columns = tuple[list[str], list[str]]


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def context_of(logdir: Path) -> TBContext:
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    provider = MultiplexerDataProvider(multiplexer.Reload(), str(logdir))
    return TBContext(data_provider=provider, plugin_name_to_instance={})


def hparams_page(logdir: Path) -> tuple[list[Columns], dict[str, dict[str, Any]]]:
    """The columns as each run names them, and the cells of each row of the HPARAMS page.

    TensorBoard shows the columns that any one of the runs names, and of the rows what is in them.
    """
    context, request = Context(context_of(logdir)), RequestContext()
    tags = context.hparams_metadata(request, "")
    schemas = [
        columns(metadata.parse_experiment_plugin_data(tags_of_run[metadata.EXPERIMENT_TAG]))
        for tags_of_run in tags.values()
    ]
    experiment = get_experiment.Handler(request, context, "", api_pb2.GetExperimentRequest()).run()
    shown = columns(experiment)
    statuses = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS]
    asked = api_pb2.ListSessionGroupsRequest(allowed_statuses=statuses, slice_size=1000)
    rows = {}
    for group in list_session_groups.Handler(request, context, "", asked).run().session_groups:
        cells = {k: getattr(v, v.WhichOneof("kind")) for k, v in group.hparams.items()}
        cells |= {value.name.tag: value.value for value in group.metric_values}
        rows[group.name] = {key: cells[key] for key in (*shown[0], *shown[1]) if key in cells}
    return schemas, rows


def columns(experiment: api_pb2.Experiment) -> Columns:
    hparams = sorted(info.name for info in experiment.hparam_infos)
    return hparams, [info.name.tag for info in experiment.metric_infos]


def custom_scalars(logdir: Path) -> dict[str, list[str]]:
    """The charts of the CUSTOM SCALARS page, with the tags that they match."""
    page = CustomScalarsPlugin(context_of(logdir)).layout_impl(RequestContext(), "")
    (category,) = json.loads(page)["category"]
    return {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}


CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def browser_page(logdir: Path) -> Iterator[tuple[Page, str]]:
    """TensorBoard, as users start it, in a real browser; its page and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://localhost:{port}/"
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                runs = json.load(urllib.request.urlopen(f"{address}data/runs", timeout=5))
            except OSError:
                runs = []
            if len(runs) >= len({file.parent for file in logdir.rglob("events.out.*")}):
                break
            time.sleep(0.2)
        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
            page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
            yield page, address
            browser.close()
    finally:
        server.terminate()
        server.wait()
