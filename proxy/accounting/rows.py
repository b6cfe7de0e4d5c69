"""What the journal keeps of a call: one row when a provider is about to be asked, one when all is over."""

from proxy.access.client_address import AGENT_LENGTH, Callers
from proxy.calls.call import Call, Incoming
from proxy.journal.records import Closed, Common, Opened
from proxy.metering.usage import NO_MORE, More
from routing.table import RouteEntry, TargetEntry
from routing.table_cache import TableCache

LONGEST_RESULT = 1000  # characters of an attempt's result
CLIENT_INFO_LENGTH = 200
MOST_KEPT, MOST_BYTES = 2_000, 8 * 1024 * 1024  # callers of a wildcard route may ask for any model
COMMON_BYTES = 1_500  # of one, but for its texts


class Rows:
    """Keeps what rows have in common, for as long as its table serves."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._known: TableCache[Common] = TableCache(MOST_KEPT, MOST_BYTES)

    def opened(self, call: Call) -> Opened:
        assert call.route is not None
        target = call.target or (call.order[call.grant.candidate] if call.order and call.grant else None)
        model = "" if target is None else target.model_for(call.route.wildcard_part)
        call.common = common = self._common(call, target, model)
        row: Opened = common.opened.__copy__()  # type: ignore[attr-defined] # its stub lacks it
        row.id, row.received_at_ns, row.shadow = call.id, call.received_at_ns, call.shadow
        if call.request_id is not call.id:
            row.request_id = call.request_id
        if call.grant is not None:
            row.reserved_nano_usd = call.grant.reserved_nano
        return row

    def closed(self, call: Call, abandoned: str) -> Closed:
        """Of a stranger's headers nothing.

        `abandoned`: what became of the provider's answer when nobody waited for it any more.
        """
        incoming, total_ms = call.incoming, call.elapsed_ms
        row = self._of_its_kind(call)
        row.id, row.received_at_ns, row.outcome = call.id, call.received_at_ns, call.outcome
        if call.request_id is not call.id and (call.key is not None or call.shadow):
            row.request_id = call.request_id
        row.status, row.shadow, row.abandoned = call.status, call.shadow, abandoned
        if call.error is not None:
            row.error_code = _text(call.error.code, 64)
        row.attempts, row.attempt_trail = len(call.attempts), trail_of(call)
        row.cost_nano_usd = call.price_cost
        row.total_ms, overhead_ms = int(total_ms * 1000) / 1000, total_ms - call.upstream_ms
        if call.first_byte:
            ttft_ms = (call.first_byte - incoming.received) * 1000
            row.ttft_ms, overhead_ms = int(ttft_ms * 1000) / 1000, ttft_ms - call.upstream_ms
        row.overhead_ms = int(overhead_ms * 1000) / 1000 if overhead_ms > 0 else 0.0
        if incoming.has_options and (call.key is not None or call.shadow):
            row.tags = call.tags
            row.client_info = (incoming.text(b"x-client-info") or "")[:CLIENT_INFO_LENGTH]
        if call.key is not None and self._callers.kept:
            self._add_caller(row, incoming)
        _add_usage(row, call)
        return row

    def _add_caller(self, row: Closed, incoming: Incoming) -> None:
        row.client_address = self._callers.address_of(incoming.client, incoming.headers) or None
        if (agent := incoming.headers.get(b"user-agent")) is not None:
            row.user_agent = agent[:AGENT_LENGTH].decode("latin-1").replace("\0", "")

    def _of_its_kind(self, call: Call) -> Closed:
        """With what the call has in common with others, and nothing else yet."""
        attempt, common = call.served_by(), call.common
        target = attempt.target if attempt is not None else None
        if common is None or common.target is not target or common.route is not _route_of(call):
            if call.ask is None or call.route is None:
                return _closed(call, None, "")
            common = self._common(call, target, attempt.upstream_model if attempt is not None else "")
        row: Closed = common.closed.__copy__()  # type: ignore[attr-defined] # its stub lacks it
        return row

    def _common(self, call: Call, target: TargetEntry | None, upstream_model: str) -> Common:
        ask, route = call.ask, call.route
        assert ask is not None
        assert route is not None
        place = (call.incoming.endpoint, ask.stream, ask.model, call.key, route.route, target, upstream_model)
        found = self._known.get(call.table, place)
        if found is None:
            closed = _closed(call, target, upstream_model)
            made = Common(route.route, target, _opened(closed), closed)
            size = COMMON_BYTES + 2 * (len(ask.model) + len(upstream_model))
            found = self._known.put(call.table, place, made, size)
        return found


def _route_of(call: Call) -> RouteEntry | None:
    return call.route.route if call.route is not None else None


def _closed(call: Call, target: TargetEntry | None, upstream_model: str) -> Closed:
    row = Closed(id="", received_at_ns=0, outcome="", endpoint=call.incoming.endpoint)
    if (key := call.key) is not None:
        row.key_id, row.key_name = key.id, key.name
        row.team = key.team.slug if key.team else ""
    if call.ask is not None:
        row.model, row.stream = _text(call.ask.model, 200), call.ask.stream
    if call.route is not None:
        row.route = call.route.route.name
    if target is not None:
        row.target_id, row.provider = target.id, target.provider.slug
        row.upstream_model = _text(upstream_model, 200)
    return row


IN_BOTH = (
    *("endpoint", "stream", "model", "key_id", "key_name", "team", "route"),
    *("target_id", "provider", "upstream_model"),
)


def _opened(closed: Closed) -> Opened:
    return Opened(id="", received_at_ns=0, **{name: getattr(closed, name) for name in IN_BOTH})


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
    row.input_tokens, row.output_tokens, row.tokens_estimated = usage.input, usage.output, usage.estimated
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


TrailEntry = dict[str, str | int | float]


def trail_of(call: Call) -> list[TrailEntry]:
    """What became of each target: the attempts in time, then what was left out, then what wasn't needed."""
    trail: list[TrailEntry] = []
    tried: list[TargetEntry] = []
    for attempt in call.attempts:
        target = attempt.target
        tried.append(target)
        trail.append(
            {
                "target": target.id,
                "provider": target.provider.slug,
                "model": _text(attempt.upstream_model, 200),
                "result": _text(attempt.result, LONGEST_RESULT),
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
