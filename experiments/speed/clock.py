"""Throughput of training steps in images a second, after a warm-up."""

import time
from collections.abc import Callable


class Clock:
    """Counts images from the end of the warm-up until enough time has passed.

    Args:
        seconds: How long to count, at least; two steps are counted in any case.
        warm_up: Steps before that.
        settled: Waits until the device has done all that was asked of it.
    """

    def __init__(
        self, seconds: float, warm_up: int = 2, settled: Callable[[], object] = lambda: None
    ) -> None:
        self.seconds, self.warm_up, self.settled = seconds, warm_up, settled
        self.steps = self.images = 0
        self.begun = self.paused = self.elapsed = 0.0

    def tick(self, images: int) -> bool:
        """Tell that a step is over.

        Args:
            images: How many there were in its batch.

        Returns:
            Whether that is enough.
        """
        self.steps += 1
        if self.steps == self.warm_up:
            self.settled()
            self.begun = time.perf_counter()
        if self.steps <= self.warm_up:
            return False
        self.images += images
        if time.perf_counter() - self.begun < self.seconds or self.steps < self.warm_up + 2:
            return False
        self.settled()
        self.elapsed = time.perf_counter() - self.begun
        return True

    def pause(self) -> None:
        """Count no time from here on."""
        self.settled()
        self.paused = time.perf_counter()

    def resume(self) -> None:
        """Count again."""
        self.begun += time.perf_counter() - self.paused

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.elapsed
