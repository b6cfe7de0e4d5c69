"""Usage over HTTP: for staff and the MASTER_KEY, and for a key its own."""

import csv
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from monitoring.usage import report as usage
from monitoring.usage.csv_cells import Line, safe
from monitoring.usage.request_export import COLUMNS, request_chunks
from proxy.doors.authentication import caller_key
from proxy.doors.views import GatewayView
from proxy.errors import InvalidRequest
from proxy.explain.views import MasterKeyAuthentication

PERMISSION = "monitoring.view_requestlog"
REQUESTS = "request"
PARAMETERS = [
    OpenApiParameter("group_by", str, description=f"{', '.join(usage.GROUPS)}; without: day"),
    OpenApiParameter(
        "from", str, description="First day, like 2026-01-01 (UTC); without: 29 days before `to`"
    ),
    OpenApiParameter("to", str, description="Last day, included; without: today"),
    *(OpenApiParameter(name, str, description=f"Only of this {name}") for name in usage.FILTERS),
]
FORMAT = OpenApiParameter(
    "format", str, description="json or csv; csv also takes group_by=request, one line per request"
)


class MayViewRequests(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        user: Any = request.user
        return bool(user and user.is_authenticated and user.is_staff and user.has_perm(PERMISSION))


class OneRenderer:
    """`format` is the view's own parameter, not the framework's."""

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        renderer = self.get_renderers()[0]  # type: ignore[attr-defined]
        return renderer, renderer.media_type


class UsageView(OneRenderer, APIView):
    authentication_classes = [MasterKeyAuthentication, SessionAuthentication]
    permission_classes = [MayViewRequests]

    @extend_schema(
        summary="Usage and cost by one dimension", parameters=[*PARAMETERS, FORMAT], responses=dict
    )
    def get(self, request: Request) -> Any:
        given = request.query_params.dict()
        form = given.get("format") or "json"
        if form not in ("json", "csv"):
            raise ValidationError({"format": f"format is {form!r}; allowed are json, csv."})
        each = given.get("group_by") == REQUESTS and form == "csv"
        try:
            asked = usage.question(given | ({"group_by": "day"} if each else {}), today=timezone.now().date())
        except usage.QuestionInvalid as error:
            raise ValidationError({error.field: str(error)}) from error
        if each:
            return _as_file(StreamingHttpResponse(_request_lines(asked), content_type="text/csv"), asked)
        if form == "csv":
            return _as_file(_csv_response(asked), asked)
        return Response(_content(asked))


class OwnUsageView(OneRenderer, GatewayView):
    """What the asking key itself used; every key may."""

    @extend_schema(summary="The key's own usage and cost", parameters=PARAMETERS, responses=dict)
    def get(self, request: Request) -> Response:
        key = caller_key(request)
        given = request.query_params.dict()
        given["key"] = "" if key.id is not None else key.name
        try:
            asked = usage.question(given, today=timezone.now().date(), key_id=key.id)
        except usage.QuestionInvalid as error:
            raise InvalidRequest(str(error), param=error.field) from error
        return Response(_content(asked))


def _content(asked: usage.Question) -> dict[str, Any]:
    return {
        "group_by": asked.group_by,
        "from": asked.first.isoformat(),
        "to": asked.last.isoformat(),
        "data": [line.shown() for line in usage.report(asked)],
        "total": usage.total(asked).shown(),
    }


def _csv_response(asked: usage.Question) -> HttpResponse:
    """As many lines as there are groups: nothing to stream."""
    response = HttpResponse(content_type="text/csv")
    writer = csv.DictWriter(response, usage.COLUMNS)
    writer.writeheader()
    writer.writerows(safe(line.shown()) for line in usage.report(asked))
    return response


def _as_file(response: Any, asked: usage.Question) -> Any:
    name = f"usage-{asked.first}-{asked.last}.csv"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


async def _request_lines(asked: usage.Question) -> AsyncIterator[str]:
    writer = csv.DictWriter(Line(), COLUMNS)
    yield writer.writeheader()
    chunks = request_chunks(asked)
    while (chunk := await sync_to_async(lambda: next(chunks, None))()) is not None:
        yield "".join(writer.writerow(row) for row in chunk)
