"""Pages of the request log in the admin: by key, so that the last page costs what the first does."""

import uuid
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from unfold.contrib.filters.admin import RangeDateFilter
from unfold.views import ChangeList

OLDER, NEWER = "older_than", "newer_than"
"""Parameters: the id that the page begins after."""


class ReceivedFilter(RangeDateFilter):
    """Whole days (UTC), the last one included."""

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Any]:
        first, last = (self._day(f"received_at_{end}") for end in ("from", "to"))
        if first is None and last is None:
            return queryset
        start = first or datetime(1970, 1, 2, tzinfo=UTC)
        return queryset.received(start, (last or datetime(9998, 1, 1, tzinfo=UTC)) + timedelta(days=1))

    def _day(self, name: str) -> datetime | None:
        """Midnight, as it begins."""
        text = str(self.used_parameters.get(name) or "")
        try:
            return datetime.combine(datetime.fromisoformat(text).date(), time(), UTC) if text else None
        except ValueError:
            raise IncorrectLookupParameters(name) from None


class LogPaginator(Paginator):
    """Counts nothing; the change list knows its page by key."""

    template_name = "admin/monitoring/requestlog/pages.html"

    @cached_property
    def count(self) -> int:
        return 10**9


class LogChangeList(ChangeList):
    """The urls of the page's neighbours are empty where there are none."""

    def __init__(self, request: HttpRequest, *args: Any, **options: Any) -> None:
        given = request.GET.copy()
        # Taken out: they are no filters, and links to other filters begin at the first page.
        self._older, self._newer = (_key(name, given.pop(name, [""])[-1]) for name in (OLDER, NEWER))
        request.GET = given  # type: ignore[assignment]
        super().__init__(request, *args, **options)

    def get_results(self, request: HttpRequest) -> None:
        size = self.list_per_page
        rows, more = self._page(size)
        self.result_list = rows
        has_newer = bool(self._older) or (bool(self._newer) and more)
        has_older = bool(rows) and (more if not self._newer else True)
        self.newest_url = self._url({}) if has_newer else ""
        self.newer_url = self._url({NEWER: rows[0].pk}) if has_newer and rows else ""
        self.older_url = self._url({OLDER: rows[-1].pk}) if has_older else ""
        self.paginator = self.model_admin.get_paginator(request, self.queryset, size)
        self.result_count = self.full_result_count = len(rows)
        self.show_full_result_count = False
        self.show_admin_actions = bool(rows)
        self.can_show_all, self.multi_page = False, True

    def _page(self, size: int) -> tuple[list[Any], bool]:
        """(the page's rows, newest first; whether there are more in that direction)."""
        if self._newer:
            found = list(self.queryset.filter(id__gt=self._newer).order_by("id")[: size + 1])
            return found[:size][::-1], len(found) > size
        rows = self.queryset.filter(id__lt=self._older) if self._older else self.queryset
        found = list(rows[: size + 1])
        return found[:size], len(found) > size

    def _url(self, page: dict[str, Any]) -> str:
        url: str = self.get_query_string(page)
        return url


def _key(name: str, text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        raise IncorrectLookupParameters(name) from None
