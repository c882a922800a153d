"""Provide a clock that advances only on request, so that a busy machine cannot disturb tests of durations."""


class Clock:
    """Replace a module's `time`; each reading advances it by `tick_seconds`, so that no duration is zero."""

    def __init__(self, tick_seconds: float = 1e-6) -> None:
        self.now = 0.0
        self.tick_seconds = tick_seconds

    def perf_counter(self) -> float:
        self.now += self.tick_seconds
        return self.now

    monotonic = perf_counter

    def sleep(self, seconds: float) -> None:
        self.now += seconds
