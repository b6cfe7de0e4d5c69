"""What LiteLLM's clients ask of a proxy about keys and spending, in LiteLLM's shapes."""

import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import QuerySet, Sum
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from monitoring.budgets.spending import shipped
from monitoring.request_log.models import NANO, RequestLog
from monitoring.usage.models import UsageHour
from monitoring.usage.report import Question, QuestionInvalid, question
from proxy.doors.authentication import caller_key
from proxy.doors.views import GatewayView
from proxy.errors import AccessForbidden, InvalidRequest
from routing.gateway_keys import digest
from routing.limit_owners import limit_owners_of
from routing.models import ApiKey
from routing.periods import Periods
from routing.table import Budget

MOST_ROWS = 1000
_DURATIONS = {"day": "1d", "week": "7d", "month": "30d"}
_KEY = OpenApiParameter(
    "key", str, description="The MASTER_KEY's holder may ask for any; others for their own"
)


def asked_key(request: Request, name: str) -> ApiKey | None:
    """The key that a parameter names, in plain text or by its SHA-256; None: the caller is the MASTER_KEY.

    Raises AccessForbidden for another's key, InvalidRequest for one that there is not.
    """
    caller, given = caller_key(request), request.query_params.get(name, "")
    keys = ApiKey.objects.select_related("team")
    if caller.id is None:
        if not given:
            return None
        found = keys.filter(key_hash__in=[given, digest(given).hex()]).first()
        if found is None:
            raise InvalidRequest(f"There is no such {name}.", param=name)
        return found
    own = keys.get(pk=caller.id)
    if given and own.key_hash not in (given, digest(given).hex()):
        raise AccessForbidden("A key may only ask about itself; the MASTER_KEY may ask about all.")
    return own


class KeyInfoView(GatewayView):
    @extend_schema(
        summary="A key's limits and spending, as LiteLLM tells them", parameters=[_KEY], responses=dict
    )
    def get(self, request: Request) -> Response:
        key = asked_key(request, "key")
        if key is None:
            raise InvalidRequest("Which key? The MASTER_KEY itself has no limits.", param="key")
        return Response({"key": key.key_hash, "info": _info(key)})


def _info(key: ApiKey) -> dict[str, Any]:
    return {
        "key_name": f"{key.prefix}...",
        "key_alias": key.name,
        **_spending(key),
        "models": list(key.allowed_routes.values_list("name", flat=True)),
        "team_id": key.team.slug if key.team else None,
        "rpm_limit": key.rpm,
        "tpm_limit": key.tpm,
        "max_parallel_requests": key.parallel,
        "expires": key.expires_at,
        "blocked": not key.enabled,
        "created_at": key.created_at,
        "metadata": {"tags": key.tags},
    }


def _spending(key: ApiKey) -> dict[str, Any]:
    """`spend` is what counts against `max_budget`, as at LiteLLM: of the budget's period, if it has one."""
    usage = UsageHour.objects.filter(key_id=key.pk, shadow=False)
    total = usage.aggregate(total=Sum("cost_nano_usd"))["total"] or 0
    owner = next(iter(limit_owners_of(key)), None)
    budget = owner.budget if owner is not None else None
    if owner is None or budget is None:
        return _spending_fields(total, total, None, (None, None))
    start, end = Periods().of(budget, time.time())
    spent = shipped(owner, start, end)
    return _spending_fields(total, spent, budget, (start, end))


def _spending_fields(
    total: int, spent: int, budget: Budget | None, period: tuple[float | None, float | None]
) -> dict[str, Any]:
    starts, resets = (None if at is None else datetime.fromtimestamp(at, UTC) for at in period)
    return {
        "spend": _usd(spent),
        "max_budget": None if budget is None else _usd(budget.limit_nano),
        "budget_duration": None if budget is None else _DURATIONS.get(budget.period),
        "budget_reset_at": resets,
        "budget_period": None if budget is None else budget.period,
        "budget_period_start": starts,
        "budget_left": None if budget is None else _usd(max(budget.limit_nano - spent, 0)),
        "total_spend": _usd(total),
    }


class SpendLogsView(GatewayView):
    @extend_schema(
        summary="Requests and what they cost, as LiteLLM tells them",
        description=f"The newest {MOST_ROWS:,}; with dates sums by day, unless summarize=false.",
        parameters=[
            OpenApiParameter("api_key", str, description=str(_KEY.description)),
            *(OpenApiParameter(name, str) for name in ("request_id", "start_date", "end_date", "summarize")),
        ],
        responses=dict,
    )
    def get(self, request: Request) -> Response:
        key, given = asked_key(request, "api_key"), request.query_params
        rows = RequestLog.objects.all() if key is None else RequestLog.objects.filter(key_id=key.pk)
        if given.get("request_id"):
            rows = rows.filter(request_id=given["request_id"])
        dated = bool(given.get("start_date") or given.get("end_date"))
        asked = _days(given, key)
        if dated and given.get("summarize", "true").lower() != "false":
            return Response(_by_day(asked))
        if dated:
            rows = rows.received(asked.start, asked.end)
        return Response([_row(row) for row in _newest(rows)])


def _newest(rows: QuerySet[RequestLog]) -> QuerySet[RequestLog]:
    return rows.order_by("-id")[:MOST_ROWS]


def _days(given: Any, key: ApiKey | None) -> Question:
    days = {"from": given.get("start_date", ""), "to": given.get("end_date", "")}
    names = {"from": "start_date", "to": "end_date"}
    try:
        return question(days, today=timezone.now().date(), key_id=key.pk if key else None)
    except QuestionInvalid as error:
        message = str(error).replace("from ", "start_date ", 1).replace("to ", "end_date ", 1)
        raise InvalidRequest(message, param=names.get(error.field)) from error


def _by_day(asked: Question) -> list[dict[str, Any]]:
    usage = UsageHour.objects.filter(hour__gte=asked.start, hour__lt=asked.end)
    if asked.key_id is not None:
        usage = usage.filter(key_id=asked.key_id)
    spend: dict[str, Any] = defaultdict(lambda: (defaultdict(int), defaultdict(int)))
    names = ("hour", "route", "key_name", "cost_nano_usd")
    for hour, route, key_name, cost in usage.values_list(*names).iterator():
        models, users = spend[hour.astimezone(UTC).date().isoformat()]
        models[route] += cost
        users[key_name] += cost
    return [
        {
            "startTime": day,
            "spend": _usd(sum(models.values())),
            "models": {name: _usd(cost) for name, cost in models.items()},
            "users": {name: _usd(cost) for name, cost in users.items()},
        }
        for day, (models, users) in sorted(spend.items())
    ]


def _row(row: RequestLog) -> dict[str, Any]:
    given, made = row.input_tokens or 0, row.output_tokens or 0
    return {
        "request_id": row.request_id,
        "api_key": row.key_name,
        "call_type": row.endpoint,
        "spend": None if row.cost_nano_usd is None else _usd(row.cost_nano_usd),
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "startTime": row.received_at,
        "endTime": row.received_at + timedelta(milliseconds=row.total_ms or 0.0),
        "model": row.upstream_model,
        "model_group": row.route,
        "model_id": None if row.target_id is None else str(row.target_id),
        "custom_llm_provider": row.provider,
        "team_id": row.team or None,
        "request_tags": row.tags,
        "status": "success" if row.outcome == RequestLog.Outcome.ANSWERED else "failure",
    }


def _usd(nano: int) -> float:
    """LiteLLM's clients expect a number."""
    return float(Decimal(nano) / NANO)
