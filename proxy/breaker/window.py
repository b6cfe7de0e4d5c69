"""Requests and failures of the last minute."""

BUCKET = 5.0  # seconds
BUCKETS = 12


class ErrorWindow:
    """Counts in buckets that leave whole, so a request counts for 55 to 60 s."""

    __slots__ = ("_failures", "_newest", "_requests", "failures", "requests")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.requests = 0
        self.failures = 0
        self._requests = [0] * BUCKETS
        self._failures = [0] * BUCKETS
        self._newest = 0

    def add(self, now: float, *, failed: bool) -> None:
        if int(now / BUCKET) > self._newest:
            self.advance(now)
        place = self._newest % BUCKETS
        self._requests[place] += 1
        self.requests += 1
        if failed:
            self._failures[place] += 1
            self.failures += 1

    def counts(self, now: float) -> tuple[int, int]:
        """(requests, failures) as of now. Changes nothing, so any thread may ask."""
        gone = min(max(int(now / BUCKET) - self._newest, 0), BUCKETS)
        kept = [(self._newest - age) % BUCKETS for age in range(BUCKETS - gone)]
        return sum(self._requests[place] for place in kept), sum(self._failures[place] for place in kept)

    def advance(self, now: float) -> None:
        """Drop what is older than a minute. Times never go back."""
        number = int(now / BUCKET)
        if number <= self._newest:
            return
        for passed in range(max(self._newest + 1, number - BUCKETS + 1), number + 1):
            place = passed % BUCKETS
            self.requests -= self._requests[place]
            self.failures -= self._failures[place]
            self._requests[place] = self._failures[place] = 0
        self._newest = number
