"""The gateway's live state for the admin, the REST API and commands, in whatever process they run."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import redis
from django.conf import settings
from django.utils.module_loading import import_string

from proxy.admission.base import Admission
from proxy.admission.memory import MemoryAdmission
from proxy.breaker.exchange import Change, TargetView, make_exchange
from proxy.breaker.registry import Board
from proxy.breaker.sharing import together
from proxy.breaker.state import Standing
from proxy.explain.explain import Explanation, Question, RateLimitsOf, explain
from proxy.gateway import current_gateway
from proxy.targets.selection import Chooser
from routing.compiler import compile_table
from routing.gateway_keys import digest
from routing.periods import Periods
from routing.table import KeyEntry, LimitOwner, RoutingTable

FROM_HERE = "live state of all web processes"
FROM_SNAPSHOT = "live state as the web processes reported it, at most 5 s ago"
FROM_NOWHERE = "no web process has reported live state: shown as if all targets were well"


@dataclass(frozen=True, slots=True)
class Live:
    table: RoutingTable
    chooser: Chooser
    views: Mapping[int, TargetView]
    rate_limits: RateLimitsOf | None
    note: str

    def key_named(self, name: str) -> KeyEntry | None:
        return next((key for key in self.table.keys.values() if key.name == name), None)

    def key_of(self, plaintext: str) -> KeyEntry | None:
        return self.table.keys.get(digest(plaintext))

    def explain(self, question: Question) -> Explanation:
        return explain(question, self.table, self.chooser, self.views, self.rate_limits, _spent, self.note)


def live() -> Live:
    """From this process's gateway where it runs one, else from what web processes report."""
    gateway = current_gateway()
    if gateway is not None and gateway.keeper.ready:
        return Live(
            gateway.keeper.table,
            gateway.chooser,
            gateway.sharing.views(),
            _rate_limits_of(gateway.admission),
            FROM_HERE,
        )
    views = reported_views()
    chooser = Chooser(_board_of(views), random.Random())
    return Live(compile_table(), chooser, views, None, FROM_SNAPSHOT if views else FROM_NOWHERE)


def _rate_limits_of(admission: Admission) -> RateLimitsOf | None:
    """None where the counts are in Redis: an explanation asks no one."""
    if not isinstance(admission, MemoryAdmission):
        return None
    return lambda owner: admission.rate_limits([owner])


def _spent(owner: LimitOwner) -> int:
    """By the request log, so without the calls that run now."""
    assert owner.budget is not None
    start, end = Periods().of(owner.budget, time.time())
    spent: Callable[..., int] = import_string(settings.SPENT)
    return spent(owner, start, end)


def target_views() -> Mapping[int, TargetView]:
    """By target id; empty where no web process is known to run."""
    gateway = current_gateway()
    return gateway.sharing.views() if gateway is not None else reported_views()


def reported_views() -> dict[int, TargetView]:
    try:
        return together(make_exchange().snapshots())
    except redis.RedisError:
        return {}


def reset(target_id: int) -> bool:
    """Close a target's circuit and end its pause in all web processes; False where none can be told."""
    gateway = current_gateway()
    if gateway is not None:
        gateway.sharing.reset(target_id)
        return True
    if not settings.REDIS_URL:
        return False
    try:
        make_exchange().swap([Change(target=target_id, by="reset", at=time.time())])
    except redis.RedisError:
        return False
    return True


def _board_of(views: Mapping[int, TargetView]) -> Board:
    """Another process's states, near enough for an explanation."""
    board = Board()
    now = board.clock()
    for view in views.values():
        state = board.of(view.target)
        state.in_flight, state.ttft_ms, state.total_ms = view.in_flight, view.ttft_ms, view.total_ms
        standing = Standing(view.standing)
        if standing is Standing.COOLING:
            state.learn(0.0, now + view.wait, view.why, now)
        elif standing is not Standing.READY:
            state.learn(now + view.wait, 0.0, view.why, now)
            state.probing = standing is Standing.PROBING
    return board
