"""What the database of a release holds, of every kind: run in a gateway's own environment by release_dump."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from tests.factories import make_fallback, make_key, make_provider, make_route, make_target, make_team
from tests.release import HEADER_KEY, KEYS, PROVIDER_KEY

PRICES = {"input_price": Decimal(2), "output_price": Decimal(8), "cached_input_price": Decimal("0.5")}
DAYS = 6


def configure(upstream: str) -> None:
    """`upstream` is the address of the scripted provider: each provider's name is the path's first part."""
    providers = _providers(upstream)
    routes = _routes(providers)
    _callers(routes)
    _gateway(upstream, providers["main"])


def _providers(upstream: str) -> dict[str, Any]:
    main = make_provider(
        slug="main",
        base_url=f"{upstream}/main/v1",
        api_key=PROVIDER_KEY,
        extra_headers={"x-api-key": HEADER_KEY, "x-team": "search"},
        budget_usd=Decimal(1000),
        budget_period="month",
        rpm=100_000,
    )
    spare = make_provider(slug="spare", base_url=f"{upstream}/spare/v1", api_key=PROVIDER_KEY, dialect="zai")
    down = make_provider(slug="down", base_url="http://127.0.0.1:9/v1", health_interval=5, retries=0)
    return {"main": main, "spare": spare, "down": down}


def _routes(providers: dict[str, Any]) -> dict[str, Any]:
    main, spare, down = providers["main"], providers["spare"], providers["down"]
    gpt = make_route(name="gpt", aliases=["gpt-4", "best"], content_log="full", max_messages=100)
    make_target(route=gpt, provider=main, upstream_model="gpt-4o-mini", weight=3, **PRICES)
    make_target(route=gpt, provider=spare, upstream_model="glm-4-flash", priority=2, **PRICES)
    open_route = make_route(name="open/*", default_parameters={"temperature": 0.5}, budget_usd=Decimal(500))
    make_target(route=open_route, provider=main, upstream_model="*", **PRICES)
    fragile = make_route(name="fragile", max_attempts=3)
    make_target(route=fragile, provider=down, upstream_model="never", **PRICES)
    make_fallback(fragile, gpt)
    unpriced = make_route(name="unpriced", content_log="metadata")
    make_target(route=unpriced, provider=spare, upstream_model="nobody-knows-its-price")
    shadowed = make_route(name="shadowed", over_limit_route=gpt, on_cut="hold", hedge_after_ms=5000)
    make_target(route=shadowed, provider=main, upstream_model="gpt-4o", tags=["prod"], **PRICES)
    make_target(route=shadowed, provider=spare, upstream_model="glm-4-plus", shadow_percent=100, **PRICES)
    return {"gpt": gpt, "open": open_route}


def _callers(routes: dict[str, Any]) -> None:
    team = make_team(
        slug="search",
        rpm=100_000,
        budget_usd=Decimal(50),
        budget_period="day",
        time_zone="Europe/Berlin",
        tags=["prod"],
    )
    make_key(name="app", plaintext=KEYS["app"], team=team, budget_usd=Decimal(100), budget_period="week")
    make_key(name="free", plaintext=KEYS["free"])
    make_key(name="limited", plaintext=KEYS["limited"], rpm=2, tpm=100_000, parallel=5)
    make_key(name="restricted", plaintext=KEYS["restricted"], allowed_routes=[routes["gpt"]], restricted=True)
    make_key(name="prepaid", plaintext=KEYS["prepaid"], budget_usd=Decimal(5))
    make_key(name="revoked", plaintext=KEYS["revoked"], enabled=False)
    make_key(name="expired", plaintext=KEYS["expired"], expires_at=datetime(2020, 1, 1, tzinfo=UTC))


def _gateway(upstream: str, provider: Any) -> None:
    from monitoring.models import AlertChannel, AlertRule
    from monitoring.reports.models import ScheduledReport
    from routing.models import GatewaySettings, MaintenanceWindow

    # Whenever the dump is loaded: none of its rows is too old.
    GatewaySettings.objects.create(
        pk=1, log_days=3650, content_days=3650, content_patterns=["[0-9]{3}-[0-9]{4}"]
    )
    hook = AlertChannel(name="hook", kind="webhook", target=f"{upstream}/hook/v1", secret="signs-webhooks")
    mail = AlertChannel(name="mail", kind="email", target="ops@example.com", secret="", enabled=False)
    for channel in (hook, mail):
        channel.save()
    AlertRule.objects.filter(kind="provider_down").update(remind_minutes=0)
    AlertRule.objects.get(kind="provider_down").channels.add(hook)
    ended = timezone.now() - timedelta(days=1)
    MaintenanceWindow.objects.create(
        provider=provider, starts_at=ended - timedelta(hours=1), ends_at=ended, reason="moved"
    )
    report = ScheduledReport.objects.create(
        name="teams", period="day", hour=0, created_at=ended - timedelta(days=9)
    )
    report.channels.add(hook)


def fill_days() -> None:
    """Calls of earlier days by the same keys, and what the periods of budgets then say."""
    from monitoring.budgets import periods
    from monitoring.request_log.generating import calls
    from monitoring.retention import partitions
    from monitoring.shipping.storing import store
    from routing.models import ApiKey, RouteTarget

    keys = list(ApiKey.objects.filter(name__in=["app", "prepaid"]).select_related("team"))
    target = RouteTarget.objects.select_related("route", "provider").get(upstream_model="gpt-4o-mini")
    now = timezone.now()
    if partitions.in_use():
        partitions.make(now.date() - timedelta(days=number) for number in range(DAYS + 2))
    made = []
    for number, call in enumerate(calls(400, DAYS, now - timedelta(hours=2))):
        if call.key_id is not None:
            key = keys[number % len(keys)]
            call.key_id, call.key_name, call.team = key.pk, key.name, key.team.slug if key.team else ""
        if call.target_id is not None:
            call.route, call.target_id = target.route.name, target.pk
            call.provider, call.upstream_model = target.provider.slug, target.upstream_model
        made.append(call)
    store(made)
    for days in range(DAYS, -1, -1):
        periods.update(now - timedelta(days=days))


def finish() -> None:
    """What admins and the worker leave behind."""
    from monitoring.content.models import ContentAccess
    from monitoring.models import Alert, Incident, Repricing, RequestLog, TrafficFault
    from monitoring.pricing import repricing
    from monitoring.reports import sending
    from monitoring.usage import rollups
    from routing.models import Provider

    admin = get_user_model().objects.get(username="admin")
    now = timezone.now()
    rollups.roll_up()
    sending.tick(now)
    looked_at = RequestLog.objects.filter(route="gpt").first()
    assert looked_at is not None
    ContentAccess.objects.create(user=admin, username="admin", address="127.0.0.1", request=looked_at.pk)
    kind = ContentType.objects.get_for_model(Provider)
    LogEntry.objects.create(
        user=admin,
        content_type=kind,
        object_id="1",
        object_repr="main",
        action_flag=CHANGE,
        change_message="[]",
    )
    Incident.objects.create(
        title="Slow answers",
        note="Mended.",
        started_at=now - timedelta(hours=5),
        ended_at=now,
        routes=["gpt"],
    )
    TrafficFault.objects.get_or_create(
        provider=Provider.objects.get(slug="down"), defaults={"since": now, "seen_at": now}
    )
    Alert.objects.filter(rule__kind="provider_down").update(acknowledged_at=now, acknowledged_by=admin)
    Repricing.objects.create(
        provider="spare", upstream_model="nobody-knows-its-price", price="input 1, output 2", asked_by="admin"
    )
    repricing.run_all()
    assert Repricing.objects.get().requests, "no request got a price"
    rollups.roll_up()
