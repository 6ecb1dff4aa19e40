"""The body of a request comes in; the probabilities of its pictures go out.

The order is: room, bytes, kind, pixels, network. Each step is bounded and may refuse.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from signlang.deploy.bundle import Pixels
from signlang.deploy.service import bodies, measuring, reading
from signlang.deploy.service.admission import Admission, Seat
from signlang.deploy.service.batching import Batcher
from signlang.deploy.service.options import MIB, Options
from signlang.deploy.service.refusals import Refusal
from signlang.deploy.service.shelf import Served, Shelf
from signlang.machine import cores


class Engine:
    """What answers; close it at the end.

    Args:
        shelf: The networks.
        options: The limits.

    Attributes:
        admission: Who is inside.
    """

    def __init__(self, shelf: Shelf, options: Options) -> None:
        self.shelf, self.options = shelf, options
        self.admission = Admission(options.queue, int(options.queue_mb * MIB))
        self.max_body = int(options.max_body_mb * MIB)
        self._batcher = Batcher(
            {name: served.network for name, served in shelf.items()},
            options.side_by_side,
            {name: served.max_batch for name, served in shelf.items()},
            options.wait_ms / 1000,
            measuring.batch,
        )
        self._decoders = ThreadPoolExecutor(cores(), thread_name_prefix="decoder")

    def close(self) -> None:
        """Wait for what is being computed."""
        self._batcher.close()
        self._decoders.shutdown(wait=True, cancel_futures=True)

    async def answer(
        self,
        headers: Mapping[str, str],
        pieces: AsyncIterator[bytes],
        model: str | None,
        top: int | None,
        notes: dict[str, Any],
    ) -> dict[str, Any]:
        """Answer a request in the form of `schema.Answer`.

        Args:
            headers: Of the request, in lower case.
            pieces: Of its body.
            model: Name of the network, or nothing for the default.
            top: How many signs to name for each picture; nothing for all.
            notes: Takes what the log may tell of the request.

        Raises:
            Refusal: If it is not served.
        """
        begin = time.perf_counter()
        name = self.shelf.chosen(model)
        kind = headers.get("content-type", "")
        bodies.kind_of(kind)
        size = bodies.declared(headers.get("content-length"), self.max_body)
        try:
            with self.admission.seat(size) as seat:
                measuring.INSIDE.set(self.admission.inside)
                async with asyncio.timeout(self.options.timeout_s):
                    body = await bodies.read(pieces, self.max_body, self.options.body_s)
                    pictures = await self._decoded(body, kind, seat, self.shelf[name])
                    notes |= {"model": name, "pictures": len(pictures), "bytes": len(body)}
                    read = time.perf_counter()
                    found = await self._batcher.run(name, pictures)
        except TimeoutError:
            raise Refusal(
                503, f"There was no answer within {self.options.timeout_s:g} seconds.",
                {"Retry-After": "5"},
            ) from None  # fmt: skip
        finally:
            measuring.INSIDE.set(self.admission.inside)
        served = self.shelf[name]
        predictions = [_prediction(row.tolist(), served, top) for row in found]
        for prediction in predictions:
            measuring.PICTURES.labels(name, "yes" if prediction["sure"] else "no").inc()
        end = time.perf_counter()
        return {
            "model": name,
            "precision": self.options.precision,
            "device": self.options.device,
            "predictions": predictions,
            "milliseconds": {
                "reading": round((read - begin) * 1000, 3),
                "network": round((end - read) * 1000, 3),
                "total": round((end - begin) * 1000, 3),
            },
        }

    async def _decoded(self, body: bytes, kind: str, seat: Seat, served: Served) -> list[Pixels]:
        files = bodies.files(body, kind, self.options.max_pictures)
        seat.widen(len(files))
        loop, side, most = asyncio.get_running_loop(), served.bundle.sides[0], len(files)
        tasks = [
            loop.run_in_executor(
                self._decoders, reading.picture, data, side, self.options.max_pixels, number, most
            )
            for number, data in enumerate(files, 1)
        ]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()


def _prediction(probabilities: Sequence[float], served: Served, top: int | None) -> dict[str, Any]:
    """Write out one row of probabilities in the form of `schema.Prediction`."""
    ranked = sorted(zip(probabilities, served.bundle.classes, strict=True), key=lambda p: -p[0])
    confidence, label = ranked[0]
    return {
        "label": label,
        "confidence": round(confidence, 6),
        "sure": confidence >= served.threshold,
        "probabilities": {name: round(value, 6) for value, name in ranked[:top]},
    }
