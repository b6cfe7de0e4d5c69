"""Tells other processes how this one's targets are doing, and learns from them, off the request path."""

import time
import uuid

import redis

from proxy.background import Repeating
from proxy.breaker.exchange import Change, Exchange, Snapshot, TargetView
from proxy.breaker.registry import Board
from proxy.breaker.state import Standing, TargetState
from routing.live import TableKeeper

TICK_SECONDS = 0.25  # a circuit that opens in one worker is open in all within twice that
POST_ROUNDS = 4


class Sharing:
    """A thread beside the event loop. It only sets plain values of a state, which needs no lock."""

    def __init__(self, board: Board, exchange: Exchange, keeper: TableKeeper) -> None:
        self.worker = uuid.uuid4().hex
        self.exchange = exchange
        self._board = board
        self._keeper = keeper
        self._told: dict[int, int] = {}  # target -> state.changes when it was last told
        self._learned: dict[int, float] = {}  # target -> time of the last change that counted
        self._rounds = 0
        self._thread = Repeating(
            "target-sharing",
            TICK_SECONDS,
            self._share,
            trouble="targets not shared, each worker judges by itself",
            errors=(redis.RedisError, OSError),
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def _share(self) -> None:
        self._rounds += 1
        self.swap()
        if self._rounds % POST_ROUNDS == 1:
            self._board.forget_missing(self._keeper.table)
            self.exchange.post(self.snapshot())

    def swap(self) -> None:
        """One round: tell the news, learn the others'."""
        now, wall = self._board.clock(), time.time()
        news = {
            target_id: (state.changes, self._change(target_id, state, now, wall))
            for target_id, state in list(self._board.states.items())
            if state.changes != self._told.get(target_id, 0)
        }
        for target_id, (_, change) in news.items():
            self._learned[target_id] = change.at
        found = self.exchange.swap([change for _, change in news.values()])
        for target_id, (changes, _) in news.items():
            self._told[target_id] = changes
        for change in found:
            if change.by != self.worker and change.at > self._learned.get(change.target, 0.0):
                self._learned[change.target] = change.at
                self._learn(change, now, wall)

    def _learn(self, change: Change, now: float, wall: float) -> None:
        state = self._board.of(change.target)
        open_until = now + change.open_until - wall if change.open_until else 0.0
        cooling_until = now + change.cooling_until - wall if change.cooling_until > wall else 0.0
        state.learn(open_until, cooling_until, change.why, now)

    def _change(self, target_id: int, state: TargetState, now: float, wall: float) -> Change:
        return Change(
            target=target_id,
            by=self.worker,
            at=wall,
            open_until=wall + state.open_until - now if state.open_until else 0.0,
            cooling_until=wall + state.cooling_until - now if state.cooling_until > now else 0.0,
            why=state.why,
        )

    def snapshot(self) -> Snapshot:
        now = self._board.clock()
        states = list(self._board.states.items())
        return Snapshot(self.worker, time.time(), [_view(number, state, now) for number, state in states])

    def views(self) -> dict[int, TargetView]:
        """By target, all workers together. Where the others can't be asked, this one's own."""
        try:
            others = [found for found in self.exchange.snapshots() if found.worker != self.worker]
        except (redis.RedisError, OSError) as error:
            self._thread.note(f"{type(error).__name__}: {error}")
            others = []
        return together([self.snapshot(), *others])

    def reset(self, target_id: int) -> None:
        """Close the circuit and end its pause, here at once and within a second everywhere."""
        self._board.of(target_id).close(self._board.clock())


def _view(target_id: int, state: TargetState, now: float) -> TargetView:
    requests, failures = state.window.counts(now)
    standing = state.standing(now)
    return TargetView(
        target=target_id,
        standing=standing.value,
        wait=round(state.wait(now), 3),
        why="" if standing is Standing.READY else state.why,
        in_flight=state.in_flight,
        ttft_ms=state.ttft_ms,
        total_ms=state.total_ms,
        requests=requests,
        failures=failures,
        failures_in_a_row=state.failures_in_a_row,
        last_error=state.last_error,
        last_error_at=state.last_error_at,
    )


def together(snapshots: list[Snapshot]) -> dict[int, TargetView]:
    """One view of each target: counts added up, means averaged, the worst standing, the newest error."""
    views: dict[int, list[TargetView]] = {}
    for snapshot in snapshots:
        for view in snapshot.targets:
            views.setdefault(view.target, []).append(view)
    return {target_id: _merged(found) for target_id, found in views.items()}


def _merged(views: list[TargetView]) -> TargetView:
    if len(views) == 1:
        return views[0]
    worst = max(views, key=lambda view: (view.standing != "closed", view.wait))
    newest = max(views, key=lambda view: view.last_error_at)
    return TargetView(
        target=worst.target,
        standing=worst.standing,
        wait=worst.wait,
        why=worst.why,
        in_flight=sum(view.in_flight for view in views),
        ttft_ms=_mean([view.ttft_ms for view in views]),
        total_ms=_mean([view.total_ms for view in views]),
        requests=sum(view.requests for view in views),
        failures=sum(view.failures for view in views),
        failures_in_a_row=max(view.failures_in_a_row for view in views),
        last_error=newest.last_error,
        last_error_at=newest.last_error_at,
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
