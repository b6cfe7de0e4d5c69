"""Logged content in the admin: on a page of its own, for those who may, and never unseen."""

import json
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from monitoring.content.models import ContentAccess, RequestContent
from monitoring.content.storing import opened
from monitoring.request_log.models import RequestLog
from proxy.access.client_address import client_of
from routing.admin.base import NOTHING, ReadOnlyAdmin, link
from routing.credentials import CredentialUnreadable

PERMISSION = "monitoring.view_requestcontent"


def content_link(row: RequestLog) -> Any:
    """Whether there is content is no secret; what it says is."""
    if not RequestContent.objects.filter(pk=row.pk).exists():
        return NOTHING
    return link(
        reverse("admin:monitoring_requestlog_content", args=[row.pk]), "Show", "Noted under your name"
    )


def content_view(page: ModelAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    if not request.user.has_perm(PERMISSION):
        raise PermissionDenied
    try:
        row = RequestContent.objects.get(pk=object_id)
    except (RequestContent.DoesNotExist, ValueError):
        raise Http404("No content is kept of this request.") from None
    ContentAccess.objects.create(
        user_id=request.user.pk,
        username=request.user.get_username(),
        address=client_of(request),
        request=row.pk,
        key_name=row.key_name,
    )
    shown, problem = None, ""
    try:
        shown = opened(row)
    except CredentialUnreadable as error:
        problem = str(error)
    context = {
        **page.admin_site.each_context(request),
        "title": f"Content of request {row.pk}",
        "opts": page.opts,
        "row": row,
        "problem": problem,
        "facts": _text(row.facts),
        "parts": [(name.title(), _text(part)) for name, part in (shown or {}).items()],
    }
    return TemplateResponse(request, "admin/monitoring/requestlog/content.html", context)


def _text(part: Any) -> str:
    return part if isinstance(part, str) else json.dumps(part, indent=2, ensure_ascii=False)


@admin.register(ContentAccess)
class ContentAccessAdmin(ReadOnlyAdmin):
    list_display = ("at", "username", "address", "key_name", "shown_request")
    list_filter = ("username",)
    search_fields = ("=request", "key_name", "username")
    list_per_page = 50

    @display(description="Request")
    def shown_request(self, access: ContentAccess) -> SafeString:
        return link(reverse("admin:monitoring_requestlog_change", args=[access.request]), access.request)
