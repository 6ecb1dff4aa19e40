"""Inference engine: dynamic batching and predictions.

A batch is what waits at the moment at which a runner is free: under no load an image is computed
at once, under load batches grow by themselves. Everything but the networks runs in one event loop,
so there are no locks.

The order is: kind, bytes, room, pixels, network. Each step is bounded and may refuse.
"""

import asyncio
import math
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from signlang.arrays import Floats32, Pixels
from signlang.hands.finder import Hand
from signlang.server import telemetry, uploads
from signlang.server.admission import Admission, Slot
from signlang.server.config import MIB, ServeConfig, log
from signlang.server.registry import Compute, LoadedModel, ModelRegistry
from signlang.server.schemas import RequestError
from signlang.system import cpu_count

OnBatch = Callable[[str, int, float], None]


@dataclass(eq=False)
class _Job:
    image: Pixels
    future: "asyncio.Future[Floats32]"
    enqueued: float = field(default_factory=time.perf_counter)


class Batcher:
    """Collects images per network; close it at the end.

    Args:
        networks: By name; each maps (N, H, W, 3) to (N, classes), from any thread.
        runners: Batches that are computed at the same time.
        max_batch: Images of one batch, for each network.
        wait_s: How long an image may wait for others, although a runner is free.
        on_batch: Called after each batch with network, images and seconds.
    """

    def __init__(
        self,
        networks: Mapping[str, Compute],
        runners: int,
        max_batch: Mapping[str, int],
        wait_s: float = 0.0,
        on_batch: OnBatch = lambda name, size, seconds: None,
    ) -> None:
        self._networks = networks
        self._waiting: dict[str, deque[_Job]] = {name: deque() for name in networks}
        self._free_runners = runners
        self._max_batch, self._wait_s, self._on_batch = max_batch, wait_s, on_batch
        self._pool = ThreadPoolExecutor(runners, thread_name_prefix="network")
        self._is_scheduled = False

    @property
    def waiting(self) -> int:
        """Images that are waiting."""
        return sum(map(len, self._waiting.values()))

    async def run(self, name: str, images: Sequence[Pixels]) -> Floats32:
        """Compute the probabilities (N, classes) of N images of one shape (H, W, 3).

        Cancelling takes images that wait out of the queue.
        """
        loop = asyncio.get_running_loop()
        jobs = [_Job(image, loop.create_future()) for image in images]
        self._waiting[name].extend(jobs)
        self._schedule(loop, self._wait_s)
        try:
            return np.stack([await job.future for job in jobs])
        finally:
            for job in jobs:
                job.future.cancel()

    def close(self) -> None:
        """Wait for what is being computed."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _schedule(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        if not self._is_scheduled:  # once for all images that arrive in the meantime
            self._is_scheduled = True
            loop.call_later(delay, self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        while self._free_runners:
            name = self._longest_waiting()
            if name is None:
                return
            jobs = self._next_batch(name)
            if not jobs:
                continue
            self._free_runners -= 1
            stacked = np.stack([job.image for job in jobs])
            computed = loop.run_in_executor(self._pool, self._compute, name, stacked)
            computed.add_done_callback(partial(self._set_results, loop, jobs))

    def _longest_waiting(self) -> str | None:
        waiting = [(jobs[0].enqueued, name) for name, jobs in self._waiting.items() if jobs]
        return min(waiting)[1] if waiting else None

    def _next_batch(self, name: str) -> list[_Job]:
        """Take an even share for each free runner."""
        queue = self._waiting[name]
        size = min(self._max_batch[name], math.ceil(len(queue) / self._free_runners))
        jobs: list[_Job] = []
        while queue and len(jobs) < size:
            job = queue.popleft()
            if job.future.done():  # cancelled by the client
                continue
            if jobs and job.image.shape != jobs[0].image.shape:
                queue.appendleft(job)
                break
            jobs.append(job)
        return jobs

    def _compute(self, name: str, images: Pixels) -> Floats32:
        start = time.perf_counter()
        probabilities = self._networks[name](images)
        self._on_batch(name, len(images), time.perf_counter() - start)
        return probabilities

    def _set_results(
        self,
        loop: asyncio.AbstractEventLoop,
        jobs: Sequence[_Job],
        computed: "asyncio.Future[Floats32]",
    ) -> None:
        self._free_runners += 1
        error = None if computed.cancelled() else computed.exception()
        for number, job in enumerate(jobs):
            if job.future.done():
                continue
            if computed.cancelled():
                job.future.cancel()
            elif error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(computed.result()[number])
        self._schedule(loop, 0.0)


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
        content: In the form of `schemas.PredictResponse`.
        log_fields: Filled with facts for the log.
    """

    content: Mapping[str, Any]
    log_fields: Mapping[str, str | int]


class Engine:
    """Answers requests; close it at the end.

    Args:
        models: The loaded models.
        options: The limits.

    Attributes:
        admission: Bounds the requests inside.
    """

    def __init__(self, models: ModelRegistry, options: ServeConfig) -> None:
        self.models, self.options = models, options
        self.admission = Admission(options.queue, int(options.queue_mb * MIB), options.queue_s)
        self.max_body = int(options.max_body_mb * MIB)
        self._batcher = Batcher(
            {name: model.network for name, model in models.items()},
            options.concurrent_batches,
            {name: model.max_batch for name, model in models.items()},
            options.wait_ms / 1000,
            telemetry.record_batch,
        )
        self._decoders = ThreadPoolExecutor(cpu_count(), thread_name_prefix="decoder")
        self._decoding: dict[int, float] = {}  # when each busy thread started
        self._is_closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="decoder-watch").start()

    def close(self) -> None:
        """Wait for what is being computed."""
        self._batcher.close()
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._is_closed.set()

    async def answer(
        self,
        headers: Mapping[str, str],
        chunks: AsyncIterator[bytes],
        model: str | None,
        top: int | None,
    ) -> Answer:
        """Answer a request.

        Args:
            headers: Of the request, in lower case.
            chunks: Of its body.
            model: Name of the network, or nothing for the default.
            top: How many signs to name for each image; nothing for all.

        Raises:
            RequestError: If it is not served.
        """
        started = time.perf_counter()
        name = self.models.resolve(model)
        content_type = headers.get("content-type", "")
        uploads.check_content_type(content_type)
        slot = Slot(self.admission)
        try:
            self.admission.check_size(
                uploads.declared_size(headers.get("content-length"), self.max_body)
            )
            async with asyncio.timeout(self.options.timeout_s):
                body = await uploads.read_body(
                    chunks, self.max_body, self.options.body_s, slot.add_bytes
                )
                decoded = await self._decode_all(body, content_type, slot, self.models[name])
                images = [pixels for pixels, _ in decoded]
                decoded_at = time.perf_counter()
                probabilities = await self._batcher.run(name, images)
        except TimeoutError:
            raise RequestError(
                503, f"There was no answer within {self.options.timeout_s:g} seconds.",
                {"Retry-After": "5"},
            ) from None  # fmt: skip
        finally:
            slot.close()
            telemetry.INSIDE.set(self.admission.inside)
        predictions = [
            _prediction(row.tolist(), self.models[name], top, hand)
            for row, (_, hand) in zip(probabilities, decoded, strict=True)
        ]
        for prediction in predictions:
            telemetry.IMAGES.labels(name, "yes" if prediction["sure"] else "no").inc()
        content = {
            "model": name,
            "precision": self.options.precision,
            "device": self.options.device,
            "predictions": predictions,
            "milliseconds": _milliseconds(started, decoded_at, time.perf_counter()),
        }
        return Answer(content, {"model": name, "images": len(images), "bytes": len(body)})

    async def _decode_all(
        self, body: bytes, content_type: str, slot: Slot, model: LoadedModel
    ) -> list[tuple[Pixels, Hand | None]]:
        files = await uploads.uploaded_files(body, content_type, self.options.max_images)
        await slot.enter(len(files))
        telemetry.INSIDE.set(self.admission.inside)
        size, max_pixels, count = model.bundle.image_sizes[0], self.options.max_pixels, len(files)
        tasks = [
            self._decoders.submit(self._decode, data, size, max_pixels, number, count, model.hands)
            for number, data in enumerate(files, 1)
        ]
        slot.hold(tasks)
        return [await asyncio.wrap_future(task) for task in tasks]

    def _decode(self, *arguments: Any) -> tuple[Pixels, Hand | None]:
        thread = threading.get_ident()
        self._decoding[thread] = time.monotonic()
        try:
            return uploads.decode_upload(*arguments)
        finally:
            del self._decoding[thread]

    def _watch(self) -> None:
        """End this process if a decoder hangs, which no thread can be stopped from."""
        while not self._is_closed.wait(min(1.0, self.options.decode_s)):
            started = min(self._decoding.copy().values(), default=None)
            if started is not None and time.monotonic() - started > self.options.decode_s:
                log.error("a decoder hangs", extra={"seconds": self.options.decode_s})
                os._exit(1)  # the supervisor starts another

    async def is_decoding(self, seconds: float = 2.0) -> bool:
        """Whether the decoders get to new work within some seconds."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._decoders.submit(bool)), seconds)
        except TimeoutError:
            return False
        return True


def _milliseconds(started: float, decoded: float, end: float) -> dict[str, float]:
    spans = {"reading": decoded - started, "network": end - decoded, "total": end - started}
    return {name: round(seconds * 1000, 3) for name, seconds in spans.items()}


def _prediction(
    probabilities: Sequence[float], model: LoadedModel, top: int | None, hand: Hand | None
) -> dict[str, Any]:
    """Write out one row of probabilities in the form of `schemas.Prediction`."""
    ranked = sorted(zip(probabilities, model.bundle.classes, strict=True), key=lambda p: -p[0])
    confidence, label = ranked[0]
    return {
        "label": label,
        "confidence": round(confidence, 6),
        "sure": confidence >= model.threshold,
        "probabilities": {name: round(value, 6) for value, name in ranked[:top]},
        **({} if model.hands is None else {"hand": hand is not None}),
        **({} if hand is None else {"landmarks": _landmarks(hand)}),
    }


def _landmarks(hand: Hand) -> dict[str, Any]:
    """Write out a hand in the form of `schemas.Landmarks`."""
    return {
        "box": [round(edge, 1) for edge in hand.box],
        "points": hand.points[:, :2].astype(np.float64).round(1).tolist(),
        "right": round(hand.right, 4),
    }
