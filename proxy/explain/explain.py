"""Why a request goes where it goes: the engine's own steps, run without asking any provider."""

import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from proxy.access.identify import check_valid
from proxy.admission.base import LimitOwner, RateLimitStates
from proxy.admission.refusals import PERIODS
from proxy.ask import decode_chat
from proxy.attempts import fallbacks
from proxy.breaker.exchange import TargetView
from proxy.calls.call import Call, Incoming
from proxy.endpoints import CHAT_COMPLETIONS
from proxy.errors import GatewayError, InvalidApiKey, RateLimited
from proxy.targets.resolve import resolve
from proxy.targets.selection import Chooser
from proxy.targets.tags import tags_of
from routing.strategies import STRATEGIES
from routing.table import Budget, KeyEntry, Limits, RoutingTable, TargetEntry

RateLimitsOf = Callable[[LimitOwner], RateLimitStates]
SpentOf = Callable[[LimitOwner], int]
"""Nano-USD of the owner's budget that are spent in the present period."""


class Question(msgspec.Struct, kw_only=True):
    """A request as a caller would send it."""

    model: str
    key: KeyEntry | None  # None: one that the gateway doesn't know
    provider: str = ""  # x-litellm-route
    tags: str = ""  # x-litellm-tags
    session: str = ""  # x-session-id
    user: str = ""  # of the body
    stream: bool = False


class Step(msgspec.Struct):
    step: str
    passed: bool
    text: str


class LimitView(msgspec.Struct):
    owner: str
    limit: str
    left: str = ""  # blank: not known to this process
    used_up: bool = False

    def __str__(self) -> str:
        return f"{self.owner}: {self.limit}" + (f", {self.left} left" if self.left else "")


class Candidate(msgspec.Struct, kw_only=True):
    """One target. `place` 1 is tried first; None is not tried at all."""

    target: int
    provider: str
    model: str
    priority: int
    weight: int
    place: int | None = None
    why: str = ""
    state: TargetView
    limits: list[LimitView] = []


class Explanation(msgspec.Struct):
    model: str
    key: str
    status: int  # what the caller would get before any provider is asked; 200: a provider is asked
    error: str
    steps: list[Step]
    targets: list[Candidate]
    limits: list[LimitView]
    note: str = ""  # where the live state comes from


def explain(
    question: Question,
    table: RoutingTable,
    chooser: Chooser,
    views: Mapping[int, TargetView],
    rate_limits: RateLimitsOf | None = None,
    spent: SpentOf | None = None,
    note: str = "",
) -> Explanation:
    """Changes nothing, not even what a strategy remembers."""
    return _Explaining(question, table, chooser, views, rate_limits, spent).run(note)


class _Explaining:
    def __init__(
        self,
        question: Question,
        table: RoutingTable,
        chooser: Chooser,
        views: Mapping[int, TargetView],
        rate_limits: RateLimitsOf | None,
        spent: SpentOf | None,
    ) -> None:
        self.question = question
        self.chooser = chooser
        self.views = views
        self.rate_limits = rate_limits
        self.spent = spent
        self.steps: list[Step] = []
        self.call = Call(_incoming(question), table)

    def run(self, note: str) -> Explanation:
        error: GatewayError | None = None
        try:
            self._identify()
            targets = self._resolve()
            error = self._over_limit()
            self._order(targets)
        except GatewayError as refusal:
            error = refusal
            self.steps.append(Step("answer", False, f"{refusal.status}: {refusal.message}"))
        return Explanation(
            model=self.question.model,
            key=self.question.key.name if self.question.key else "",
            status=error.status if error else 200,
            error=error.message if error else "",
            steps=self.steps,
            targets=self._candidates(),
            limits=self._key_limits(),
            note=note,
        )

    def _say(self, step: str, text: str) -> None:
        self.steps.append(Step(step, True, text))

    def _identify(self) -> None:
        key = self.question.key
        if key is None:
            raise InvalidApiKey("Unknown API key.")
        self.call.key = check_valid(key)
        team = f" of the team {key.team.slug}" if key.team else ""
        self._say("key", f"{key.name}{team}")

    def _resolve(self) -> list[TargetEntry]:
        body: dict[str, Any] = {"model": self.question.model, "stream": self.question.stream}
        body["messages"] = [{"role": "user", "content": "?"}]
        if self.question.user:
            body["user"] = self.question.user
        self.call.ask = decode_chat(msgspec.json.encode(body), None)
        found = self.call.table.resolve(self.question.model)
        if found is not None:
            self.call.route = found  # also where the key may not use it
            self._say("route", _route_text(self.question.model, found.route.name, found.wildcard_part))
        self.call.route, targets = resolve(self.call)
        if found is None:
            self._say("route", f"{self.call.route.route.name}, by the provider's own model name")
        self._say("access", "the key may use this route")
        if tags := tags_of(self.call):
            self._say("tags", ", ".join(sorted(tags)))
        return targets

    def _over_limit(self) -> GatewayError | None:
        used_up = [view for view in self._key_limits() if view.used_up]
        self.steps += [Step("limits", False, f"{view}: used up") for view in used_up]
        if used_up:
            return RateLimited(f"{used_up[0]}: used up.")
        self._say("limits", "no limit of the key, its team or the route is used up")
        return None

    def _order(self, targets: list[TargetEntry]) -> None:
        assert self.call.route is not None
        route = self.call.route.route
        self._say("strategy", STRATEGIES[route.strategy].label)
        fallbacks.choose(self.call, targets, self.chooser, dry=True)
        chosen = self.call.route
        while fallbacks.take_last_resort(self.call):
            self.call.route = chosen
        first = self.call.order[0]
        waits = f" after a wait of {self.call.wait_first:.1f} s" if self.call.wait_first else ""
        self._say("target", f"{first.name} is asked first{waits}, {len(self.call.order) - 1} more after it")

    def _candidates(self) -> list[Candidate]:
        if self.call.route is None or self.call.key is None:
            return []
        route = self.call.route.route
        found = [self._candidate(target) for target in route.targets]
        last = len(found) + 1  # sort() empties the list while it works
        found.sort(key=lambda candidate: candidate.place or last)
        return found + [self._candidate(target) for target in route.shadows]

    def _candidate(self, target: TargetEntry) -> Candidate:
        order = self.call.order
        limits = [view for limit_owner in target.limit_owners for view in self._of(limit_owner)]
        passed_over = [f"passed over: used up is {view}" for view in limits if view.used_up]
        return Candidate(
            target=target.id,
            provider=target.provider.slug,
            model=target.upstream_model,
            priority=target.priority,
            weight=target.weight,
            place=order.index(target) + 1 if target in order else None,
            why="; ".join(passed_over) or self._why(target),
            state=self.views.get(target.id) or TargetView(target=target.id),
            limits=limits,
        )

    def _why(self, target: TargetEntry) -> str:
        if target.shadow_share is not None:
            return f"shadow: gets a copy of {_percent(target.shadow_share)} of the requests, answers nobody"
        reasons = [why for skipped, why in self.call.skipped if skipped is target]
        if not reasons and target.provider.unhealthy:
            reasons = ["its provider is unhealthy: after the healthy ones"]
        if target.canary_share is not None:
            reasons.insert(0, f"canary: gets {_percent(target.canary_share)} of the requests by chance")
        if not reasons and target in self.call.order:
            assert self.call.route is not None
            strategy = self.chooser.strategies[self.call.route.route.strategy]
            reasons = [strategy.note(target, self.chooser.pick(self.call, dry=True))]
        return "; ".join(reasons)

    def _key_limits(self) -> list[LimitView]:
        key, route = self.question.key, self.call.route
        shared = (key.limit_owners if key else ()) + (route.route.limit_owners if route else ())
        return [view for limit_owner in shared for view in self._of(limit_owner)]

    def _of(self, limit_owner: LimitOwner) -> list[LimitView]:
        limits: Limits = limit_owner.limits
        requests, tokens = self.rate_limits(limit_owner) if self.rate_limits and limits else (None, None)
        shown = (
            (limits.rpm, "requests per minute", requests),
            (limits.tpm, "tokens per minute", tokens),
            (limits.parallel, "requests at the same time", None),
        )
        owner = f"{limit_owner.kind} {limit_owner.name}"
        found = [
            _rate(owner, f"{limit:,} {unit}", left.remaining if left else None)
            for limit, unit, left in shown
            if limit is not None
        ]
        return [*found, self._budget(owner, limit_owner, limit_owner.budget)] if limit_owner.budget else found

    def _budget(self, owner: str, limit_owner: LimitOwner, budget: Budget) -> LimitView:
        limit = f"{_usd(budget.limit_nano)} USD {PERIODS[budget.period]}"
        if self.spent is None:
            return LimitView(owner, limit)
        left = max(budget.limit_nano - self.spent(limit_owner), 0)
        return LimitView(owner, limit, f"{_usd(left)} USD", not left)


def _rate(owner: str, limit: str, remaining: int | None) -> LimitView:
    if remaining is None:
        return LimitView(owner, limit)
    return LimitView(owner, limit, f"{remaining:,}", not remaining)


def _usd(nano: int) -> str:
    return f"{Decimal(nano) / 10**9:f}"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _incoming(question: Question) -> Incoming:
    sent = {
        b"x-litellm-route": question.provider,
        b"x-litellm-tags": question.tags,
        b"x-session-id": question.session,
    }
    headers = {name: text.encode("latin-1", "replace") for name, text in sent.items() if text}
    return Incoming(CHAT_COMPLETIONS, headers, b"", time.perf_counter())


def _route_text(asked: str, route: str, wildcard_part: str) -> str:
    if wildcard_part:
        return f"{route}, whose * stands for {wildcard_part}"
    return route if asked == route else f"{route}, of which {asked} is an alias"
