"""The service, started by its command and asked over HTTP."""

import gzip
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bundles
import httpx
import numpy as np
import onnx
import pytest
from conftest import ROOT, run_command
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from services import Service, service, wait_for

from signlang.inference.bundle import load_bundle
from signlang.inference.onnx_model import OnnxModel
from signlang.server.schemas import ModelList, PredictResponse

JPEG = {"content-type": "image/jpeg"}
PAGE = ROOT / "signlang" / "server" / "page"
LIMITS = ("max_body_mb=0.5", "max_pixels=1000000", "max_images=4", "body_s=1")


def encoded(sign: str, kind: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    bundles.image(sign, size).save(stream, kind)
    return stream.getvalue()


def slow_network(work: int) -> bytes:
    """The nearest colour, after multiplying large matrices for nothing."""
    model = onnx.load_from_string(bundles.network(bundles.COLOURS))
    side = 1500
    model.graph.initializer.append(
        numpy_helper.from_array(np.full((side, side), 1 / side, np.float32), "work")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    nodes = [helper.make_node("ReduceMax", ["scaled"], ["work0in"], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["work", "work0in"], ["work0"]))
    for step in range(work):
        nodes.append(helper.make_node("MatMul", [f"work{step}", "work"], [f"work{step + 1}"]))
    nodes.append(helper.make_node("ReduceMax", [f"work{work}"], ["peak"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["peak", "zero"], ["none"]))
    nodes.append(helper.make_node("Add", ["logits", "none"], ["late"]))
    softmax = model.graph.node.pop()
    softmax.input[0] = "late"
    model.graph.node.extend([*nodes, softmax])
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write(tmp_path_factory.mktemp("bundles") / "a bundle, (1)")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "slow"
    return bundles.write(folder, name="slow", model=slow_network(8))


@pytest.fixture(scope="module")
def running(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    few = {name: bundles.COLOURS[name] for name in ("A", "B")}
    other = bundles.write(tmp_path_factory.mktemp("other") / "few", "few", few, card=b"")
    folder = tmp_path_factory.mktemp("service")
    with service(folder, str(bundle), f"bundle={other}", *LIMITS) as started:
        yield started


@pytest.fixture
def client(running: Service) -> Iterator[httpx.Client]:
    with running.client() as made:
        yield made


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_image_as_the_body_is_answered(client: httpx.Client, kind: str) -> None:
    headers = {"content-type": f"image/{kind.lower()}"}
    got = client.post("/v1/predict", content=encoded("L", kind), headers=headers)
    answer = PredictResponse.model_validate(got.json())
    assert got.status_code == 200
    assert answer.model == "colours"
    (found,) = answer.predictions
    assert found.label == "L"
    assert found.sure
    assert list(found.probabilities.values()) == sorted(found.probabilities.values(), reverse=True)
    assert set(found.probabilities) == set(bundles.COLOURS)


def test_the_answer_is_that_of_the_bundle(client: httpx.Client, bundle: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    got = client.post(
        "/v1/predict", content=stream.getvalue(), headers={"content-type": "image/png"}
    )
    (wanted,) = OnnxModel.from_bundle(load_bundle(bundle))(pixels[None])
    found = got.json()["predictions"][0]["probabilities"]
    assert [found[name] for name in bundles.COLOURS] == pytest.approx(wanted.tolist(), abs=2e-6)


def test_many_images_are_answered_in_their_order(client: httpx.Client) -> None:
    signs = ["A", "space", "C", "del"]
    files = [("any", (f"../../{sign}.exe", encoded(sign, "PNG"))) for sign in signs]
    got = client.post("/v1/predict", files=files, params={"top": 1})
    assert [found["label"] for found in got.json()["predictions"]] == signs
    assert all(len(found["probabilities"]) == 1 for found in got.json()["predictions"])


def test_a_request_chooses_among_the_networks(client: httpx.Client) -> None:
    listed = ModelList.model_validate(client.get("/v1/models").json())
    assert [(one.name, one.default) for one in listed.models] == [("colours", True), ("few", False)]
    got = client.post("/v1/predict", content=encoded("L"), headers=JPEG, params={"model": "few"})
    assert got.json()["model"] == "few"
    assert set(got.json()["predictions"][0]["probabilities"]) == {"A", "B"}


def test_an_unsure_answer_says_so(client: httpx.Client) -> None:
    between = Image.new("RGB", (9, 9), (170, 80, 80))  # of A and nothing
    stream = io.BytesIO()
    between.save(stream, "PNG")
    got = client.post(
        "/v1/predict", content=stream.getvalue(), headers={"content-type": "image/png"}
    )
    found = got.json()["predictions"][0]
    assert found["confidence"] < 0.6
    assert found["sure"] is False


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def animation() -> bytes:
    stream = io.BytesIO()
    frames = [bundles.image("A"), bundles.image("B")]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def pieces() -> Iterator[bytes]:
    for _ in range(20):
        yield bytes(100_000)


REFUSED: dict[str, tuple[int, bytes | Callable[[], Iterator[bytes]], str, str]] = {
    "text": (415, b"hello", "text/plain", "Content-Type"),
    "no type": (415, b"hello", "", "Content-Type"),
    "text as image": (415, b"hello", "image/jpeg", "not a JPEG"),
    "a film": (415, b"GIF89a" + bytes(100), "image/png", "not a JPEG"),
    "PostScript": (415, b"%!PS-Adobe-3.0 EPSF-3.0\n", "image/png", "not a JPEG"),
    "animation": (422, animation(), "image/webp", "animated"),
    "nothing": (422, b"", "image/jpeg", "empty"),
    "cut off": (422, encoded("A", size=(400, 300))[:700], "image/jpeg", "cut off"),
    "large": (413, bytes(600_000), "image/jpeg", "524,288 bytes"),
    "large, of unknown length": (413, pieces, "image/jpeg", "524,288 bytes"),
    "many pixels": (413, encoded("A", size=(1001, 1000)), "image/jpeg", "1001 x 1000 pixels"),
    "bomb": (413, png_header(60_000, 60_000), "image/png", "pixels"),
    "giant bomb": (413, png_header(2**31 - 1, 2**31 - 1), "image/png", "pixels"),
    "no boundary": (422, b"x", "multipart/form-data", "boundary"),
    "no name": (
        422, b"--b\r\nContent-Type: image/png\r\n\r\nab\r\n--b--\r\n",
        "multipart/form-data; boundary=b", "name",
    ),
    "malformed": (422, b"x" * 99, "multipart/form-data; boundary=b", "malformed"),
    "multipart cut off": (
        422, b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nab',
        "multipart/form-data; boundary=b", "cut off",
    ),
    "multipart of nothing": (422, b"--b--\r\n", "multipart/form-data; boundary=b", "image"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_gets_a_status_and_a_sentence(
    client: httpx.Client, running: Service, case: str
) -> None:
    status, content, kind, word = REFUSED[case]
    body = content() if callable(content) else content
    got = client.post("/v1/predict", content=body, headers={"content-type": kind})
    assert (got.status_code, list(got.json())) == (status, ["error"])
    assert word in got.json()["error"]
    assert got.json()["error"].endswith(".")
    assert client.get("/readyz").status_code == 200


def test_the_bad_one_of_many_is_named(client: httpx.Client) -> None:
    files = [("a", encoded("A")), ("b", b"no"), ("c", encoded("B"))]
    got = client.post("/v1/predict", files=files)
    assert got.status_code == 415
    assert got.json()["error"].startswith("Image 2 of 3")
    got = client.post("/v1/predict", files=[("a", encoded("A"))] * 5)
    assert got.status_code == 413
    assert "4 images" in got.json()["error"]


def test_other_mistakes_get_a_sentence_too(client: httpx.Client) -> None:
    got = client.post("/v1/predict", content=encoded("A"), headers=JPEG, params={"model": "x"})
    assert (got.status_code, "colours, few" in got.json()["error"]) == (404, True)
    got = client.post("/v1/predict", content=encoded("A"), headers=JPEG, params={"top": "0"})
    assert (got.status_code, "top" in got.json()["error"]) == (422, True)
    assert client.get("/v1/predict").status_code == 405
    assert client.get("/nothing").json()["error"].startswith("There is nothing")
    for path in ("/page/../../../pyproject.toml", "/page/%2e%2e/bundle.py", "/page//etc/passwd"):
        assert client.get(path).status_code == 404
    assert client.get("/v1/models/few/card").status_code == 404
    got = client.get("/v1/models/few/hands/null.onnx")  # 422, of which the description knew nothing
    assert (got.status_code, got.json()["error"][:16]) == (404, "There is nothing")


def test_the_page_is_loaded_once_and_nothing_beside_it(client: httpx.Client) -> None:
    for path, kind in {
        "/": "text/html", "/docs": "text/html", "/page/app.js": "text/javascript",
        "/page/style.css": "text/css", "/page/icon.svg": "image/svg+xml",
    }.items():  # fmt: skip
        got = client.get(path)
        assert (got.status_code, got.headers["content-type"].split(";")[0]) == (200, kind)
        assert got.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": got.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == "no-cache"
    for path in ("package.json", "node_modules/x.js", "vendor/.ready", "vendor", ""):
        assert client.get(f"/page/{path}").status_code == 404, path


def test_a_body_that_does_not_arrive_is_given_up(running: Service) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: 5000\r\n\r\n\xff\xd8"
        )
        assert b" 408 " in wire.recv(4096)


def test_answers_carry_the_headers_that_browsers_obey(client: httpx.Client) -> None:
    for got in (client.get("/"), client.get("/v1/models"), client.get("/nowhere")):
        policy = got.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "'unsafe-inline'" not in policy
        assert "'wasm-unsafe-eval'" in policy
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "no-referrer"
        assert "server" not in got.headers
    card = client.get("/v1/models/colours/card")
    assert card.content == bundles.CARD
    assert "sandbox" in card.headers["content-security-policy"]
    assert "script-src" not in card.headers["content-security-policy"]


def test_pages_of_others_may_not_ask_unless_told(client: httpx.Client, bundle: Path,
                                                 tmp_path: Path) -> None:  # fmt: skip
    asks = {"origin": "https://example.org", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in client.options("/v1/predict", headers=asks).headers
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=asks).headers
    words = (f"bundle={bundle}", "cors=[https://example.org]")
    with service(tmp_path, *words) as opened, opened.client() as other:
        got = other.options("/v1/predict", headers=asks)
        assert got.headers["access-control-allow-origin"] == "https://example.org"
        refused = other.options("/v1/predict", headers={**asks, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers


def test_the_key_is_asked_for(bundle: Path, tmp_path: Path) -> None:
    key = "correct horse battery"
    with service(tmp_path, f"bundle={bundle}", SIGNLANG_API_KEY=key) as locked:
        with locked.client() as client:
            networks = ("network.onnx", "hands/palm.onnx", "hands/landmarks.onnx")
            files = [f"/v1/models/colours/{name}" for name in networks]
            for path in ("/v1/models", *files, "/metrics"):
                got = client.get(path)
                assert (got.status_code, got.headers["www-authenticate"]) == (401, "Bearer")
            wrong = client.post("/v1/predict", content=b"", headers={"x-api-key": key + "!"})
            assert wrong.status_code == 401
            for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
                assert client.get("/v1/models", headers=headers).status_code == 200
                assert client.get(files[1], headers=headers).status_code == 404  # it finds no hands
            got = client.post(
                "/v1/predict", content=encoded("A"), headers={"x-api-key": key, **JPEG}
            )
            assert got.json()["predictions"][0]["label"] == "A"
            for path in ("/", "/docs", "/healthz", "/readyz", "/v1/models/colours/card"):
                assert client.get(path).status_code == 200
            described = client.get("/openapi.json").json()
            (schemes, asked) = (described["components"]["securitySchemes"], described["paths"])
            assert {kind["type"] for kind in schemes.values()} == {"apiKey", "http"}
            for path in ("/v1/predict", "/v1/models", "/v1/models/{name}/network.onnx", "/metrics"):
                (route,) = asked[path].values()
                assert "401" in route["responses"]
                assert [list(way) for way in route["security"]] == [[name] for name in schemes]
            assert "security" not in asked["/healthz"]["get"]
        assert "horse" not in locked.log.read_text()


def test_the_log_tells_nothing_of_the_images(client: httpx.Client, running: Service) -> None:
    files = [("field-secret", ("name-secret.jpg", encoded("A")))]
    client.post("/v1/predict?secret=1", files=files, headers={"x-secret": "secret"})
    client.get("/secret")
    client.get("/page/secret")
    client.post("/v1/predict?model=secret", content=encoded("A"), headers=JPEG)
    wait_for(lambda: running.events("request")[-1]["status"] == 404)
    assert "secret" not in running.log.read_text()
    answered = [one for one in running.events("request") if one["route"] == "/v1/predict"]
    line = next(one for one in reversed(answered) if one["status"] == 200)
    assert {"time", "level", "route", "method", "status", "milliseconds"} <= set(line)
    assert (line["model"], line["images"], line["bytes"] > 0) == ("colours", 1, True)


def test_figures_for_prometheus_add_up(client: httpx.Client) -> None:
    def figures() -> dict[str, float]:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return {
            f"{sample.name}{sorted(sample.labels.items())}": sample.value
            for family in families
            for sample in family.samples
        }

    before = figures()
    for _ in range(3):
        client.post("/v1/predict", files=[("a", encoded("A"))] * 2)
    after = figures()
    images = "signlang_images_total[('model', 'colours'), ('sure', 'yes')]"
    computed = "signlang_batch_images_sum[('model', 'colours')]"
    assert after[images] - before.get(images, 0) == 6
    assert after[computed] - before.get(computed, 0) == 6
    assert after["signlang_images_inside[]"] == 0
    route = "[('method', 'POST'), ('route', '/v1/predict'), ('status', '200')]"
    assert after["signlang_requests_total" + route] >= 3


def test_the_description_works_offline(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/models", "/healthz", "/readyz", "/metrics"} <= set(
        described["paths"]
    )
    answers = described["paths"]["/v1/predict"]["post"]["responses"]
    assert set(answers) == {"200", "404", "408", "413", "415", "422", "429", "503"}
    assert "securitySchemes" not in described["components"]  # there is no key
    for path in ("/", "/docs"):
        assert "https://" not in client.get(path).text


def test_the_runtime_of_the_browser_comes_compressed(client: httpx.Client) -> None:
    file = PAGE / "vendor" / "ort-wasm-simd-threaded.wasm"
    if not file.with_name(f"{file.name}.gz").is_file():
        pytest.skip("`make page` needs npm")
    path = f"/page/vendor/{file.name}"
    for accepted in ("gzip, br", "identity"):
        with client.stream("GET", path, headers={"accept-encoding": accepted}) as got:
            raw = b"".join(got.iter_raw())
        assert got.headers["content-type"] == "application/wasm"
        assert got.headers["vary"] == "Accept-Encoding"
        is_packed = got.headers.get("content-encoding") == "gzip"
        assert is_packed == ("gzip" in accepted)
        assert (gzip.decompress(raw) if is_packed else raw) == file.read_bytes()
        assert len(raw) < 5e6 or not is_packed
        asked = {"accept-encoding": accepted, "if-none-match": got.headers["etag"]}
        assert client.get(path, headers=asked).status_code == 304


def test_the_browser_can_load_the_network_once(client: httpx.Client, bundle: Path) -> None:
    (listed, _) = client.get("/v1/models").json()["models"]
    got = client.get(listed["browser"]["url"])
    assert got.content == (bundle / "model.int8.onnx").read_bytes()
    again = client.get(listed["browser"]["url"], headers={"if-none-match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_no_torch_is_loaded(running: Service) -> None:
    (worker,) = running.workers()
    for process in (worker, running.process.pid):
        libraries = Path(f"/proc/{process}/maps").read_text()
        assert "libtorch" not in libraries
    assert "onnxruntime" in Path(f"/proc/{worker}/maps").read_text()


def test_it_listens_to_this_computer_alone(running: Service) -> None:
    assert running.url.startswith("http://127.0.0.1:")


def test_a_full_queue_refuses_and_loses_nothing(slow: Path, tmp_path: Path) -> None:
    words = ("queue=4", "queue_s=0.01", "max_images=4", "max_batch=1", "runners=1")
    with service(tmp_path, f"bundle={slow}", *words) as busy, busy.client() as client:

        def ask(number: int) -> httpx.Response:
            return client.post("/v1/predict", content=encoded("A"), headers=JPEG)

        with ThreadPoolExecutor(12) as pool:
            got = list(pool.map(ask, range(12)))
        codes = [answer.status_code for answer in got]
        assert set(codes) == {200, 429}
        assert codes.count(200) >= 4
        assert all(a.headers["retry-after"] == "1" for a in got if a.status_code == 429)
        assert ask(0).status_code == 200


def test_too_late_is_said(slow: Path, tmp_path: Path) -> None:
    with service(tmp_path, f"bundle={slow}", "timeout_s=0.05") as late, late.client() as client:
        got = client.post("/v1/predict", content=encoded("A"), headers=JPEG)
        assert (got.status_code, got.headers["retry-after"]) == (503, "5")


def test_sigterm_lets_requests_finish(slow: Path, tmp_path: Path) -> None:
    with service(tmp_path, f"bundle={slow}", "runners=1", "max_batch=1") as ending:
        answers: list[int] = []

        def ask() -> None:
            with ending.client() as client:
                got = client.post("/v1/predict", content=encoded("A"), headers=JPEG)
                answers.append(got.status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        with ending.client() as client:
            wait_for(lambda: "signlang_images_inside 3.0" in client.get("/metrics").text)
        ending.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert answers == [200, 200, 200]
        assert ending.process.wait(20) == 0
        assert ending.events("stopped")
        with pytest.raises(httpx.ConnectError), ending.client() as client:
            client.get("/healthz")


def test_a_killed_process_is_started_again(bundle: Path, tmp_path: Path) -> None:
    with service(tmp_path, f"bundle={bundle}", "workers=2") as running:
        wait_for(lambda: len(running.workers()) == 2)
        for victim in running.workers():
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(running.workers()) == 4)
        with running.client() as client:
            got = client.post("/v1/predict", content=encoded("A"), headers=JPEG)
            assert got.json()["predictions"][0]["label"] == "A"
            assert "signlang_worker_starts_total 4.0" in client.get("/metrics").text
        assert len(running.events("a worker ended, another takes its place")) == 2


def test_a_process_that_hangs_is_replaced(bundle: Path, tmp_path: Path) -> None:
    words = (f"bundle={bundle}", "workers=2", "worker_timeout_s=3")
    with service(tmp_path, *words) as running, running.client() as client:
        wait_for(lambda: len(running.workers()) == 2)
        everyone = (running.process.pid, *running.workers())
        for number, seconds in ((signal.SIGSTOP, 3.5), (signal.SIGCONT, 1.0)):  # Ctrl-Z, and fg
            for process in everyone:
                os.kill(process, number)
            time.sleep(seconds)
        assert not running.events("a worker hangs")
        hanging = running.workers()[0]
        os.kill(hanging, signal.SIGSTOP)
        wait_for(lambda: len(running.workers()) == 3)
        assert [line["worker"] for line in running.events("a worker hangs")] == [hanging]
        for _ in range(8):
            client.get("/readyz").raise_for_status()


def test_no_two_processes_answer_by_different_networks(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "bundle")
    others = {name: bundles.COLOURS[name] for name in ("A", "L")}
    with service(tmp_path, f"bundle={bundle}", "workers=2") as running, running.client() as client:

        def classes() -> list[str]:
            (model,) = client.get("/v1/models").json()["models"]
            return sorted(model["classes"])

        wait_for(lambda: len(running.workers()) == 2)
        first, second = running.workers()
        bundles.write(bundle, colours=others)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: running.events("a worker cannot start"))
        reason = running.events("a worker cannot start")[0]["reason"]
        assert "was replaced while the service runs. Start the service again" in reason
        assert classes() == sorted(bundles.COLOURS), "the process that is left has the earlier one"
        os.kill(second, signal.SIGKILL)
        wait_for(lambda: len(running.workers()) == 4)
        assert running.events("a bundle was replaced, it is used from now on")
        assert [classes() for _ in range(8)] == [sorted(others)] * 8


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here is always full")
def test_a_log_that_cannot_be_written_is_told_once(bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "signlang.serve", f"bundle={bundle}", f"port={port}"]
    with Path("/dev/full").open("w") as full, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=full, stderr=err)
    with process, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

        def answers() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.ConnectError:
                return False

        try:
            wait_for(answers)
            for _ in range(3):
                got = client.post("/v1/predict", content=encoded("A"), headers=JPEG)
                assert got.status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    text = (tmp_path / "err").read_text("utf-8")
    told = "cannot write its log (No space left on device); it goes on."
    assert text.count(told) == 2, "by the supervisor and by the worker"
    assert "Traceback" not in text


def test_nothing_stays_behind_a_killed_supervisor(bundle: Path, tmp_path: Path) -> None:
    with service(tmp_path, f"bundle={bundle}") as running:
        (worker,) = running.workers()
        running.process.kill()
        wait_for(lambda: not Path(f"/proc/{worker}").exists())


def mistakes(bundle: Path, taken: int) -> dict[str, tuple[Sequence[str], int, str]]:
    twice = (f"bundle={bundle}", f"bundle={bundle}")
    one = (f"bundle={bundle}",)
    return {
        "none": ((), 2, "bundle=B"),
        "missing": (("bundle=nowhere",), 1, "no such folder"),
        "one name twice": (twice, 2, "both named colours"),
        "default": ((*one, "default=colour"), 2, "Did you mean colours?"),
        "port": ((*one, f"port={taken}"), 1, "port=0"),
        "host": ((*one, "host=no.such.host.invalid"), 1, "no such address"),
        "device": ((*one, "device=tpu"), 2, "cpu or cuda"),
        "cuda": ((*one, "device=cuda"), 1, "onnxruntime does not offer it"),
        "key": ((*one, "api_key=short"), 2, "at least 16 characters"),
        "limits": ((*one, "queue=8"), 2, "make the queue at least as long"),
        "unknown": ((*one, "prot=1"), 2, "did you mean port?"),
    }


@pytest.mark.parametrize("case", mistakes(Path(), 0))
def test_mistakes_get_a_sentence_without_a_trace(bundle: Path, tmp_path: Path, case: str) -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        words, code, sentence = mistakes(bundle, occupant.getsockname()[1])[case]
        done = run_command(tmp_path, *words, verb="serve")
    assert (done.code, sentence in done.err) == (code, True), done.err
    assert "Traceback" not in done.err
    assert "short" not in done.err


def test_the_settings_are_shown(tmp_path: Path) -> None:
    done = run_command(tmp_path, "--help", verb="serve")
    assert done.code == 0
    assert "max_pixels" in done.out
    assert not list(tmp_path.iterdir())
