"""Step 7: what a call was and cost, to the journal; its limits are settled."""

import asyncio
import logging
import time

from proxy.admission.base import Grant
from proxy.call import Call
from proxy.content.writer import ContentWriter
from proxy.errors import JournalFull
from proxy.journal.records import SAME, Closed, Opened
from proxy.journal.writer import JournalWriter
from proxy.metrics.counters import Counters
from proxy.usage import NO_MORE, More, cost
from routing.table import TargetEntry

CLIENT_INFO_LENGTH = 200
logger = logging.getLogger(__name__)


class Accounting:
    def __init__(
        self,
        journal: JournalWriter,
        counters: Counters,
        when_full: str = "serve",
        contents: ContentWriter | None = None,
    ) -> None:
        self._contents = contents
        self._journal = journal
        self._counters = counters
        self._serves_unwritten = when_full == "serve"
        self._ended: list[Call] = []

    def open(self, call: Call) -> None:
        """Before a provider is called: from here on the call leaves a row, whatever happens.

        Raises JournalFull where the disk is full and calls must not be made then.
        """
        if self._serves_unwritten:
            # All of one turn of the event loop in one write; a transport sends nothing before it.
            self._journal.gather(_opened(call))
        elif not self._journal.write(_opened(call), keep=False):
            raise JournalFull("The gateway can't write its books now: try again.", retry_after=1)
        call.opened = True

    def keep_content(self, call: Call) -> None:
        """For keys and routes that say something about content."""
        if self._contents is not None:
            call.content = self._contents.begin(call)

    def close(self, call: Call) -> None:
        """Once per call. Not awaited, so it can't be cancelled half-way.

        What ended in one turn of the event loop is accounted for together, before any request that
        comes later is looked at: the processor then has the same code at hand for all of it.
        """
        call.ended_at = time.perf_counter()
        self._ended.append(call)
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_soon(self.close_ended)

    def close_ended(self) -> None:
        ended, self._ended = self._ended, []
        for call in ended:
            try:
                self._close(call)
            except Exception:
                logger.exception("call %s could not be accounted for", call.id)

    def _close(self, call: Call) -> None:
        try:
            if call.price_cost is None:  # else priced for the answer's headers already
                price_call(call)
            row = _closed(call)
            self._journal.gather(row)
            self._counters.count(call, row)
            if call.content is not None and self._contents is not None:
                self._contents.write(call)
            if call.trace is not None:
                call.trace.end(call, row)
        finally:
            if call.grant is not None:
                _settle(call, call.grant)


def _settle(call: Call, grant: Grant) -> None:
    if call.target is not None:
        grant.settle(call.usage.total if call.usage is not None else None, call.price_cost)
    elif _abandoned(call):
        grant.settle(None, call.price_cost)
    else:
        grant.settle(0, 0)


def _opened(call: Call) -> Opened:
    key, ask, route = call.key, call.ask, call.route
    assert ask is not None
    assert route is not None
    row = Opened(
        id=call.id,
        received_at_ns=call.received_at_ns,
        request_id=SAME if call.request_id is call.id else call.request_id,
        endpoint=call.incoming.endpoint,
        stream=ask.stream,
        model=_text(ask.model, 200),
        key_id=key.id if key else None,
        key_name=key.name if key else "",
        team=key.team.slug if key and key.team else "",
        route=route.route.name,
        reserved_nano_usd=call.grant.reserved_nano if call.grant is not None else None,
        shadow=call.shadow,
    )
    target = call.target or (call.order[call.grant.option] if call.order and call.grant else None)
    if target is not None:
        row.target_id, row.provider = target.id, target.provider.slug
        row.upstream_model = _text(target.model_for(route.wildcard_part), 200)
    return row


def _abandoned(call: Call) -> bool:
    """A provider still works on an answer that nobody waits for."""
    return call.target is None and bool(call.attempts) and call.attempts[-1].result == "cancelled"


def price_call(call: Call) -> None:
    """Sets price_cost in nano-USD; it stays None where the price or the usage is unknown.

    An abandoned call counts at what was reserved for it, and an estimate never at more.
    """
    reserved = call.grant.reserved_nano if call.grant is not None else None
    if call.target is not None and call.target.price is not None and call.usage is not None:
        call.price_cost = price = _cost_of_parts(call)
        if call.usage.estimated and reserved is not None and price is not None:
            call.price_cost = min(price, reserved)
    elif _abandoned(call):
        call.price_cost = reserved


def _cost_of_parts(call: Call) -> int | None:
    """Each part of a continued answer at the price of the target that gave it."""
    assert call.target is not None
    assert call.usage is not None
    rest, total = call.usage, 0
    for target, part in call.answered_before:
        if target.price is None:
            return None
        total += cost(part, target.price)
        rest = rest - part
    return None if call.target.price is None else total + cost(rest, call.target.price)


def _closed(call: Call) -> Closed:
    incoming = call.incoming
    total_ms = call.elapsed_ms
    ttft_ms = (call.first_byte - incoming.received) * 1000 if call.first_byte else None
    overhead_ms = (total_ms if ttft_ms is None else ttft_ms) - call.upstream_ms
    row = Closed(
        id=call.id,
        received_at_ns=call.received_at_ns,
        request_id=SAME if call.request_id is call.id else call.request_id,
        outcome=call.outcome,
        endpoint=incoming.endpoint,
        status=call.status,
        error_code=_text(call.error.code, 64) if call.error else "",
        attempts=len(call.attempts),
        attempt_trail=trail_of(call),
        shadow=call.shadow,
        cost_nano_usd=call.price_cost,
        total_ms=int(total_ms * 1000) / 1000,
        overhead_ms=int(overhead_ms * 1000) / 1000 if overhead_ms > 0 else 0.0,
        ttft_ms=None if ttft_ms is None else int(ttft_ms * 1000) / 1000,
        abandoned=call.abandoned
        or ("cancelled" if call.outcome == "client_gone" and _abandoned(call) else ""),
    )
    if incoming.has_options:
        row.tags = call.tags
        row.client_info = (incoming.text(b"x-client-info") or "")[:CLIENT_INFO_LENGTH]
    _add_usage(row, call)
    _add_route(row, call)
    return row


def _text(value: str, longest: int) -> str:
    """What a column takes: Postgres stores no NUL."""
    if len(value) <= longest and "\0" not in value:
        return value
    return value.replace("\0", "")[:longest]


def _add_usage(row: Closed, call: Call) -> None:
    usage = call.usage
    if usage is None:
        row.tokens_estimated = call.price_cost is not None
        return
    row.input_tokens, row.output_tokens = usage.input, usage.output
    row.tokens_estimated = usage.estimated
    if not usage.estimated:
        row.cached_tokens, row.reasoning_tokens = usage.cached, usage.reasoning
    if usage.more is not NO_MORE:
        add_more(row, usage.more)
    if call.price_cost is not None and call.target is not None and call.target.price is not None:
        price = call.target.price
        row.price = price.at(usage.input).text if price.tiers else price.text


def add_more(row: Closed, more: More) -> None:
    """Those that there are: the others stay NULL, as in nearly all rows."""
    row.cache_write_tokens, row.cache_write_1h_tokens = more.cache_write or None, more.cache_write_1h or None
    row.audio_input_tokens, row.audio_output_tokens = more.audio_input or None, more.audio_output or None
    row.image_input_tokens, row.image_output_tokens = more.image_input or None, more.image_output or None


def _add_route(row: Closed, call: Call) -> None:
    if (key := call.key) is not None:
        row.key_id, row.key_name = key.id, key.name
        row.team = key.team.slug if key.team else ""
    if call.ask is not None:
        row.model, row.stream = _text(call.ask.model, 200), call.ask.stream
    if call.route is not None:
        row.route = call.route.route.name
    if attempt := call.served_by():
        row.target_id, row.provider = attempt.target.id, attempt.target.provider.slug
        row.upstream_model = _text(attempt.upstream_model, 200)


TrailEntry = dict[str, str | int | float]


def trail_of(call: Call) -> list[TrailEntry]:
    """What became of each target: the attempts in time, then what was left out, then what wasn't needed."""
    trail: list[TrailEntry] = []
    tried: list[TargetEntry] = []
    for attempt in call.attempts:
        tried.append(attempt.target)
        trail.append(
            {
                "target": attempt.target.id,
                "provider": attempt.target.provider.slug,
                "model": _text(attempt.upstream_model, 200),
                "result": _text(attempt.result, 200),
                "at_ms": int((attempt.started - call.incoming.received) * 1e6) / 1000,
                "ms": int(attempt.ms * 1000) / 1000,
            }
        )
    for target, why in call.skipped:
        tried.append(target)
        trail.append(target.unneeded | {"result": _text(f"skipped: {why}", 200)})
    if len(call.order) > 1:
        for target in call.order:
            if target not in tried:
                trail.append(target.unneeded)
    return trail
