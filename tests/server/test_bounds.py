"""What clients that mean harm, or are broken, can take from a service: little, for a short time."""

import io
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import bundles
import httpx
import numpy as np
import pytest
from PIL import Image
from services import Service, service, wait_for

HEAD_S = 1.5
LIMITS = (f"head_s={HEAD_S}", "address_connections=40", "connections=60", "queue=8", "max_images=8")
JPEG = {"content-type": "image/jpeg"}
ASK = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write(tmp_path_factory.mktemp("bundles") / "colours")


@pytest.fixture(scope="module")
def running(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    words = (f"bundle={bundle}", "body_s=6", *LIMITS)
    with service(tmp_path_factory.mktemp("service"), *words) as started:
        yield started


@contextmanager
def wire(running: Service) -> Iterator[socket.socket]:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, str], str]:
    """Status, headers and sentence of a refusal, read until the service closes."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)["error"]


def memory(process: int) -> float:
    """Resident memory, in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def photograph() -> bytes:
    stream = io.BytesIO()
    bundles.image("A", (40, 30)).save(stream, "JPEG")
    return stream.getvalue()


def is_well(running: Service) -> bool:
    with running.client() as client:
        got = client.post("/v1/predict", content=photograph(), headers=JPEG)
    return got.status_code == 200 and got.json()["predictions"][0]["label"] == "A"


def test_a_head_without_end_is_cut_off(running: Service) -> None:
    (worker,) = running.workers()
    before = memory(worker)
    with wire(running) as connection:
        connection.sendall(ASK)
        with pytest.raises(OSError, match=r"reset|Broken|aborted"):  # noqa: PT012
            for _ in range(2000):  # 120 MB
                connection.sendall(b"X-Filler: " + b"a" * 60_000 + b"\r\n")
    assert memory(worker) - before < 30
    assert is_well(running)


def test_a_head_of_64_kib_is_refused_with_a_sentence(running: Service) -> None:
    with wire(running) as connection:
        connection.sendall(ASK + b"X-Filler: " + b"a" * (65536 - len(ASK) - 10) + b"\r\n")
        status, headers, sentence = answer(connection)
    assert (status, sentence) == (431, "The head of the request has more than 64 KiB.")
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    with wire(running) as connection:  # just below
        connection.sendall(ASK + b"X-Filler: " + b"a" * 60_000 + b"\r\nConnection: close\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("sent", [b"", ASK, b"\r\n", ASK + b"\r\n" + ASK])
def test_a_connection_that_asks_nothing_is_closed(sent: bytes, running: Service) -> None:
    with wire(running) as connection:
        started = time.monotonic()
        for byte in sent[:3]:  # a byte now and then does not help
            connection.sendall(bytes([byte]))
            time.sleep(0.1)
        connection.sendall(sent[3:])
        received = b""
        while piece := connection.recv(65536):
            received += piece
        took = time.monotonic() - started
    assert b"HTTP/1.1 408" in received
    assert HEAD_S - 0.2 < took < HEAD_S + 3


def test_one_address_cannot_shut_out_the_others(running: Service) -> None:
    with ExitStack() as opened:
        held = [opened.enter_context(wire(running)) for _ in range(45)]
        for connection in held:
            connection.sendall(ASK)
        refused = [answer(connection) for connection in held[40:]]
        assert {status for status, *_ in refused} == {429}
        assert {headers["retry-after"] for _, headers, _ in refused} == {"1"}
        assert "from this address" in refused[0][2]
        wait_for(lambda: is_well(running), 10)  # the others are closed by now


def test_no_more_connections_are_held_than_allowed(bundle: Path, tmp_path: Path) -> None:
    with (
        service(tmp_path, f"bundle={bundle}", "connections=10", "head_s=2") as small,
        ExitStack() as opened,
    ):
        held = [opened.enter_context(wire(small)) for _ in range(30)]
        status, headers, sentence = answer(held[15])
        assert (status, headers["retry-after"]) == (503, "1")
        assert "Too many connections" in sentence
        assert held[-1].recv(100) == b""  # beyond twice as many nothing is said
        wait_for(lambda: is_well(small), 10)


def test_bodies_that_trickle_do_not_fill_the_queue(running: Service) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    with ExitStack() as opened:
        for number in range(30):  # of 8 images that may be inside
            connection = opened.enter_context(wire(running))
            size = b"Content-Length: 5000" if number % 2 else b"Transfer-Encoding: chunked"
            connection.sendall(head + size + b"\r\n\r\n" + b"1\r\n\xff\r\n")
        time.sleep(0.2)
        started = time.monotonic()
        assert is_well(running)
        assert time.monotonic() - started < 2


def test_an_image_of_one_column_takes_no_memory(running: Service) -> None:
    (worker,) = running.workers()
    before = memory(worker)
    stream = io.BytesIO()
    Image.fromarray(np.zeros((24_000_000, 1), np.uint8)).save(stream, "PNG")
    with running.client() as client:
        got = client.post("/v1/predict", content=stream.getvalue(), headers=JPEG)
    assert got.status_code == 413
    assert "1 x 24000000 pixels" in got.json()["error"]
    assert memory(worker) - before < 100


def test_a_decoder_that_hangs_costs_its_process_only(bundle: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((4800, 4800)).save(stream, "JPEG", progressive=True, quality=95)
    words = (f"bundle={bundle}", "decode_s=0.02", "timeout_s=5")
    with service(tmp_path, *words) as replaced:
        with replaced.client() as client, pytest.raises(httpx.TransportError):
            client.post("/v1/predict", content=stream.getvalue(), headers=JPEG)
        wait_for(lambda: len(replaced.workers()) == 2, 30)
        assert len(replaced.events("a decoder hangs")) == 1
        assert is_well(replaced)


def test_a_foreign_name_is_refused(running: Service, bundle: Path, tmp_path: Path) -> None:
    def status(where: Service, host: str) -> int:
        with where.client() as client:
            return client.get("/v1/models", headers={"host": host}).status_code

    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:80", "x.localhost",
                 socket.gethostname()):  # fmt: skip
        assert status(running, host) == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        assert status(running, host) == 421, host
    with service(tmp_path, f"bundle={bundle}", "hosts=[Signs.example]") as named:
        assert status(named, "signs.example:443") == 200
        assert status(named, "evil.example") == 421


def test_the_methods_of_an_address_are_told(running: Service) -> None:
    with running.client() as client:
        for path in ("/", "/healthz", "/v1/models", "/v1/models/colours/network.onnx"):
            whole, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(whole.content))
            asked = client.options(path)
            assert (asked.status_code, asked.content) == (204, b"")
            assert asked.headers["allow"] == "GET, HEAD, OPTIONS"
        assert client.options("/v1/predict").headers["allow"] == "POST, OPTIONS"
        assert client.options("/nowhere").status_code == 404
        assert client.delete("/v1/models").status_code == 405


def test_other_kinds_of_images_are_named_as_such(running: Service) -> None:
    with running.client() as client:
        for kind in ("image/gif", "image/svg+xml"):
            got = client.post("/v1/predict", content=b"GIF89a", headers={"content-type": kind})
            assert got.status_code == 415
            assert "a kind of image that is not read" in got.json()["error"]
