"""The whole engine in this process, over a transport that does what a test scripts: for many mixed calls."""

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from proxy.access.failed_auth import FailedAuth
from proxy.accounting.account import Accounting
from proxy.answers.relay import Relay
from proxy.answers.whole import Whole
from proxy.breaker.registry import Board
from proxy.calls.call import Incoming
from proxy.engine import Engine
from proxy.errors import Refusal
from proxy.journal.records import Closed
from proxy.metrics.counters import Counters
from proxy.targets.selection import Chooser
from proxy.transports.base import ConnectFailed, ConnectionBroken, RequestHead, Sink, UpstreamRequest
from proxy.upstreams.pool import Upstreams
from routing.gateway_keys import digest
from routing.table import (
    BreakerRules,
    Budget,
    Connection,
    KeyEntry,
    LimitOwner,
    Limits,
    Price,
    ProviderEntry,
    Resolved,
    RouteEntry,
    RoutingTable,
    TargetEntry,
)
from tests.failing_over import part, tokens
from tests.upstream import completion

KEY = "sk-scripted"
LIMITS = Limits(rpm=None, tpm=None, parallel=50)
BUDGET = Budget(limit_nano=10**15, period="total", time_zone="UTC")
LINKS = Connection(connect_timeout=1, read_timeout=1, max_connections=20, queue_timeout=0.05, keep_alive=1)


def limit_owner(kind: str, number: int) -> LimitOwner:
    return LimitOwner(kind, number, f"{kind}-{number}", LIMITS, BUDGET)


class ScriptedResponse:
    def __init__(self, status: int, chunks: list[Any], content_type: str, headers: dict[str, str]) -> None:
        self.status = status
        self._chunks = deque(chunks)
        self._headers = headers | {"content-type": content_type}
        self.over = not chunks

    def header(self, name: str) -> str | None:
        return self._headers.get(name)

    def content(self) -> tuple[str, str]:
        return self._headers["content-type"], ""

    async def read(self) -> bytes:
        parts = []
        while chunk := await self.next_chunk():
            parts.append(chunk)
        return b"".join(parts)

    async def next_chunk(self, sink: Sink | None = None) -> bytes:
        while self._chunks:
            step = self._chunks.popleft()
            self.over = not self._chunks
            if isinstance(step, bytes):
                await asyncio.sleep(0)
                if sink is None or not sink(step):
                    return step
                continue
            if isinstance(step, Exception):
                raise step
            await asyncio.sleep(step)
        return b""

    def allow_silence(self, seconds: float) -> None:
        pass

    async def aclose(self) -> None:
        await asyncio.sleep(0)


class ScriptedClient:
    """Is behind at every third chunk."""

    def __init__(self) -> None:
        self.told = b""
        self._chunks = 0

    @property
    def behind(self) -> bool:
        return self._chunks % 3 == 2

    def send(self, chunk: bytes) -> None:
        self.told += chunk
        self._chunks += 1


@dataclass
class ScriptedSent:
    name: str
    stream: bool

    async def head(self) -> ScriptedResponse:
        await asyncio.sleep(0.001)
        return await _respond(self.name, self.stream)

    def abandon(self) -> None:
        pass


@dataclass
class ScriptedTransport:
    """Takes the next of the shared behaviours for each request."""

    behaviours: deque[str]
    sent: list[str] = field(default_factory=list)

    def can_begin(self, head: RequestHead) -> bool:
        """For every other request."""
        return len(self.sent) % 2 == 1

    def begin(self, request: UpstreamRequest) -> ScriptedSent:
        return ScriptedSent(self._next(), request.stream)

    async def send(self, request: UpstreamRequest) -> ScriptedResponse:
        return await self.begin(request).head()

    def _next(self) -> str:
        name = self.behaviours.popleft() if self.behaviours else "fine"
        self.sent.append(name)
        return name

    async def aclose(self) -> None:
        pass


JSON, SSE = "application/json", "text/event-stream"
STATUSES = {"400": 400, "401": 401, "429": 429, "429_soon": 429, "500": 500, "503": 503}
BEHAVIOURS = (*STATUSES, "fine", "late", "silent", "refused", "reset", "cut", "stalls", "garbage", "no_end")


async def _respond(name: str, stream: bool) -> ScriptedResponse:
    if name in STATUSES:
        headers = {"retry-after": "0.01"} if name == "429_soon" else {}
        return ScriptedResponse(STATUSES[name], [b'{"error": {"message": "no"}}'], JSON, headers)
    if name == "refused":
        raise ConnectFailed("refused")
    if name == "reset":
        raise ConnectionBroken("was reset")
    await asyncio.sleep({"late": 0.03, "silent": 5}.get(name, 0))
    whole = part(tokens(0, 6), id="x") if stream else [json.dumps(completion()).encode()]
    ends = {"cut": [ConnectionBroken("was cut")], "stalls": [5.0], "garbage": [b"data: {\n\n"], "no_end": []}
    chunks: list[Any] = [*whole[: len(whole) // 2], *ends[name]] if name in ends else whole
    return ScriptedResponse(200, chunks, SSE if stream else JSON, {})


class NoJournal:
    """Keeps the closed calls, by outcome."""

    def __init__(self) -> None:
        self.closed: list[Any] = []

    def write(self, record: Any, *, keep: bool = True) -> bool:
        self.gather(record)
        return True

    def gather(self, record: Any) -> None:
        if isinstance(record, Closed):
            self.closed.append(record)

    def write_gathered(self) -> None:
        return None


@dataclass
class Keeper:
    table: RoutingTable


class ScriptedEngine:
    """Route gpt over some targets, with two fallback routes; everything has limits and budgets.

    `provider` holds values for all providers, `route` for the route.
    """

    def __init__(
        self,
        admission: Any,
        behaviours: list[str],
        *,
        targets: int = 3,
        provider: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        **route: Any,
    ) -> None:
        self.transport = ScriptedTransport(deque(behaviours))
        self.admission = admission
        self.journal = NoJournal()
        self.upstreams = Upstreams("fast")
        self.board = Board(clock)
        self.table = _table(targets, route, provider or {})
        self.send_by(self.transport)
        chooser = Chooser(self.board, random.Random(1))
        accounting = Accounting(self.journal, Counters())  # type: ignore[arg-type]
        keeper: Any = Keeper(self.table)
        self.engine = Engine(keeper, self.upstreams, admission, accounting, chooser, FailedAuth(1000))

    def send_by(self, transport: Any) -> None:
        for provider in self.table.providers.values():
            self.upstreams.link(provider).pool.transport = transport

    async def call(self, *, stream: bool, patience: float | None) -> str:
        """What a door does; `patience`: seconds until the client hangs up. Returns "" or the error's code."""
        task = asyncio.create_task(self._serve(stream))
        if patience is not None:
            await asyncio.sleep(patience)
            task.cancel()
        with suppress(asyncio.CancelledError):
            return await task
        return "gone"

    async def _serve(self, stream: bool) -> str:
        body = {"model": "gpt", "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}
        headers = {b"authorization": f"Bearer {KEY}".encode()}
        incoming = Incoming("chat/completions", headers, json.dumps(body).encode(), time.perf_counter())
        try:
            relay = await self.engine.serve(incoming)
        except Refusal as refusal:
            return str(json.loads(refusal.body)["error"]["code"])
        if isinstance(relay, Whole):
            relay.close()
            return ""
        return await self._relayed(relay)

    async def _relayed(self, relay: Relay) -> str:
        client = ScriptedClient()
        relay.pass_to(client)
        try:
            while chunk := await relay.next_chunk():
                client.send(chunk)
                await asyncio.sleep(0)
        finally:
            await relay.aclose()
        return "broken" if b'data: {"error"' in client.told else ""

    def in_use(self) -> dict[str, int]:
        """What is still held somewhere, though no call is in flight: nothing."""
        found = {f"pool of {link.provider.slug}": link.pool.in_use for link in self.upstreams._links.values()}
        found |= {f"target {number}": state.in_flight for number, state in self.board.states.items()}
        found |= {f"probe of {number}": int(state.probing) for number, state in self.board.states.items()}
        return {name: count for name, count in found.items() if count}

    def limit_owners(self) -> list[LimitOwner]:
        routes = [found.route for found in self.table.routes.values()]
        found = [limit_owner for route in routes for limit_owner in route.limit_owners]
        found += [
            limit_owner for route in routes for target in route.targets for limit_owner in target.limit_owners
        ]
        return [*next(iter(self.table.keys.values())).limit_owners, *found]


def _table(targets: int, values: dict[str, Any], provider: dict[str, Any]) -> RoutingTable:
    providers = {f"p{number}": replace(_provider(number), **provider) for number in range(1, 6)}
    entries = list(providers.values())
    second, third = _route(2, "second", entries[3:4]), _route(3, "third", entries[4:5])
    first = replace(
        _route(1, "gpt", entries[:targets]), **{"fallbacks": (2, 3), "context_fallbacks": (3,)} | values
    )
    key = KeyEntry(
        id=1,
        name="k",
        team=None,
        route_ids=None,
        limit_owners=(limit_owner("key", 1),),
        expires_at=None,
        enabled=True,
    )
    return RoutingTable(
        version=1,
        keys=MappingProxyType({digest(KEY.encode()): key}),
        routes=MappingProxyType({route.name: Resolved(route) for route in (first, second, third)}),
        wildcards=(),
        upstream_models=MappingProxyType({}),
        providers=MappingProxyType(providers),
        cors_origins=frozenset(),
        breaker=BreakerRules(failures=5, cooldown=0.02),
    )


def _provider(number: int) -> ProviderEntry:
    return ProviderEntry(
        id=number,
        slug=f"p{number}",
        dialect="openai",
        base_url=f"http://127.0.0.1:9/p{number}/v1",
        credential="",
        connection=LINKS,
        retries=1,
        retry_delay=0.002,
        limit_owners=(limit_owner("provider", number),),
        allow_caller_key=False,
        unhealthy=False,
        refuse_when_unhealthy=False,
        continues="plain",
    )


def _route(number: int, name: str, providers: list[ProviderEntry]) -> RouteEntry:
    targets = [_target(number, place, provider) for place, provider in enumerate(providers, 1)]
    return RouteEntry(
        id=number,
        name=name,
        strategy="ordered",
        deadline=0.3,
        max_messages=None,
        default_parameters=(),
        answer_tokens=100,
        limits_answers=False,
        limit_owners=(limit_owner("route", number),),
        limited=True,
        over_limit_route=None,
        targets=tuple(targets),
        created=0,
    )


def _target(route: int, place: int, provider: ProviderEntry) -> TargetEntry:
    number = 10 * route + place
    return TargetEntry(
        id=number,
        provider=provider,
        upstream_model="m",
        weight=1,
        priority=place,
        rank=2 * place,
        limit_owners=(limit_owner("target", number), *provider.limit_owners),
        price=Price(input=10**9, output=10**9, cached_input=None),
    )
