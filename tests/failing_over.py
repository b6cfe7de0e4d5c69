"""Routes with several providers, and what a call through them left."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from monitoring.models import RequestLog
from routing.models import ModelRoute
from tests.factories import make_provider, make_route, make_target
from tests.live import Door, until
from tests.upstream import FakeUpstream

PRICES = {"input_price": "1", "output_price": "2"}


def route_over(upstream: FakeUpstream, name: str, *slugs: str, **values: Any) -> ModelRoute:
    """A route whose targets are these providers, tried in this order.

    `target` and `provider` hold values for all of them; the rest is the route's.
    """
    target, provider = values.pop("target", {}), values.pop("provider", {})
    route = make_route(**{"name": name, "strategy": "ordered"} | values)
    for priority, slug in enumerate(slugs, 1):
        settings = {"slug": slug, "base_url": upstream.url(slug), "retries": 0, "retry_delay": 0.01}
        make_target(
            route=route,
            provider=make_provider(**settings | provider),
            upstream_model=f"{slug}-model",
            **{"priority": priority} | PRICES | target,
        )
    return route


def row_of(answer: httpx.Response) -> RequestLog:
    """The one row that a call left."""
    call = answer.headers["x-litellm-call-id"]
    row: RequestLog = until(lambda: RequestLog.objects.filter(id=call).first(), f"the row of call {call}")
    assert RequestLog.objects.filter(request_id=row.request_id).count() == 1
    return row


def results(row: RequestLog) -> list[tuple[str, str]]:
    """(provider, result) of each entry in the trail."""
    return [(entry["provider"], entry["result"]) for entry in row.attempt_trail]


@dataclass
class Told:
    """What the caller of a stream was told, event by event."""

    answer: httpx.Response
    text: str = ""
    ids: set[str] = field(default_factory=set)
    roles: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    dones: int = 0

    @property
    def row(self) -> RequestLog:
        return row_of(self.answer)


def stream(door: Door, key: str, model: str = "gpt", **body: Any) -> Told:
    with door.stream(key, model, **body) as answer:
        answer.read()
    assert answer.status_code == 200, answer.text
    told = Told(answer)
    for block in answer.content.split(b"\n\n"):
        if block.strip() and not block.startswith(b":"):
            _note(told, block.strip().removeprefix(b"data: "))
    return told


def _note(told: Told, data: bytes) -> None:
    assert not told.dones, "nothing comes after [DONE]"
    if data == b"[DONE]":
        told.dones += 1
        return
    event = json.loads(data)
    if event.get("error"):
        told.errors.append(event["error"])
        return
    told.ids.add(event["id"])
    told.usage = event.get("usage") or told.usage
    for choice in event["choices"]:
        told.text += choice["delta"].get("content") or ""
        told.roles += [choice["delta"]["role"]] if choice["delta"].get("role") else []
        told.finished += [choice["finish_reason"]] if choice["finish_reason"] else []


def tokens(first: int, last: int) -> list[str]:
    """Words that are told apart: t0001 and so on, with a blank after each."""
    return [f"t{number:04d} " for number in range(first, last)]


def part(words: list[str], *, id: str, role: bool = True, end: bool = True, usage: Any = None) -> list[bytes]:
    """The events of a stream, or of its beginning."""
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas = [*(deltas if role else []), *(({"content": word}, None) for word in words)]
    deltas += [({}, "stop")] if end else []
    common = {"id": id, "object": "chat.completion.chunk", "created": 1, "model": f"model-{id}"}
    found = [
        common | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    if usage:
        found.append(common | {"choices": [], "usage": usage})
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in found]
    return [*lines, b"data: [DONE]\n\n"] if end else lines
