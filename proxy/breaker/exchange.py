"""Where web processes leave what other processes should know of their targets: Redis, or a file."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import redis
from django.conf import settings

from proxy.background import replace_file

CHANGES = "switchstand:targets:changes"  # hash: target id -> Change
STATES = "switchstand:targets:states"  # hash: worker -> Snapshot
KEEP_SECONDS = 24 * 3600
STALE_SECONDS = 5.0  # a snapshot that old is a dead worker's
FORGET_CLOSED_SECONDS = 600.0
REDIS_TIMEOUT = 0.5  # seconds


class Change(msgspec.Struct, frozen=True):
    """A circuit opened, closed or was told to pause. Times are Unix seconds; 0 is never."""

    target: int
    by: str
    at: float
    open_until: float = 0.0
    cooling_until: float = 0.0
    why: str = ""


class TargetView(msgspec.Struct, kw_only=True):
    """One target's live state, for people. Means and waits as in TargetState."""

    target: int
    standing: str = "closed"
    wait: float = 0.0  # seconds until it may be tried again
    why: str = ""
    in_flight: int = 0
    ttft_ms: float | None = None
    total_ms: float | None = None
    requests: int = 0  # of the last minute
    failures: int = 0
    failures_in_a_row: int = 0
    last_error: str = ""
    last_error_at: float = 0.0  # Unix seconds

    @property
    def error_percent(self) -> float | None:
        return 100 * self.failures / self.requests if self.requests else None


class Snapshot(msgspec.Struct):
    """All targets of one worker."""

    worker: str
    at: float
    targets: list[TargetView]


_encode = msgspec.json.encode
_change = msgspec.json.Decoder(Change)
_snapshot = msgspec.json.Decoder(Snapshot)


class Exchange(Protocol):
    """Called from a thread of its own: no request waits for it. May raise OSError or RedisError."""

    def swap(self, news: Iterable[Change]) -> list[Change]:
        """Leave the news; take what all workers left, this one's own included."""

    def post(self, snapshot: Snapshot) -> None: ...

    def snapshots(self) -> list[Snapshot]:
        """Of workers that live."""


class RedisExchange:
    def __init__(self, url: str) -> None:
        self._redis: Any = redis.Redis.from_url(
            url, socket_timeout=REDIS_TIMEOUT, socket_connect_timeout=REDIS_TIMEOUT
        )

    def swap(self, news: Iterable[Change]) -> list[Change]:
        with self._redis.pipeline(transaction=False) as pipe:
            for change in news:
                pipe.hset(CHANGES, str(change.target), _encode(change))
                pipe.expire(CHANGES, KEEP_SECONDS)
            pipe.hgetall(CHANGES)
            found = [_change.decode(raw) for raw in pipe.execute()[-1].values()]
        oldest = time.time() - FORGET_CLOSED_SECONDS
        spent = [str(change.target) for change in found if _is_over(change, oldest)]
        if spent:
            self._redis.hdel(CHANGES, *spent)
        return found

    def post(self, snapshot: Snapshot) -> None:
        self._redis.hset(STATES, snapshot.worker, _encode(snapshot))
        self._redis.expire(STATES, KEEP_SECONDS)

    def snapshots(self) -> list[Snapshot]:
        found = [_snapshot.decode(raw) for raw in self._redis.hgetall(STATES).values()]
        dead = [snapshot.worker for snapshot in found if _is_stale(snapshot)]
        if dead:
            self._redis.hdel(STATES, *dead)
        return [snapshot for snapshot in found if snapshot.worker not in dead]


class FileExchange:
    """Without Redis there is one web process: nothing to share, but management commands want to look."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def swap(self, news: Iterable[Change]) -> list[Change]:
        return []

    def post(self, snapshot: Snapshot) -> None:
        replace_file(self._path, _encode(snapshot))

    def snapshots(self) -> list[Snapshot]:
        try:
            found = _snapshot.decode(self._path.read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return []
        return [] if _is_stale(found) else [found]


def _is_over(change: Change, oldest: float) -> bool:
    return change.at < oldest and max(change.open_until, change.cooling_until) < oldest


def _is_stale(snapshot: Snapshot) -> bool:
    return time.time() - snapshot.at > STALE_SECONDS


def make_exchange() -> Exchange:
    if settings.REDIS_URL:
        return RedisExchange(settings.REDIS_URL)
    return FileExchange(Path(settings.DATA_DIR) / "targets.json")
