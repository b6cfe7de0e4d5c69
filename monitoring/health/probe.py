"""One check: a GET, or a completion of one token where an admin has chosen a model for it."""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime

import httpx
import msgspec

from monitoring.health.meaning import GOOD, Meaning, Verdict, meaning_of
from proxy.accounting.rows import add_more
from proxy.dialects import dialect_of
from proxy.dialects.base import MalformedAnswer
from proxy.ids import uuid7
from proxy.journal.records import Closed
from proxy.metering.usage import cost
from proxy.transports.base import ConnectionBroken
from proxy.transports.coding import coding_of, unpacked
from proxy.transports.connecting import checked, refusal
from routing.addresses import for_providers
from routing.compiler import provider_entry
from routing.models import Provider, RouteTarget
from routing.prices import price_of
from routing.table import ProviderEntry
from routing.unreadable import ROW_FAULTS, reason

LONGEST_ANSWER = 64 * 1024  # bytes that are read of one
GET, COMPLETION = "get", "completion"
KEY_NAME = "health check"


@dataclass(frozen=True, slots=True)
class Result:
    provider: Provider
    at: datetime  # when it was sent
    kind: str
    latency_ms: float
    problem: str = ""  # why it failed; empty where the provider lives
    bought: Closed | None = None  # the row of a completion
    meaning: Meaning = GOOD

    @property
    def detail(self) -> str:
        return self.problem or self.meaning.detail


@dataclass(frozen=True, slots=True)
class Answer:
    """The beginning of one."""

    status: int
    coding: str
    sent: bytes
    cut: bool

    def body(self) -> bytes:
        """The whole. Raises MalformedAnswer where it is too long, or can't be unpacked."""
        try:
            body = unpacked(self.coding, self.sent, LONGEST_ANSWER + 1)
        except ConnectionBroken as fault:
            raise MalformedAnswer(str(fault)) from None
        if self.cut or len(body) > LONGEST_ANSWER:
            raise MalformedAnswer(f"answered with more than {LONGEST_ANSWER:,} bytes")
        return body

    def text(self) -> bytes:
        """Of an error: what can be read of it."""
        try:
            return self.body()
        except MalformedAnswer:
            return b""


def new_client() -> httpx.AsyncClient:
    """A new connection for each check: an old one would say nothing about the way there."""
    client = httpx.AsyncClient(
        follow_redirects=False,
        timeout=None,  # noqa: S113 ask() bounds the whole
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )
    return checked(client, for_providers())


async def ask(client: httpx.AsyncClient, provider: Provider, at: datetime) -> Result:
    """Never raises what a provider can cause; takes at most the provider's health_timeout."""
    kind = COMPLETION if provider.health_model else GET
    started, answer, problem = time.perf_counter(), None, ""
    meaning = GOOD
    try:
        # The time-outs of httpx are per step; the setting is for the whole check.
        async with asyncio.timeout(provider.health_timeout):
            entry = provider_entry(provider)
            answer = await _answer(client, _request(client, provider, entry))
        meaning = meaning_of(provider, entry, answer.status, answer.text())
    except TimeoutError:
        problem = f"no answer within {provider.health_timeout:g} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = str(refusal(error) or f"{type(error).__name__}: connection failed")
    except ROW_FAULTS as error:
        problem = reason(provider, error)
    ms = (time.perf_counter() - started) * 1000
    if meaning.verdict is Verdict.FAILED:
        problem = meaning.detail
    bought = None
    if kind == COMPLETION and answer is not None:
        said = problem or meaning.detail
        problem, bought = await asyncio.to_thread(_bought, provider, answer, problem, said, at, ms)
    return Result(provider, at, kind, round(ms, 3), problem, bought, meaning)


async def _answer(client: httpx.AsyncClient, request: httpx.Request) -> "Answer":
    """As much of it as a check may need, as it came: what unpacks it is bounded."""
    response = await client.send(request, stream=True)
    parts, size = [], 0
    try:
        async for chunk in response.aiter_raw():
            parts.append(chunk)
            size += len(chunk)
            if size > LONGEST_ANSWER:
                break
    finally:
        await response.aclose()
    coding = coding_of(response.headers.get("content-encoding", ""))
    return Answer(response.status_code, coding, b"".join(parts), size > LONGEST_ANSWER)


def _request(client: httpx.AsyncClient, provider: Provider, entry: ProviderEntry) -> httpx.Request:
    """With the same headers as live calls, so that a check fails where they would."""
    headers = dict(dialect_of(entry).headers(entry, entry.credential))
    if not provider.health_model:
        del headers["content-type"]
        return client.build_request("GET", provider.health_url, headers=headers)
    body = {
        "model": provider.health_model,
        "messages": [{"role": "user", "content": "ping"}],
        "max_tokens": 1,
    }
    url = f"{entry.base_url}/chat/completions"
    return client.build_request("POST", url, headers=headers, content=msgspec.json.encode(body))


def _bought(
    provider: Provider, answer: Answer, problem: str, said: str, at: datetime, ms: float
) -> tuple[str, Closed]:
    """(what is wrong, the request log's row). `said`: also where it lives all the same. Asks the database."""
    row = Closed(
        id=uuid7(),
        received_at_ns=int(at.timestamp() * 1e9),
        request_id=f"health-{provider.slug}-{int(at.timestamp())}",
        outcome="upstream_failed" if said else "answered",
        endpoint="chat/completions",
        status=answer.status,
        model=provider.health_model,
        key_name=KEY_NAME,
        provider=provider.slug,
        upstream_model=provider.health_model,
        attempts=1,
        total_ms=round(ms, 3),
    )
    if not said:
        try:
            _add_usage(row, provider_entry(provider), provider, answer.body())
        except MalformedAnswer as fault:
            row.outcome, problem = "upstream_failed", str(fault)
    return problem, row


def _add_usage(row: Closed, entry: ProviderEntry, provider: Provider, body: bytes) -> None:
    usage = dialect_of(entry).read_answer(body)
    if usage is None:
        return
    row.input_tokens, row.output_tokens = usage.input, usage.output
    row.cached_tokens, row.reasoning_tokens = usage.cached, usage.reasoning
    add_more(row, usage.more)
    target = _target(provider)
    price = price_of(target)
    row.target_id = target.pk
    if price is not None:
        row.cost_nano_usd, row.price = cost(usage, price), price.at(usage.input).text


def _target(provider: Provider) -> RouteTarget:
    """The one that serves this model, for its price; one that is not stored where none does."""
    found = RouteTarget.objects.select_related("provider").filter(
        provider=provider, upstream_model=provider.health_model
    )
    return found.first() or RouteTarget(provider=provider, upstream_model=provider.health_model)
