"""Database -> RoutingTable: a fixed number of queries, whatever the number of rows."""

import itertools
import logging
import math
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec
from django.utils import timezone

from routing import compiled_keys, prices, secret_headers, stand_ins, strategies
from routing.addresses import is_self_hosted
from routing.demo_provider import called_at
from routing.limit_owners import limit_owners_of
from routing.models import (
    GatewaySettings,
    MaintenanceWindow,
    ModelRoute,
    Provider,
    ProviderHealth,
    RouteFallback,
    RouteTarget,
    RoutingVersion,
)
from routing.models.content import CONTENT_LEVELS
from routing.models.fallback import FallbackKind
from routing.models.provider import OLD_READ_TIMEOUT, Dialect
from routing.snapshot import one_snapshot
from routing.table import (
    WORD_KINDS,
    BreakerRules,
    Connection,
    LimitOwner,
    ProviderEntry,
    Resolved,
    RouteEntry,
    RoutingTable,
    TargetEntry,
    rank_of,
)
from routing.unreadable import Faults, texts, texts_by_name

logger = logging.getLogger(__name__)


def current_version() -> int:
    """0 where nothing was ever published."""
    return RoutingVersion.objects.filter(pk=1).values_list("number", flat=True).first() or 0


def compile_table() -> RoutingTable:
    """The table as the database has it at one moment; rows that can't be compiled are its `faults`.

    Raises a database error; the caller then keeps the table it has.
    """
    with one_snapshot():
        return _compile(current_version(), timezone.now())


def _compile(version: int, now: datetime) -> RoutingTable:
    faults = Faults()
    windows = faults.read(MaintenanceWindow.objects.not_over(now))
    resting = {window.provider_id for window in windows if window.starts_at <= now}
    providers = _providers(resting, faults)
    serving = faults.read(RouteTarget.objects.serving().select_related("provider", "route"))
    targets = _targets(serving, providers, now, faults)
    routes = _routes(targets, faults)
    gateway = next(iter(faults.read(GatewaySettings.objects.filter(pk=1))), GatewaySettings(pk=1))
    keys = compiled_keys.entries(faults)
    return RoutingTable(
        version=version,
        keys=MappingProxyType(keys),
        retired_keys=MappingProxyType(compiled_keys.retired(keys)),
        unreadable_keys=compiled_keys.unreadable(faults) - keys.keys(),
        routes=MappingProxyType(_names(routes)),
        wildcards=_wildcards(routes),
        upstream_models=MappingProxyType(_upstream_models(entry for _, entry in routes)),
        providers=MappingProxyType({entry.slug: entry for entry in providers.values()}),
        cors_origins=faults.made(gateway, _cors_origins) or frozenset(),
        breaker=_breaker(gateway),
        recounted=RoutingVersion.objects.filter(pk=1).values_list("recounted", flat=True).first() or 0,
        valid_until=min(_next_boundary(windows, now), prices.next_change(serving, now)),
        faults=faults.all(),
    )


def _cors_origins(row: GatewaySettings) -> frozenset[str]:
    return frozenset(texts(row.cors_origins))


def _providers(resting: set[int], faults: Faults) -> dict[int, ProviderEntry]:
    rows = Provider.objects.enabled()
    found: dict[int, ProviderEntry] = {}
    for row in faults.read(rows.select_related("health")):
        entry = faults.made(row, provider_entry, row.pk in resting)
        if entry is not None:
            found[row.pk] = entry
    if broken := faults.of(Provider):
        for pk, slug in rows.filter(pk__in=broken).values_list("pk", "slug"):
            found[pk] = stand_ins.provider(pk, slug, broken[pk].reason)
    return found


def _targets(
    serving: list[RouteTarget], providers: dict[int, ProviderEntry], now: datetime, faults: Faults
) -> dict[int, list[TargetEntry]]:
    """By route."""
    found: dict[int, list[TargetEntry]] = {}
    for row in serving:
        provider = providers.get(row.provider_id)
        entry = faults.made(row, _target, provider, now) if provider is not None else None
        if entry is not None:
            found.setdefault(row.route_id, []).append(entry)
    if broken := faults.of(RouteTarget):
        rows = RouteTarget.objects.serving().filter(pk__in=broken)
        for pk, route, provider_id, model in rows.values_list("pk", "route", "provider", "upstream_model"):
            if (provider := providers.get(provider_id)) is not None:
                found.setdefault(route, []).append(stand_ins.target(pk, provider, model, broken[pk].reason))
    return found


def _routes(
    targets: dict[int, list[TargetEntry]], faults: Faults
) -> list[tuple[tuple[str, ...], RouteEntry]]:
    """Each with its aliases."""
    enabled = ModelRoute.objects.enabled()
    rows = faults.read(enabled.order_by("name"))
    fallbacks = _fallbacks()
    limit_owners = {row.pk: _all_limit_owners(row, targets.get(row.pk, []), faults) for row in rows}
    found = []
    for row in rows:
        entry = faults.made(row, _route, targets.get(row.pk, []), fallbacks.get(row.pk, {}), limit_owners)
        if entry is not None:
            found.append((tuple(row.aliases), entry))
    if broken := faults.of(ModelRoute):
        aliases = {row.pk: stand_ins.names(row.aliases) for row in rows}
        for pk, name in enabled.filter(pk__in=broken).values_list("pk", "name"):
            found.append((aliases.get(pk, ()), stand_ins.route(pk, name, broken[pk].reason)))
    return found


def _all_limit_owners(row: ModelRoute, targets: list[TargetEntry], faults: Faults) -> tuple[LimitOwner, ...]:
    """The limits of the route, its targets and their providers."""
    own = faults.made(row, limit_owners_of) or ()
    return own + tuple(owner for target in targets for owner in target.limit_owners)


def _fallbacks() -> dict[int, dict[str, list[int]]]:
    """By route and kind, in the order in which they are tried."""
    found: dict[int, dict[str, list[int]]] = {}
    for route, kind, other in RouteFallback.objects.serving().values_list("route", "kind", "fallback"):
        found.setdefault(route, {}).setdefault(kind, []).append(other)
    return found


def _next_boundary(windows: list[MaintenanceWindow], now: datetime) -> float:
    """Unix seconds of the next beginning or end of a window."""
    moments = [moment for window in windows for moment in (window.starts_at, window.ends_at)]
    return min((moment.timestamp() for moment in moments if moment and moment > now), default=math.inf)


def _breaker(row: GatewaySettings) -> BreakerRules:
    return BreakerRules(
        enabled=row.breaker_enabled,
        failures=row.breaker_failures,
        error_share=row.breaker_error_percent / 100,
        min_requests=row.breaker_min_requests,
        cooldown=row.cooldown_seconds,
    )


def provider_entry(row: Provider, maintenance: bool = False) -> ProviderEntry:
    """Raises one of ROW_FAULTS."""
    health = getattr(row, "health", None)
    ill = health is not None and health.status == ProviderHealth.Status.UNHEALTHY
    texts_by_name(row.extra_headers)
    credential, headers = row.api_key, row.headers
    return ProviderEntry(
        id=row.pk,
        slug=row.slug,
        dialect=Dialect(row.dialect).value,
        base_url=called_at(row.base_url),
        credential=credential,
        # Stored before it was refused, or by a bulk write.
        headers=tuple(
            (name, text) for name, text in headers.items() if name.lower() not in secret_headers.REFUSED
        ),
        secrets=secret_headers.searched(credential, headers),
        api_version=row.api_version,
        connection=Connection(
            connect_timeout=row.connect_timeout,
            # The default of before says no more than a blank does.
            read_timeout=None if row.read_timeout == OLD_READ_TIMEOUT else row.read_timeout,
            max_connections=row.max_connections,
            queue_timeout=row.queue_timeout,
            keep_alive=row.keep_alive,
            max_queue=row.max_queue,
            prewarm=row.prewarm,
            key_share=row.key_share_percent / 100,
            longest_answer=row.max_answer_bytes,
        ),
        retries=row.retries,
        retry_delay=row.retry_delay,
        limit_owners=limit_owners_of(row),
        allow_caller_key=row.allow_caller_key,
        unhealthy=maintenance or (row.health_check_enabled and ill),
        refuse_when_unhealthy=maintenance or row.when_unhealthy == "refuse",
        maintenance=maintenance,
        unpaid=row.health_check_enabled and health is not None and health.mark == ProviderHealth.Mark.UNPAID,
        continues=row.continues,
        asks_usage=row.stream_usage == "ask" or (not row.stream_usage and row.dialect == Dialect.OPENAI),
        drains=row.when_abandoned == "drain",
        words=_words(row),
        self_hosted=is_self_hosted(row.base_url),
    )


def _words(row: Provider) -> Mapping[str, tuple[str, ...]]:
    found = {kind: _lines(getattr(row, f"words_{kind}")) for kind in WORD_KINDS}
    return MappingProxyType({kind: words for kind, words in found.items() if words})


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip().lower() for line in text.splitlines() if line.strip())


def _target(row: RouteTarget, provider: ProviderEntry, now: datetime) -> TargetEntry:
    return TargetEntry(
        id=row.pk,
        provider=provider,
        upstream_model=row.upstream_model,
        weight=row.weight,
        priority=row.priority,
        rank=rank_of(row.priority, row.weight),
        limit_owners=limit_owners_of(row) + provider.limit_owners,
        price=prices.price_of(row, now),
        tags=frozenset(texts(row.tags)),
        canary_share=None if row.canary_percent is None else row.canary_percent / 100,
        shadow_share=None if row.shadow_percent is None else row.shadow_percent / 100,
    )


def _route(
    row: ModelRoute,
    serving: list[TargetEntry],
    fallbacks: dict[str, list[int]],
    limit_owners: dict[int, tuple[LimitOwner, ...]],
) -> RouteEntry:
    texts(row.aliases)
    serving.sort(key=lambda target: (target.rank, -target.weight, target.id))
    targets = tuple(target for target in serving if target.shadow_share is None)
    reachable = (row.pk, *itertools.chain.from_iterable(fallbacks.values()))
    applying = [owner for route in reachable for owner in limit_owners.get(route, ())]
    return RouteEntry(
        id=row.pk,
        name=row.name,
        strategy=_strategy(row),
        deadline=row.deadline,
        max_messages=row.max_messages,
        default_parameters=tuple(
            (name, msgspec.json.encode(value)) for name, value in row.default_parameters.items()
        ),
        answer_tokens=_answer_limit(row) or row.max_output_tokens,
        limits_answers=_answer_limit(row) is not None,
        limit_owners=limit_owners_of(row),
        limited=bool(applying),
        budgeted=any(owner.budget is not None for owner in applying),
        over_limit_route=row.over_limit_route_id,
        targets=targets,
        shadows=tuple(
            target for target in serving if target.shadow_share is not None and not target.provider.fault
        ),
        max_attempts=row.max_attempts,
        attempt_timeout=row.attempt_timeout,
        first_byte_timeout=row.first_byte_timeout,
        stall_timeout=row.stall_timeout,
        wait_for_preferred=row.wait_for_preferred,
        hedge_after=None if row.hedge_after_ms is None else row.hedge_after_ms / 1000,
        on_cut=row.on_cut,
        fallbacks=tuple(fallbacks.get(FallbackKind.ERROR, ())),
        context_fallbacks=tuple(fallbacks.get(FallbackKind.CONTEXT, ())),
        policy_fallbacks=tuple(fallbacks.get(FallbackKind.POLICY, ())),
        created=int(row.created_at.timestamp()),
        tagged=any(target.tags for target in serving),
        content=CONTENT_LEVELS[row.content_log],
        canaries=any(target.canary_share is not None for target in targets),
    )


def _strategy(row: ModelRoute) -> str:
    if row.strategy in strategies.STRATEGIES:
        return row.strategy
    logger.error("route %s: there is no strategy %r, using %s", row.name, row.strategy, strategies.DEFAULT)
    return strategies.DEFAULT


def _answer_limit(row: ModelRoute) -> int | None:
    """max_tokens as the route's default parameters say it."""
    said = [row.default_parameters.get(name) for name in ("max_completion_tokens", "max_tokens")]
    return max((tokens for tokens in said if isinstance(tokens, int) and tokens > 0), default=None)


def _names(routes: list[tuple[tuple[str, ...], RouteEntry]]) -> dict[str, Resolved]:
    aliases = {alias: Resolved(entry) for names, entry in routes for alias in names}
    names = {entry.name: Resolved(entry) for _, entry in routes if not entry.name.endswith("*")}
    return aliases | names


def _wildcards(routes: list[tuple[tuple[str, ...], RouteEntry]]) -> tuple[tuple[str, RouteEntry], ...]:
    found = [(entry.name[:-1], entry) for _, entry in routes if entry.name.endswith("*")]
    return tuple(sorted(found, key=lambda pair: -len(pair[0])))


def _upstream_models(routes: Any) -> dict[tuple[str, str], RouteEntry]:
    found: dict[tuple[str, str], RouteEntry] = {}
    for route in routes:
        for target in route.targets:
            found.setdefault((target.provider.slug, target.upstream_model), route)
    return found
