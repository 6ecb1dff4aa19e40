"""The parts of the service by themselves: batches, room, and what never reaches the disk."""

import asyncio
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bundles
import httpx
import numpy as np
import pytest
from PIL import Image

from signlang.arrays import Floats32, Pixels
from signlang.server import processes
from signlang.server.admission import Admission, Slot
from signlang.server.app import create_app
from signlang.server.config import checked_config
from signlang.server.engine import Batcher
from signlang.server.registry import best_batch_size, load_models
from signlang.server.schemas import RequestError


class Gate:
    """A network that waits until it is let go; its answer is the first value of each image."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, images: Pixels) -> Floats32:
        self.opened.wait(10)
        self.sizes.append(len(images))
        return images[:, 0, 0, :1].astype(np.float32)


def images(*values: int, size: int = 2) -> list[Pixels]:
    return [np.full((size, size, 3), value, np.uint8) for value in values]


def in_loop(task: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(task())  # type: ignore[arg-type]


def test_what_waits_is_computed_together_and_answers_go_to_who_asked() -> None:
    gate = Gate()

    async def task() -> None:
        batcher = Batcher({"a": gate}, runners=1, max_batch={"a": 4})
        asked = [asyncio.create_task(batcher.run("a", images(9)))]
        await asyncio.sleep(0.05)  # the first one is being computed, alone
        asked += [asyncio.create_task(batcher.run("a", images(n))) for n in range(6)]
        await asyncio.sleep(0.05)
        assert batcher.waiting == 6
        gate.opened.set()
        found = [rows.ravel().tolist() for rows in await asyncio.gather(*asked)]
        assert found == [[9], [0], [1], [2], [3], [4], [5]]
        batcher.close()

    in_loop(task)
    assert gate.sizes == [1, 4, 2]


def test_free_runners_share_what_waits() -> None:
    gate = Gate()
    gate.opened.set()

    async def task() -> None:
        batcher = Batcher({"a": gate}, runners=2, max_batch={"a": 16})
        found = await batcher.run("a", images(*range(6)))
        assert found.ravel().tolist() == list(range(6))
        batcher.close()

    in_loop(task)
    assert sorted(gate.sizes) == [3, 3]


def test_a_batch_has_one_network_and_one_shape() -> None:
    gates = {"a": Gate(), "b": Gate()}
    for gate in gates.values():
        gate.opened.set()

    async def task() -> None:
        batcher = Batcher(gates, runners=1, max_batch={"a": 16, "b": 16})
        await asyncio.gather(
            batcher.run("a", images(1, 2)),
            batcher.run("b", images(3)),
            batcher.run("a", images(4, size=5)),
        )
        batcher.close()

    in_loop(task)
    assert (gates["a"].sizes, gates["b"].sizes) == ([2, 1], [1])


def test_nobody_computes_for_who_has_gone() -> None:
    gate = Gate()

    async def task() -> None:
        batcher = Batcher({"a": gate}, runners=1, max_batch={"a": 4})
        first = asyncio.create_task(batcher.run("a", images(1)))
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await batcher.run("a", images(2, 3))
        last = asyncio.create_task(batcher.run("a", images(4)))
        await asyncio.sleep(0)
        gate.opened.set()
        assert (await first).item() == 1
        assert (await last).item() == 4
        batcher.close()

    in_loop(task)
    assert gate.sizes == [1, 1]


def test_a_failing_batch_fails_alone() -> None:
    def network(batch: Pixels) -> Floats32:
        if batch.max() > 100:
            raise ValueError("too bright")
        return batch[:, 0, 0, :1].astype(np.float32)

    async def task() -> None:
        batcher = Batcher({"a": network}, runners=1, max_batch={"a": 1})
        bad, good = await asyncio.gather(
            batcher.run("a", images(200)), batcher.run("a", images(7)), return_exceptions=True
        )
        assert isinstance(bad, ValueError)
        assert isinstance(good, np.ndarray)
        assert good.item() == 7
        batcher.close()

    in_loop(task)


def test_the_best_batch_is_found_by_trying() -> None:
    def by_call(batch: Pixels) -> Floats32:  # a call costs more than an image
        time.sleep(0.01)
        return np.zeros((len(batch), 1), np.float32)

    def by_image(batch: Pixels) -> Floats32:
        time.sleep(0.01 * len(batch) ** 1.1)
        return np.zeros((len(batch), 1), np.float32)

    assert best_batch_size(by_call, image_size=2) == 32
    assert best_batch_size(by_image, image_size=2) == 1


def test_room_is_given_in_turn_and_given_back() -> None:
    async def task() -> None:
        admission = Admission(images=4, size=100, wait_s=0.2)
        await admission.enter(3)
        many = asyncio.create_task(admission.enter(2))
        await asyncio.sleep(0)
        few = asyncio.create_task(admission.enter(1))  # it would fit, but is not the first
        await asyncio.sleep(0.05)
        assert admission.is_full
        assert not many.done()
        assert not few.done()
        admission.leave(1, 0)
        await asyncio.gather(many, few, return_exceptions=True)
        assert not many.exception()
        assert isinstance(few.exception(), RequestError)  # 2 + 2 + 1 are too many for a while
        assert admission.inside == 4
        admission.leave(4, 0)
        assert (admission.inside, admission.is_full) == (0, False)

    in_loop(task)


def test_who_leaves_the_queue_makes_way() -> None:
    async def task() -> None:
        admission = Admission(images=4, size=100, wait_s=5)
        await admission.enter(3)
        many, few = (asyncio.create_task(admission.enter(n)) for n in (4, 1))
        await asyncio.sleep(0.05)
        many.cancel()  # its client has gone
        await few
        assert admission.inside == 4

    in_loop(task)


def test_bytes_are_bounded_and_given_back() -> None:
    async def task() -> None:
        admission = Admission(images=4, size=100, wait_s=0.1)
        slot = Slot(admission)
        slot.add_bytes(60)
        with pytest.raises(RequestError, match="again") as refused:
            Slot(admission).add_bytes(41)
        assert refused.value.status == 429
        with pytest.raises(RequestError):
            admission.check_size(41)
        slot.close()
        admission.check_size(100)

    in_loop(task)


def test_room_is_held_until_the_decoders_have_ended() -> None:
    async def task() -> None:
        admission = Admission(images=4, size=100, wait_s=0.1)
        opened = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            slot = Slot(admission)
            slot.add_bytes(10)
            await slot.enter(2)
            slot.hold([pool.submit(opened.wait, 10), pool.submit(bool)])
            await asyncio.sleep(0.05)
            slot.close()  # the request is over; its second image is never decoded
            assert (admission.inside, admission.size) == (2, 10)
            opened.set()
        await asyncio.sleep(0.05)
        assert (admission.inside, admission.size) == (0, 0)

    in_loop(task)


def test_small_answers_are_sent_at_once() -> None:
    # asyncio turns Nagle's algorithm off only where the protocol stands in the socket
    with processes.open_socket("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP


def test_nothing_of_a_request_reaches_the_disk(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "bundle")
    options = checked_config({"bundle": str(bundle)})
    application = create_app(load_models(options), options)
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    assert len(stream.getvalue()) > 2**21  # such a part would otherwise go into a temporary file
    written: list[Any] = []
    is_watched = False

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if is_watched and event == "open":
            path, mode, flags = arguments
            if (isinstance(mode, str) and set(mode) & set("wax+")) or flags & (
                os.O_WRONLY | os.O_RDWR
            ):
                written.append(path)

    async def task() -> None:
        nonlocal is_watched
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            is_watched = True
            image = stream.getvalue()
            answers = [
                await client.post("/v1/predict", files=[("a", ("x.png", image))]),
                await client.post("/v1/predict", files=[("a", (None, image))]),  # a field, no file
                await client.post(
                    "/v1/predict", content=image, headers={"content-type": "image/png"}
                ),
            ]
            refused = await client.post("/v1/predict", files=[("a", ("../x", b"no"))])
            is_watched = False
            assert [answer.status_code for answer in answers] == [200] * 3, answers[1].text
            assert len({str(answer.json()["predictions"]) for answer in answers}) == 1
            assert refused.status_code == 415

    sys.addaudithook(audit)  # stays for the rest of the process, but only looks here
    in_loop(task)
    assert written == []
    is_watched = True  # and the looking works
    (tmp_path / "file").write_bytes(b"")
    is_watched = False
    assert written == [str(tmp_path / "file")]
