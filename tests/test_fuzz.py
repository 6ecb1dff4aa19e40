"""Files and requests of strangers, damaged by hypothesis: nothing but errors for people.

`make fuzz` tries twenty times as many. An input that once failed stays as an `@example`.
"""

import io
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import bundles
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from services import Service, service

from signlang.data.image_folder import list_csv, read_signers
from signlang.data.image_io import BadImageError, inspect_image, read_image
from signlang.data.sources import images_root
from signlang.errors import BundleError, DataError, RunError, SignlangError
from signlang.inference.bundle import load_bundle, parse_manifest
from signlang.inference.onnx_model import OnnxModel
from signlang.runs import results, trained_run
from signlang.runs.folder import RunFolder
from signlang.server.schemas import RequestError
from signlang.server.uploads import decode_upload

TIMES: Final = int(os.environ.get("SIGNLANG_FUZZ", "1"))
MILLISECONDS: Final = 30_000  # for one input, on a busy machine: a hang fails


def tries(count: int) -> settings:
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=count * TIMES, deadline=MILLISECONDS, derandomize=True, database=None,
        suppress_health_check=quiet,
    )  # fmt: skip


class Edit(NamedTuple):
    """Bytes put at a place, a share of the length, instead of some."""

    place: float
    removed: int
    put: bytes


EDITS: Final = st.lists(
    st.builds(
        Edit,
        st.floats(0, 1, allow_nan=False, exclude_max=True),
        st.sampled_from([0, 0, 1, 1, 2, 4, 100, 10**6]),
        st.one_of(
            st.binary(max_size=4),
            st.sampled_from([b"\0", b"\xff", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xda"]),
        ),
    ),
    min_size=1, max_size=6,
)  # fmt: skip
# of texts: what a person, a spreadsheet or a stranger puts there
TEXT_EDITS: Final = st.lists(
    st.builds(
        Edit,
        st.floats(0, 1, allow_nan=False, exclude_max=True),
        st.sampled_from([0, 0, 1, 1, 3, 20]),
        st.one_of(
            st.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
            st.sampled_from([
                b'"', b"'", b"\r", b"\n", b"\t", b";", b",", b"{", b"[" * 3000, b"nan", b"1e999",
                b"-1", b"null", b"../../x", b"/etc/passwd", b"\0", b"\xff\xfe", b"${oc.env:HOME}",
                b"!!python/object:os.system x", b"&a [*a]", b"9" * 5000, b"true",
            ]),
        ),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


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


@given(st.sampled_from(image_seeds()), EDITS)
@tries(2500)
def test_an_image(seed: bytes, edits: Sequence[Edit]) -> None:
    data = damaged(seed, edits)
    with suppress(BadImageError):
        pixels = read_image(data)
        assert pixels.shape[2] == 3
        assert inspect_image(data).width == pixels.shape[1]
    with suppress(RequestError):
        assert decode_upload(data, 8, 10**6, 1, 1)[0].shape == (8, 8, 3)


TABLES: Final = [
    b"path,label,signer\nA/1.png,A,anna\nB/2.png,B,\xc3\xa9mile\n",
    b"\xef\xbb\xbfPath;Label\r\nA\\1.png;A\r\nB\\2.png;B\r\n",
    "path\tlabel\nA/1.png\tA\n".encode("utf-16"),
]


@example(seed=TABLES[0], edits=[Edit(0.3125, 20, b"")])  # only a header is left
@example(seed=TABLES[1], edits=[Edit(0.45, 0, b"9" * 5000)])  # no name may be as long
@given(st.sampled_from(TABLES), TEXT_EDITS)
@tries(800)
def test_a_table(tmp_path: Path, seed: bytes, edits: Sequence[Edit]) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(damaged(seed, edits))
    with suppress(DataError):
        assert list_csv(file)
    with suppress(DataError):
        read_signers(tmp_path, str(file), ["A/1.png"])


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "fold=0"
    shutil.copytree(trained, folder)
    return folder


RUN_FILES: Final = [
    "record.json", "metrics.json", "predictions.csv", "data.csv", "history.csv", "classes.json",
    "calibration.json", ".hydra/config.yaml",
]  # fmt: skip


def read_everything(run: Path) -> None:
    for read in (
        lambda: results.read_run(run),
        lambda: results.read_predictions(RunFolder(run), 0),
        lambda: results.read_history(run),
        lambda: results.read_class_names(run),
        lambda: trained_run.read_calibration(run),
        lambda: images_root(run),
    ):
        with suppress(RunError, DataError):
            read()


@example(name="record.json", edits=[Edit(0.0, 0, b"[" * 3000)])  # deeper than Python recurses
@given(st.sampled_from(RUN_FILES), TEXT_EDITS)
@tries(60)
def test_a_run_folder(run: Path, name: str, edits: Sequence[Edit]) -> None:
    file = run / name
    before = file.read_bytes()
    try:
        file.write_bytes(damaged(before, edits))
        read_everything(run)
    finally:
        file.write_bytes(before)


@given(st.sampled_from(RUN_FILES), TEXT_EDITS)
@tries(12)
def test_the_network_of_a_run_folder(run: Path, name: str, edits: Sequence[Edit]) -> None:
    file = run / name
    before = file.read_bytes()
    try:
        file.write_bytes(damaged(before, edits))
        with suppress(SignlangError):
            trained_run.load_trained_run(run)
    finally:
        file.write_bytes(before)


@given(EDITS)
@tries(40)
def test_a_checkpoint(run: Path, edits: Sequence[Edit]) -> None:
    (file,) = run.rglob("best.ckpt")
    before = file.read_bytes()
    try:
        file.write_bytes(damaged(before, edits))
        with suppress(SignlangError):
            trained_run.load_trained_run(run)
    finally:
        file.write_bytes(before)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write(tmp_path_factory.mktemp("fuzz") / "bundle")


@given(TEXT_EDITS)
@tries(1100)
def test_a_manifest(bundle: Path, edits: Sequence[Edit]) -> None:
    with suppress(BundleError):
        data = damaged((bundle / "bundle.json").read_bytes(), edits)
        assert isinstance(parse_manifest(data, "B")["classes"], list)


@given(EDITS)
@tries(300)
def test_a_network(bundle: Path, edits: Sequence[Edit]) -> None:
    classes = load_bundle(bundle).classes
    with suppress(BundleError):
        network = OnnxModel(
            damaged((bundle / "model.onnx").read_bytes(), edits), classes, "model.onnx"
        )
        network(np.zeros((2, 8, 8, 3), np.uint8))


@example(edits=[Edit(0.75, 2, b""), Edit(0.75, 2, b"\0" * 4)])  # what zlib raises was not caught
@given(EDITS)
@tries(200)
def test_an_archive(bundle: Path, tmp_path: Path, edits: Sequence[Edit]) -> None:
    whole = tmp_path / "whole.zip"
    if not whole.is_file():
        shutil.make_archive(str(whole.with_suffix("")), "zip", bundle)
    archive = tmp_path / "bundle.zip"
    archive.write_bytes(damaged(whole.read_bytes(), edits))
    with suppress(BundleError):
        load_bundle(archive)


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
    ]


@given(st.sampled_from(requests()), st.one_of(EDITS, TEXT_EDITS))
@tries(300)
def test_a_request(running: Service, seed: bytes, edits: Sequence[Edit]) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        received = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            wire.sendall(damaged(seed, edits))
            wire.shutdown(socket.SHUT_WR)
            while piece := wire.recv(65536):
                received += piece
    assert not received.startswith(b"HTTP/1.1 5"), received


def test_the_service_has_outlived_it(running: Service) -> None:
    with running.client() as client:
        assert client.get("/readyz").status_code == 200
    assert len(running.workers()) == 1
    assert [line for line in running.lines() if "trace" in line] == []
    assert json.loads(running.log.read_text("utf-8").splitlines()[0])["event"] == "ready"
