"""What time is it? A number that the test sets."""

NOW = 1_900_000_000


class Clock:
    """A clock that stands still until ``now`` is set; ``step`` seconds pass each time it is read."""

    def __init__(self, now: float = NOW, step: float = 0) -> None:
        self.now = now
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now
