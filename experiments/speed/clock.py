"""Throughput of training steps in images a second, after a warm-up."""

import time
from collections.abc import Callable


class Clock:
    """Counts images from the end of the warm-up until enough time has passed.

    Args:
        seconds: Shortest duration of the measurement; at least two steps are counted.
        warm_up: Steps before the measurement.
        synchronize: Waits until the device has finished all queued work.
    """

    def __init__(
        self, seconds: float, warm_up: int = 2, synchronize: Callable[[], object] = lambda: None
    ) -> None:
        self.seconds, self.warm_up, self.synchronize = seconds, warm_up, synchronize
        self.steps = self.images = 0
        self.started = self.paused = self.elapsed = 0.0

    def tick(self, images: int) -> bool:
        """Record the end of a step.

        Args:
            images: Images of its batch.

        Returns:
            Whether the measurement is complete.
        """
        self.steps += 1
        if self.steps == self.warm_up:
            self.synchronize()
            self.started = time.perf_counter()
        if self.steps <= self.warm_up:
            return False
        self.images += images
        if time.perf_counter() - self.started < self.seconds or self.steps < self.warm_up + 2:
            return False
        self.synchronize()
        self.elapsed = time.perf_counter() - self.started
        return True

    def pause(self) -> None:
        """Stop counting time."""
        self.synchronize()
        self.paused = time.perf_counter()

    def resume(self) -> None:
        """Continue counting time."""
        self.started += time.perf_counter() - self.paused

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.elapsed
