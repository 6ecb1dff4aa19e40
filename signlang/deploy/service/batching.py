"""Single pictures of concurrent requests come in; a network gets them in batches.

A batch is what waits at the moment at which a runner is free: under no load a picture is computed
at once, under load batches grow by themselves. Everything but the networks runs in one event loop,
so there are no locks.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from signlang.deploy.bundle import Pixels, Probabilities

Compute = Callable[[Pixels], Probabilities]
Seen = Callable[[str, int, float], None]


@dataclass(eq=False)
class _Job:
    picture: Pixels
    answer: "asyncio.Future[Probabilities]"
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Collects pictures per network; close it at the end.

    Args:
        networks: By name; each maps (N, H, W, 3) to (N, classes), from any thread.
        runners: Batches that are computed at the same time.
        max_batch: Pictures of one batch, for each network.
        wait_s: How long a picture may wait for others, although a runner is free.
        seen: Told of each batch: network, pictures, seconds.
    """

    def __init__(
        self,
        networks: Mapping[str, Compute],
        runners: int,
        max_batch: Mapping[str, int],
        wait_s: float = 0.0,
        seen: Seen = lambda name, size, seconds: None,
    ) -> None:
        self._networks = networks
        self._waiting: dict[str, deque[_Job]] = {name: deque() for name in networks}
        self._free = runners
        self._max_batch, self._wait_s, self._seen = max_batch, wait_s, seen
        self._pool = ThreadPoolExecutor(runners, thread_name_prefix="network")
        self._is_planned = False

    @property
    def waiting(self) -> int:
        """Pictures that no runner has begun."""
        return sum(map(len, self._waiting.values()))

    async def run(self, name: str, pictures: Sequence[Pixels]) -> Probabilities:
        """Compute the probabilities (N, classes) of N pictures of one shape (H, W, 3).

        Cancelling takes pictures that wait out of the queue.
        """
        loop = asyncio.get_running_loop()
        jobs = [_Job(picture, loop.create_future()) for picture in pictures]
        self._waiting[name].extend(jobs)
        self._plan(loop, self._wait_s)
        try:
            return np.stack([await job.answer for job in jobs])
        finally:
            for job in jobs:
                job.answer.cancel()

    def close(self) -> None:
        """Wait for what is being computed."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _plan(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        if not self._is_planned:  # once for all pictures that arrive in the meantime
            self._is_planned = True
            loop.call_later(delay, self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_planned = False
        while self._free:
            name = self._longest_waiting()
            if name is None:
                return
            jobs = self._taken(name)
            if not jobs:
                continue
            self._free -= 1
            stacked = np.stack([job.picture for job in jobs])
            computed = loop.run_in_executor(self._pool, self._timed, name, stacked)
            computed.add_done_callback(partial(self._hand_out, loop, jobs))

    def _longest_waiting(self) -> str | None:
        waiting = [(jobs[0].since, name) for name, jobs in self._waiting.items() if jobs]
        return min(waiting)[1] if waiting else None

    def _taken(self, name: str) -> list[_Job]:
        """Take an even share for each free runner."""
        queue = self._waiting[name]
        share = min(self._max_batch[name], math.ceil(len(queue) / self._free))
        jobs: list[_Job] = []
        while queue and len(jobs) < share:
            job = queue.popleft()
            if job.answer.done():  # nobody waits for it any more
                continue
            if jobs and job.picture.shape != jobs[0].picture.shape:
                queue.appendleft(job)
                break
            jobs.append(job)
        return jobs

    def _timed(self, name: str, pictures: Pixels) -> Probabilities:
        start = time.perf_counter()
        found = self._networks[name](pictures)
        self._seen(name, len(pictures), time.perf_counter() - start)
        return found

    def _hand_out(
        self,
        loop: asyncio.AbstractEventLoop,
        jobs: Sequence[_Job],
        computed: "asyncio.Future[Probabilities]",
    ) -> None:
        self._free += 1
        error = None if computed.cancelled() else computed.exception()
        for number, job in enumerate(jobs):
            if job.answer.done():
                continue
            if computed.cancelled():
                job.answer.cancel()
            elif error is not None:
                job.answer.set_exception(error)
            else:
                job.answer.set_result(computed.result()[number])
        self._plan(loop, 0.0)
