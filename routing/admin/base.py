"""What the admin pages share: actions, links, badges, form fields."""

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import model_ngettext
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminTextareaWidget

NOTHING = "—"
MONOSPACE = "font-family: ui-monospace, monospace"


class PlainNumberWidget(UnfoldAdminDecimalFieldWidget):
    """0.15, not 0.150000."""

    def format_value(self, value: Any) -> Any:
        text = super().format_value(value)
        if text is None or not re.fullmatch(r"-?\d+\.\d+", text):
            return text
        return text.rstrip("0").rstrip(".")


PLAIN_NUMBERS = {field: {"widget": PlainNumberWidget} for field in (models.DecimalField, models.FloatField)}


class SwitchAdmin(ModelAdmin):
    """An admin of rows that can be switched on and off."""

    formfield_overrides = PLAIN_NUMBERS
    compressed_fields = False
    actions: tuple[str, ...] = ("enable", "disable")
    empty_value_display = NOTHING
    list_per_page = 50
    warn_unsaved_form = True

    @admin.action(description="Enable selected %(verbose_name_plural)s", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.switch(request, queryset, enabled=True)

    @admin.action(description="Disable selected %(verbose_name_plural)s", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.switch(request, queryset, enabled=False)

    def switch(self, request: HttpRequest, queryset: QuerySet[Any], *, enabled: bool, done: str = "") -> None:
        with transaction.atomic():
            rows = list(queryset)
            count = queryset.update(enabled=enabled, **_touched(self.model))
            record(request, rows, CHANGE, [{"changed": {"fields": ["Enabled"]}}])
        done = done or ("enabled" if enabled else "disabled")
        self.message_user(request, f"{count} {model_ngettext(self.opts, count)} {done}.", messages.SUCCESS)


def record(request: HttpRequest, rows: list[Any], flag: int, message: Any) -> None:
    """In the history of each row."""
    assert request.user.pk is not None  # the admin asks for a login first
    LogEntry.objects.log_actions(request.user.pk, rows, flag, change_message=message)


def _touched(model: type[models.Model]) -> dict[str, Any]:
    """The auto_now columns, which update() leaves alone."""
    return {field.name: timezone.now() for field in model._meta.fields if getattr(field, "auto_now", False)}


def link(url: str, text: Any, title: str = "") -> SafeString:
    return format_html('<a class="text-link whitespace-nowrap" href="{}" title="{}">{}</a>', url, title, text)


def change_url(row: models.Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def change_link(row: models.Model, text: Any = None) -> SafeString:
    return link(change_url(row), row if text is None else text)


def list_url(name: str, **filters: Any) -> str:
    """Of the list `app_model`, filtered; empty where that app has no admin."""
    try:
        return f"{reverse(f'admin:{name}_changelist')}?{urlencode(filters)}"
    except NoReverseMatch:
        return ""


def badge(text: Any, kind: str = "", title: str = "") -> SafeString:
    """kind: success, warning, danger, info, or blank for grey."""
    return render_to_string(
        "unfold/helpers/label.html", {"text": text, "type": kind, "label_title": title, "size": "md"}
    )


def lines(parts: Iterable[Any]) -> SafeString:
    return format_html_join("", '<div class="whitespace-nowrap">{}</div>', ((part,) for part in parts))


def nowrap(text: Any, title: str = "") -> SafeString:
    return format_html('<span class="whitespace-nowrap" title="{}">{}</span>', title, text)


def utc(moment: datetime | None) -> str:
    return NOTHING if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def limits_text(row: Any) -> SafeString:
    shown = ((row.rpm, "rpm"), (row.tpm, "tpm"), (row.parallel, "parallel"))
    parts = [f"{limit:,} {unit}" for limit, unit in shown if limit is not None]
    if row.budget_usd is not None:
        parts.append(f"{usd(row.budget_usd)} USD {row.budget_period}")
    return lines(parts) or nowrap(NOTHING)


def usd(amount: Decimal) -> str:
    """1,234.50, with more decimals only where there are any."""
    whole, _, part = f"{amount:,.9f}".rstrip("0").partition(".")
    return f"{whole}.{part:0<2}"


class JsonObjectField(forms.JSONField):
    """A JSON object as text; blank is an empty one. Says where the text stops being JSON."""

    def __init__(self, *, example: str, **options: Any) -> None:
        self.example = example
        widget = UnfoldAdminTextareaWidget({"rows": 4, "style": MONOSPACE, "spellcheck": "false"})
        super().__init__(required=False, widget=widget, **options)

    def to_python(self, value: Any) -> Any:
        if value is None or (isinstance(value, str) and not value.strip()):
            return {}
        if isinstance(value, str):
            self._check(value)
        return super().to_python(value)

    def _check(self, text: str) -> None:
        allowed = f"Allowed is a JSON object, for example {self.example}."
        try:
            found = json.loads(text, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise ValidationError(f"Not valid JSON at {where}: {error.msg}. {allowed}") from None
        except _NotJson as error:
            raise ValidationError(f"{error} is not a JSON value. {allowed}") from None
        if not isinstance(found, dict):
            raise ValidationError(allowed)

    def prepare_value(self, value: Any) -> Any:
        if value in ({}, None):
            return ""
        if isinstance(value, dict | list):
            return json.dumps(value, indent=2, ensure_ascii=False)
        return super().prepare_value(value)


class _NotJson(ValueError):
    pass


def _refuse_constant(name: str) -> None:
    raise _NotJson(name)  # NaN and Infinity, which Python reads and databases refuse


class NamesField(forms.Field):
    """A list of names, one on each line. A JSON list is taken too."""

    def __init__(self, *, check_each: Callable[[str], Any] | None = None, **options: Any) -> None:
        self.check_each = check_each
        widget = UnfoldAdminTextareaWidget({"rows": 3, "style": MONOSPACE, "spellcheck": "false"})
        super().__init__(required=False, widget=widget, **options)

    def to_python(self, value: Any) -> list[Any]:
        if isinstance(value, list):
            return value
        text = str(value or "").strip()
        if text.startswith("["):
            return self._from_json(text)
        return [line.strip() for line in text.splitlines() if line.strip()]

    def _from_json(self, text: str) -> list[Any]:
        try:
            names = json.loads(text)
        except json.JSONDecodeError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValidationError('Allowed are names, one on each line, or a JSON list such as ["a", "b"].')
        return names

    def validate(self, value: Any) -> None:
        for name in value if self.check_each else ():
            try:
                self.check_each(name)  # type: ignore[misc]
            except ValidationError as error:
                raise ValidationError(f"{name}: {' '.join(error.messages)}") from None

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list) else value


class TagsField(NamesField):
    """Of a model's field `tags`, with that field's help text."""

    def __init__(self, model: type[models.Model]) -> None:
        help_text = str(model._meta.get_field("tags").help_text)  # type: ignore[union-attr]
        super().__init__(help_text=f"{help_text} One on each line.")


class ReadOnlyAdmin(ModelAdmin):
    empty_value_display = NOTHING

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
