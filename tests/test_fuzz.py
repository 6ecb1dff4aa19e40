"""Files and requests of strangers, damaged by hypothesis: nothing but errors for people.

`make fuzz` tries twenty times as many. An input that once failed stays as an `@example`.
"""

import asyncio
import csv
import faulthandler
import functools
import hashlib
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import bundles
import numpy as np
import pytest
import safetensors.numpy
import uvicorn
from conftest import QUICK
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from services import Service, service
from uvicorn.server import ServerState

from signlang import api, system
from signlang.data.annotations import read_annotations
from signlang.data.image_folder import list_csv, read_signers
from signlang.data.image_io import BadImageError, inspect_image, read_image
from signlang.data.sources import images_root
from signlang.errors import (
    BundleError,
    DataError,
    RunError,
    SettingError,
    SignlangError,
    WeightsError,
)
from signlang.evaluation.class_mapping import read_classes, read_mapping
from signlang.inference.bundle import load_bundle, parse_manifest
from signlang.inference.onnx_model import OnnxModel
from signlang.runs import results, trained_run
from signlang.runs.folder import RunFolder
from signlang.runs.lifecycle import unfinished_fold
from signlang.server.app import create_app
from signlang.server.config import checked_config
from signlang.server.http_protocol import protocol_factory
from signlang.server.registry import load_models
from signlang.server.schemas import RequestError
from signlang.server.uploads import decode_upload, uploaded_files
from signlang.validation import check_train_config

TIMES: Final = int(os.environ.get("SIGNLANG_FUZZ", "1"))
SECONDS: Final = 20.0  # of the processor, for one input: a hang fails
WAITED: Final = 150.0  # seconds by the clock, likewise: the machine may be busy
MEBIBYTES: Final = 300  # that one input may make the process larger by, for a moment
COUNTS: Final = os.environ.get("SIGNLANG_FUZZ_COUNTS")  # a CSV file, see experiments/faults/fuzz.py


class HangError(BaseException):
    """An input took too long; nothing that catches exceptions of decoders catches it."""


@dataclass
class Kind:
    """What became of the inputs of a kind.

    Attributes:
        name: Of the test.
        inputs: That were tried.
        refused: That ended with an error for people.
        slowest: Seconds of the processor that an input took at most.
        memory: MiB that an input made the process larger by at most.
    """

    name: str
    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0
    memory: float = 0.0


KINDS: Final[dict[str, Kind]] = {}
heard: list[str] | None = None  # while an input is tried: what left the process
OUTWARD: Final = ("os.system", "os.exec", "os.posix_spawn", "pty.spawn", "os.fork", "subprocess.")


TIMERS: Final = {signal.ITIMER_REAL: WAITED, signal.ITIMER_PROF: SECONDS}


def hear(event: str, arguments: tuple[object, ...]) -> None:
    """Note commands that an input starts; an audit hook stays until the process ends."""
    if heard is not None and event.startswith(OUTWARD):
        heard.append(f"{event} {arguments}")


sys.addaudithook(hear)


def stop(number: int, frame: object) -> None:
    raise HangError(f"more than {SECONDS:g} seconds of the processor, or {WAITED:g} by the clock")


def memory(what: str) -> float:
    """A line of /proc/self/status in MiB; 0 on other systems than Linux."""
    try:
        text = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return 0.0
    return float(text.partition(f"{what}:")[2].split()[0]) / 1024


@contextmanager
def bounded(kind: Kind, mebibytes: float) -> Iterator[None]:
    """Fail if the block takes too long, too much memory, or starts a command."""
    global heard
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what there is now
    before, started, heard = memory("VmRSS"), time.process_time(), []
    for timer, seconds in TIMERS.items():
        signal.setitimer(timer, seconds)
    faulthandler.dump_traceback_later(2 * WAITED, exit=True)  # of code that hears no signal
    try:
        yield
    finally:
        for timer in TIMERS:
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        commands, heard = heard, None
    peak = memory("VmHWM") - before
    kind.inputs += 1
    kind.slowest = max(kind.slowest, time.process_time() - started)
    kind.memory = max(kind.memory, peak)
    assert peak < mebibytes, f"{peak:.0f} MiB"
    assert not commands


def tries(
    count: int, *, mebibytes: float = MEBIBYTES, shrinks: bool = True
) -> Callable[[Callable[..., bool | None]], Callable[..., None]]:
    """Try so many inputs of a kind, times `SIGNLANG_FUZZ`.

    The test returns whether an input was refused.

    Args:
        count: Of inputs.
        mebibytes: By which one may make the process larger.
        shrinks: Make an input that fails smaller; of commands that takes minutes.
    """
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if shrinks else [])]

    def decorate(test: Callable[..., bool | None]) -> Callable[..., None]:
        kind = KINDS.setdefault(test.__name__, Kind(test.__name__))

        @functools.wraps(test)
        def one(**arguments: Any) -> None:
            with bounded(kind, mebibytes):
                kind.refused += bool(test(**arguments))

        quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        return settings(
            max_examples=count * TIMES, deadline=None, derandomize=True, database=None,
            suppress_health_check=quiet, phases=phases,
        )(one)  # fmt: skip

    return decorate


def refused(
    errors: type[Exception] | tuple[type[Exception], ...], *calls: Callable[[], object]
) -> bool:
    """Whether one of some calls raises an error for people; any other one is a failure."""
    found = False
    for call in calls:
        try:
            call()
        except errors:
            found = True
    return found


@pytest.fixture(scope="module", autouse=True)
def limits() -> Iterator[None]:
    """No input may take gigabytes."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    room = 16 << 30
    if memory("VmSize"):
        resource.setrlimit(resource.RLIMIT_AS, (int(memory("VmSize") * 2**20) + room, before[1]))
    numbers = (signal.SIGALRM, signal.SIGPROF)
    handlers = {number: signal.signal(number, stop) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def written(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write down what was tried."""
    yield
    kind = KINDS.get(request.node.name)
    if COUNTS and kind is not None:
        with Path(COUNTS).open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow(astuple(kind))


class Edit(NamedTuple):
    """Bytes put at a place, a share of the length, instead of some."""

    place: float
    removed: int
    put: bytes


def edits_of(
    sizes: Sequence[int], puts: Sequence[bytes], other: Callable[[random.Random], bytes], most: int
) -> st.SearchStrategy[list[Edit]]:
    """Lists of edits, drawn by Python from a seed: hypothesis takes as long as the input itself.

    Args:
        sizes: Bytes that are removed.
        puts: What is put there, half of the time.
        other: Draws what is put there else.
        most: Edits of an input.
    """

    def drawn(seed: int) -> list[Edit]:
        rng = random.Random(seed)
        return [
            Edit(
                rng.random(),
                rng.choice(sizes),
                rng.choice(puts) if rng.random() < 0.5 else other(rng),
            )
            for _ in range(rng.randint(1, most))
        ]

    return st.integers(0, 2**62).map(drawn)


def some_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(0, 4))


def some_text(rng: random.Random) -> bytes:
    ends = rng.choice([0x7F, 0x17F, 0xFFFF, 0x10FFFF])
    text = "".join(chr(rng.randint(0, ends)) for _ in range(rng.randint(0, 4)))
    return text.encode("utf-8", "surrogatepass")


BYTES: Final = [b"\0", b"\xff", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xda"]
EDITS: Final = edits_of([0, 0, 1, 1, 2, 4, 100, 10**6], BYTES, some_bytes, 6)
# of texts: what a person, a spreadsheet or a stranger puts there
TEXTS: Final = [
    b'"', b"'", b"\r", b"\n", b"\t", b";", b",", b"{", b"[" * 1500, b"nan", b"1e999", b"-1",
    b"null", b"../../x", b"/etc/passwd", b"\0", b"\xff\xfe", b"${oc.env:HOME}", b"true",
    b"!!python/object:os.system x", b"&a [*a]", b"9" * 5000, b": ", b"- ", b"[]", b"{}", b"@",
]  # fmt: skip
TEXT_EDITS: Final = edits_of([0, 0, 1, 1, 3, 20], TEXTS, some_text, 5)


def damaged(data: bytes, edits: Sequence[Edit]) -> bytes:
    for edit in edits:
        place = int(edit.place * (len(data) + 1))
        data = data[:place] + edit.put + data[place + edit.removed :]
    return data


def image_seeds() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    image, seeds = Image.fromarray(noise), []
    ways = [
        ("JPEG", "RGB", {}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}),
        ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "I;16", {}), ("GIF", "P", {}),
        ("BMP", "RGB", {}), ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("WEBP", "RGB", {}), ("PPM", "RGB", {}), ("ICO", "RGBA", {}), ("TGA", "RGB", {}),
        ("PCX", "RGB", {}), ("JPEG2000", "RGB", {}),
    ]  # fmt: skip
    for kind, mode, options in ways:
        stream = io.BytesIO()
        converted = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
        converted.save(stream, kind, **options)  # type: ignore[arg-type]
        seeds.append(stream.getvalue())
    return seeds


# an image of 100 million pixels, the most that is allowed, is converted by way of RGBA
@given(seed=st.sampled_from(image_seeds()), edits=EDITS)
@tries(2100, mebibytes=1600)
def test_an_image(seed: bytes, edits: Sequence[Edit]) -> bool:
    data = damaged(seed, edits)

    def read() -> None:
        pixels = read_image(data)
        assert pixels.shape[2] == 3
        assert inspect_image(data).width == pixels.shape[1]

    def receive() -> None:
        assert decode_upload(data, 8, 10**6, 1, 1)[0].shape == (8, 8, 3)

    is_refused = refused(BadImageError, read)
    return refused(RequestError, receive) or is_refused


TABLES: Final = [
    b"path,label,signer\nA/1.png,A,anna\nB/2.png,B,\xc3\xa9mile\n",
    b"\xef\xbb\xbfPath;Label\r\nA\\1.png;A\r\nB\\2.png;B\r\n",
    "path\tlabel\nA/1.png\tA\n".encode("utf-16"),
    b"path,label,x,y,width,height\nA/1.png,A,1,2,8,9\nB/2.png,B,0.1,0.2,0.5,0.5\n",
    b"path,label,subset\nA/1.png,A,train\nB/2.png,B,test\n",
]


@example(seed=TABLES[0], edits=[Edit(0.3125, 20, b"")])  # only a header is left
@example(seed=TABLES[1], edits=[Edit(0.45, 0, b"9" * 5000)])  # no name may be as long
@given(seed=st.sampled_from(TABLES), edits=TEXT_EDITS)
@tries(600)
def test_a_table(tmp_path: Path, seed: bytes, edits: Sequence[Edit]) -> bool:
    file = tmp_path / "table.csv"
    file.write_bytes(damaged(seed, edits))

    def read() -> None:
        assert list_csv(file)

    return refused(DataError, read, lambda: read_signers(tmp_path, str(file), ["A/1.png"]))


COCO: Final = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}],
    "annotations": [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 2, "name": "A"}],
}
ANNOTATIONS: Final = [
    ("yolo", "a.txt", b"0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.2 0.2 0.3 0.1\n"),
    ("yolo", "data.yaml", b"names: {0: A, 1: B}\nkpt_shape: [3, 2]\ntrain: images\n"),
    ("yolo", "data.yaml", b"a: &a [A]\nnames: [A, 'no', null]\n"),
    ("coco", "all.json", json.dumps(COCO).encode()),
    ("voc", "a.xml", b"<?xml version='1.0'?><annotation><filename>a.jpg</filename><size><width>8"
     b"</width><height>8</height></size><object><name>A</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
     b"<xmax>5</xmax><ymax>6</ymax></bndbox></object></annotation>"),
]  # fmt: skip


@given(seed=st.sampled_from(ANNOTATIONS), edits=TEXT_EDITS)
@tries(300)
def test_an_annotation(tmp_path: Path, seed: tuple[str, str, bytes], edits: Sequence[Edit]) -> bool:
    kind, name, data = seed
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "a.txt").write_bytes(ANNOTATIONS[0][2])
    (tmp_path / name).write_bytes(damaged(data, edits))
    files = ["a.jpg", *(file.name for file in tmp_path.iterdir())]
    return refused(DataError, lambda: read_annotations(tmp_path, kind, files))


NAMES: Final = [
    ("m.json", b'{"a": "A", "b": "B", "other": null}'),
    ("m.csv", b"data,network\na,A\nb,B\nother,\n"),
    ("c.json", b'["A", "B", "\\u00df"]'),
    ("c.txt", "A\nB\nß\n".encode()),
]


@given(seed=st.sampled_from(NAMES), edits=TEXT_EDITS)
@tries(200)
def test_a_file_of_names(tmp_path: Path, seed: tuple[str, bytes], edits: Sequence[Edit]) -> bool:
    file = tmp_path / seed[0]
    file.write_bytes(damaged(seed[1], edits))
    return refused(SettingError, lambda: read_mapping(file, ("A", "B")), lambda: read_classes(file))


PRESET: Final = b"""# @package _global_
defaults:
  - override /model: simple_cnn
  - override /data: folder
image_size: 32
optimizer: {lr: 0.01}
data: {root: photos}
split: {gap: 2}
trainer: {max_epochs: 3}
"""


@example(edits=[Edit(0.99, 0, b": a: b")])  # no YAML
@example(edits=[Edit(0.99, 0, b"[" * 3000)])
@given(edits=TEXT_EDITS)
@tries(10, shrinks=False)
def test_a_configuration(tmp_path: Path, edits: Sequence[Edit]) -> bool:
    """A file of --config-dir, and the settings that it makes."""
    folder = tmp_path / "experiment"
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_bytes(damaged(PRESET, edits))
    return refused(SignlangError, lambda: compose(tmp_path))


def compose(folder: Path) -> None:
    search = f"hydra.searchpath=[file://{folder}]"
    with api.composed("train", [search, "experiment=mine", "verbose=false"]) as cfg:
        check_train_config(api.without_hydra(cfg))


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = shutil.copytree(trained.parents[2], tmp_path_factory.mktemp("fuzz") / "runs")
    folder = Path(runs / trained.relative_to(trained.parents[2]))
    trained_run.load_trained_run(folder)  # imports torch, which is not the memory of an input
    return folder


RUN_FILES: Final = [
    "record.json", "metrics.json", "predictions.csv", "data.csv", "history.csv", "classes.json",
    "calibration.json", ".hydra/config.yaml", ".hydra/overrides.yaml", "run.log", "hparams.yaml",
]  # fmt: skip


@contextmanager
def replaced(file: Path, edits: Sequence[Edit]) -> Iterator[None]:
    """A damaged file in the place of one."""
    before = file.read_bytes()
    try:
        file.write_bytes(damaged(before, edits))
        yield
    finally:
        file.write_bytes(before)


@example(name="record.json", edits=[Edit(0.0, 0, b"[" * 3000)])  # deeper than Python recurses
@given(name=st.sampled_from(RUN_FILES), edits=TEXT_EDITS)
@tries(100)
def test_a_run_folder(run: Path, name: str, edits: Sequence[Edit]) -> bool:
    folder = RunFolder(run)
    with replaced(run / name, edits):
        return refused(
            (RunError, DataError),
            lambda: results.read_run(run),
            lambda: results.read_predictions(folder, 0),
            lambda: results.read_history(run),
            lambda: results.read_class_names(run),
            lambda: trained_run.read_calibration(run),
            lambda: images_root(run),
            lambda: unfinished_fold(run),
            lambda: folder.report_changes(*RUN_FILES[:7]),
            lambda: folder.is_finished("0" * 32),
            lambda: folder.crops,
            lambda: folder.images_of("train"),
        )


@given(name=st.sampled_from(RUN_FILES), edits=TEXT_EDITS)
@tries(8, shrinks=False)
def test_a_study(run: Path, name: str, edits: Sequence[Edit]) -> bool:
    study = run.parent.parent
    with replaced(run / name, edits):
        api.list_runs([f"runs_dir={study.parent}", "verbose=false"])  # damaged is a status
        return refused(SignlangError, lambda: api.load_study(study))


@given(name=st.sampled_from(RUN_FILES), edits=TEXT_EDITS)
@tries(12, shrinks=False)
def test_the_network_of_a_run_folder(run: Path, name: str, edits: Sequence[Edit]) -> bool:
    with replaced(run / name, edits):
        return refused(SignlangError, lambda: trained_run.load_trained_run(run))


TRAINED: Final = [  # see the fixture
    *QUICK, "split=signer", "verbose=false", "trainer.max_epochs=12",
    "callbacks.checkpoint.monitor=null", "callbacks.early_stopping=null",
]  # fmt: skip


@pytest.fixture
def code_is_known() -> None:
    """Asks git for the version of the code, which a process does once."""
    system.git_commit()


@pytest.mark.slow
@pytest.mark.usefixtures("code_is_known")
@given(
    name=st.sampled_from([*RUN_FILES, "checkpoints/best.ckpt"]),
    edits=TEXT_EDITS,
    verb=st.sampled_from(["compare", "evaluate", "export", "train"]),
)
@tries(5, shrinks=False, mebibytes=1000)
def test_a_command_on_a_run_folder(
    run: Path, tiny: Path, tmp_path: Path, name: str, edits: Sequence[Edit], verb: str
) -> bool:
    runs, out = tmp_path / "runs", tmp_path / "out"
    for place in (runs, out):
        shutil.rmtree(place, ignore_errors=True)
    folder = shutil.copytree(run.parents[2], runs) / run.relative_to(run.parents[2])
    (folder / name).write_bytes(damaged((folder / name).read_bytes(), edits))
    own, images = [f"run={folder}", f"out={out}", "verbose=false"], f"data.root={tiny}"
    return refused(SignlangError, {
        "compare": lambda: api.compare(folder.parents[1], out=out),
        "evaluate": lambda: api.evaluate([*own, "data=folder", images]),
        "export": lambda: api.export([*own, "verify=generated"]),
        "train": lambda: api.train([*TRAINED, images, f"runs_dir={runs}"]),
    }[verb])  # fmt: skip


@given(edits=EDITS)
@tries(40)
def test_a_checkpoint(run: Path, edits: Sequence[Edit]) -> bool:
    from signlang.runs.training import resume_checkpoint

    folder = RunFolder(run)
    with replaced(folder.last, edits):
        resume_checkpoint(folder)  # says that it starts again
    with replaced(folder.checkpoints / "best.ckpt", edits):
        return refused(SignlangError, lambda: trained_run.load_trained_run(run))


PICKLED: Final = edits_of([0, 1, 1, 2, 8], [
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"U\x0btouch CANARY\x85R", b"R", b"b", b"0", b"\x93",
    b"\x81", b"(", b"t", b".", b"e", b"u", b"2" * 300, b"Q", b"}" * 50, b"h\0",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"cnumpy\nndarray\n", b"\x8a\x08" + b"\x7f" * 8,
    b"X\xff\xff\xff\x7f", b"cposix\nsystem\n(S'touch CANARY'\ntR",
], some_bytes, 4)  # fmt: skip


def repacked(data: bytes, edits: Sequence[Edit]) -> bytes:
    """A checkpoint with another pickle, whose checksums are right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, damaged(content, edits) if name.endswith("data.pkl") else content)
    return stream.getvalue()


@given(edits=PICKLED)
@tries(40)
def test_a_pickle(run: Path, tmp_path: Path, edits: Sequence[Edit]) -> bool:
    """What is in a checkpoint, behind its checksums."""
    from signlang.models.weights import read_state
    from signlang.runs.training import resume_checkpoint

    folder = RunFolder(run)
    best = folder.checkpoints / "best.ckpt"
    data, weights = repacked(best.read_bytes(), edits), tmp_path / "weights.pt"
    weights.write_bytes(data)
    with replaced(folder.last, []):
        folder.last.write_bytes(data)
        resume_checkpoint(folder)
    with replaced(best, []):
        best.write_bytes(data)
        return refused(
            SignlangError,
            lambda: trained_run.load_trained_run(run),
            lambda: read_state(str(weights)),
        )


def test_a_checkpoint_whose_epoch_is_no_number_is_not_resumed(run: Path) -> None:
    import torch

    from signlang.runs.training import resume_checkpoint

    folder = RunFolder(run)
    with replaced(folder.last, []):
        state = torch.load(folder.last)
        for epoch, is_used in ((3, True), ("3", False), (2.5, False), (None, False)):
            torch.save(state | {"epoch": epoch}, folder.last)
            assert (resume_checkpoint(folder) is not None) is is_used, epoch


TENSORS: Final = safetensors.numpy.save({"a.weight": np.zeros((3, 4), np.float32)})


@given(edits=st.one_of(EDITS, TEXT_EDITS))
@tries(100)
def test_weights(tmp_path: Path, edits: Sequence[Edit]) -> bool:
    from signlang.models.weights import read_state

    file = tmp_path / "weights.safetensors"
    file.write_bytes(damaged(TENSORS, edits))
    return refused(WeightsError, lambda: read_state(str(file)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write(tmp_path_factory.mktemp("fuzz") / "bundle")


@given(edits=TEXT_EDITS)
@tries(600)
def test_a_manifest(bundle: Path, edits: Sequence[Edit]) -> bool:
    data = damaged((bundle / "bundle.json").read_bytes(), edits)

    def read() -> None:
        assert isinstance(parse_manifest(data, "B")["classes"], list)

    return refused(BundleError, read)


@given(edits=EDITS)
@tries(250)
def test_a_network(bundle: Path, edits: Sequence[Edit]) -> bool:
    data, classes = (bundle / "model.onnx").read_bytes(), load_bundle(bundle).classes

    def compute() -> None:
        network = OnnxModel(damaged(data, edits), classes, "model.onnx")
        network(np.zeros((2, 8, 8, 3), np.uint8))

    return refused(BundleError, compute)


@pytest.fixture(scope="module")
def full_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write_full(tmp_path_factory.mktemp("fuzz") / "full")


BUNDLE_FILES: Final = [
    "classes.json", "signs.json", "model.onnx", "hands/palm.onnx", "hands/landmarks.onnx",
    "hands/LICENSE", "card.html", "bundle.json",
]  # fmt: skip


@example(name="hands/LICENSE", edits=[Edit(0.0, 0, b"\xff")])  # was decoded without a thought
@given(name=st.sampled_from(BUNDLE_FILES), edits=st.one_of(EDITS, TEXT_EDITS))
@tries(80)
def test_a_bundle(full_bundle: Path, name: str, edits: Sequence[Edit]) -> bool:
    """Files of a bundle, behind their checksums, which are right, as a service opens them."""
    manifest = full_bundle / "bundle.json"
    with replaced(manifest, []), replaced(full_bundle / name, edits):
        if name != "bundle.json":
            info = json.loads(manifest.read_bytes())
            info["files"][name] = hashlib.sha256((full_bundle / name).read_bytes()).hexdigest()
            manifest.write_text(json.dumps(info))
        options = checked_config({"bundle": str(full_bundle)})
        return refused(SignlangError, lambda: create_app(load_models(options), options))


@example(edits=[Edit(0.75, 2, b""), Edit(0.75, 2, b"\0" * 4)])  # what zlib raises was not caught
@given(edits=EDITS)
@tries(200)
def test_an_archive(bundle: Path, tmp_path: Path, edits: Sequence[Edit]) -> bool:
    whole = tmp_path / "whole.zip"
    if not whole.is_file():
        shutil.make_archive(str(whole.with_suffix("")), "zip", bundle)
    archive = tmp_path / "bundle.zip"
    archive.write_bytes(damaged(whole.read_bytes(), edits))
    return refused(BundleError, lambda: load_bundle(archive))


@pytest.fixture(scope="module")
def running(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    words = (f"bundle={bundle}", "head_s=0.5", "body_s=0.5")
    with service(tmp_path_factory.mktemp("fuzz"), *words) as started:
        yield started


def requests() -> list[bytes]:
    stream = io.BytesIO()
    bundles.image("A").save(stream, "PNG")
    image = stream.getvalue()
    part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n%b\r\n'
    many = part % image + part % image + b"--x--\r\n"
    head = b"POST /v1/predict?top=2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n"
    length = b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
    chunked = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    return [
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        head % b"image/png" + length % (len(image), image),
        head % b"multipart/form-data; boundary=x" + length % (len(many), many),
        head % b"image/png" + chunked % (len(image), image),
        head % b"application/json" + length % (13, b'{"images": []}'),
    ]


@given(seed=st.sampled_from(requests()), edits=st.one_of(EDITS, TEXT_EDITS))
@tries(250)
def test_a_request(running: Service, seed: bytes, edits: Sequence[Edit]) -> bool:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        received = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            wire.sendall(damaged(seed, edits))
            wire.shutdown(socket.SHUT_WR)
            while piece := wire.recv(65536):
                received += piece
    assert not received.startswith(b"HTTP/1.1 5"), received
    return not received.startswith(b"HTTP/1.1 2")


class Here:
    """A service in this process: the application, and the protocol that speaks HTTP for it.

    Args:
        bundle: What it serves.
    """

    def __init__(self, bundle: Path) -> None:
        options = checked_config({"bundle": str(bundle), "head_s": 0.5, "body_s": 0.5})
        config = uvicorn.Config(
            create_app(load_models(options), options), log_config=None, access_log=False,
            server_header=False, proxy_headers=False, lifespan="off",
        )  # fmt: skip
        config.load()
        self.loop, self.failures = asyncio.new_event_loop(), list[str]()
        self.loop.set_exception_handler(lambda _, what: self.failures.append(str(what)))
        self.make = functools.partial(
            protocol_factory(options), config=config, server_state=ServerState(), app_state={}
        )

    def ask(self, data: bytes) -> bytes:
        """Send bytes over a connection, and read what is answered until it is closed."""
        return self.loop.run_until_complete(asyncio.wait_for(self._ask(data), WAITED))

    async def _ask(self, data: bytes) -> bytes:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        await self.loop.connect_accepted_socket(self.make, theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        received = b""
        try:
            writer.write(data)
            with suppress(TimeoutError):  # it waits for more
                received = await asyncio.wait_for(reader.read(65536), 0.05)
            writer.write_eof()
            received += await reader.read()
        except OSError:  # it did not want to hear all of that
            pass
        finally:
            writer.close()
            await asyncio.sleep(0)
        return received

    def close(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0.1))
        self.loop.close()


@pytest.fixture(scope="module")
def here(full_bundle: Path) -> Iterator[Here]:
    started = Here(full_bundle)
    yield started
    started.close()


ANSWER: Final = re.compile(rb"HTTP/1\.1 [234]\d\d [^\r\n]*\r\n")


@given(seed=st.sampled_from(requests()), edits=st.one_of(EDITS, TEXT_EDITS))
@tries(250)
def test_a_request_to_the_protocol(
    here: Here, caplog: pytest.LogCaptureFixture, seed: bytes, edits: Sequence[Edit]
) -> bool:
    caplog.clear()
    received = here.ask(damaged(seed, edits))
    assert not received or ANSWER.match(received), received
    assert not here.failures
    assert [line for line in caplog.records if line.levelno >= logging.ERROR] == []
    return not received.startswith(b"HTTP/1.1 2")


LATIN: Final = st.characters(max_codepoint=255)  # of a header, whose bytes are taken for latin-1


@given(
    edits=st.one_of(EDITS, TEXT_EDITS),
    boundary=st.one_of(st.just("x"), st.text(LATIN, max_size=80)),
    most=st.integers(1, 3),
)
@tries(300)
def test_a_multipart_body(edits: Sequence[Edit], boundary: str, most: int) -> bool:
    body = damaged(requests()[2].partition(b"\r\n\r\n")[2], edits)
    kind = f"multipart/form-data; boundary={boundary}"

    def read() -> None:
        files = asyncio.run(uploaded_files(body, kind, most))
        assert 1 <= len(files) <= most
        assert all(isinstance(data, bytes) for data in files)

    return refused(RequestError, read)


def test_the_service_has_outlived_it(running: Service) -> None:
    with running.client() as client:
        assert client.get("/readyz").status_code == 200
    assert len(running.workers()) == 1
    assert [line for line in running.lines() if "trace" in line] == []
    assert json.loads(running.log.read_text("utf-8").splitlines()[0])["event"] == "ready"
