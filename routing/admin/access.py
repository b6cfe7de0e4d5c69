"""Teams and API keys. A key's plaintext leaves in one answer and is kept nowhere."""

import re
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordWidget

from routing import gateway_keys
from routing.admin.base import (
    NOTHING,
    TagsField,
    badge,
    change_link,
    change_url,
    limits_text,
    link,
    list_url,
    nowrap,
    record,
    utc,
)
from routing.admin.budgets import LIMITS, BudgetAdmin, BudgetForm, budget_fieldset
from routing.models import ApiKey, Team


class TeamForm(BudgetForm):
    tags = TagsField(Team)


@admin.register(Team)
class TeamAdmin(BudgetAdmin):
    form = TeamForm
    list_display = ("slug", "name", "key_count", "limits", "enabled")
    list_filter = ("enabled",)
    search_fields = ("slug", "name")

    def get_fieldsets(self, request: HttpRequest, obj: Team | None = None) -> list[tuple[Any, Any]]:
        return [
            (None, {"fields": [("slug", "name"), "tags", "time_zone", "enabled"]}),
            LIMITS,
            budget_fieldset(obj),
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        keys = ApiKey.objects.filter(team=OuterRef("pk")).order_by().values("team")
        counted = Subquery(keys.annotate(number=Count("pk")).values("number"))
        return super().get_queryset(request).annotate(keys_total=Coalesce(counted, 0))

    @display(description="API keys", ordering="keys_total")
    def key_count(self, team: Any) -> SafeString:
        return link(
            list_url("routing_apikey", team__id__exact=team.pk), team.keys_total, "Show the team's keys"
        )

    @display(description="Limits")
    def limits(self, team: Team) -> SafeString:
        return limits_text(team)


class ApiKeyForm(BudgetForm):
    tags = TagsField(ApiKey)
    existing_key = forms.CharField(
        label="Existing key",
        required=False,
        max_length=1000,
        widget=UnfoldAdminPasswordWidget({"autocomplete": "new-password"}),
        help_text="To keep a key that apps already hold: its value, 20 characters or more. "
        "Blank: a new key is made and shown once after saving.",
    )

    def clean_existing_key(self) -> str:
        key: str = self.cleaned_data["existing_key"]
        if not key or self.instance.pk is not None:  # an edit keeps the key
            return ""
        if len(key) < gateway_keys.SHORTEST or not re.fullmatch(r"[!-~]+", key):
            raise ValidationError(
                f"Allowed are {gateway_keys.SHORTEST} or more printable ASCII characters without blanks."
            )
        if settings.MASTER_KEY and constant_time_compare(key, settings.MASTER_KEY):
            raise ValidationError("This is the MASTER_KEY: allowed are keys of their own.")
        if ApiKey.objects.filter(key_hash=gateway_keys.digest(key).hex()).exists():
            raise ValidationError("This key is already stored: each may be used once.")
        return key


@admin.register(ApiKey)
class ApiKeyAdmin(BudgetAdmin):
    form = ApiKeyForm
    list_display = (
        "name",
        "shown_prefix",
        "shown_team",
        "shown_routes",
        "limits",
        "shown_expiry",
        "enabled",
        "shown_use",
    )
    list_filter = ("enabled", "team", ("allowed_routes", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("team",)
    search_fields = ("name", "prefix", "team__slug")
    search_help_text = "Name, first characters or team"
    autocomplete_fields = ("team", "allowed_routes")
    readonly_fields = (
        "shown_prefix",
        "key_hash",
        "shown_use",
        "shown_creation",
        "shown_revocation",
        "related_links",
        "shown_spending",
    )
    actions = ("enable", "revoke", "regenerate_selected")
    actions_detail = ("regenerate",)

    @method_decorator(sensitive_post_parameters("existing_key"))
    def changeform_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        return super().changeform_view(request, *args, **options)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return super().get_queryset(request).prefetch_related("allowed_routes")

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> list[tuple[Any, Any]]:
        key_rows: list[Any] = ["existing_key"]
        if obj is not None:
            moments = ["shown_use", "shown_creation", *(["shown_revocation"] if obj.revoked_at else [])]
            key_rows = [("shown_prefix", *moments), "key_hash", "related_links"]
        return [
            (None, {"fields": [("name", "team"), "expires_at", "enabled"]}),
            ("Key", {"fields": key_rows}),
            ("Access", {"fields": ["allowed_routes", ("tags", "content_log")]}),
            LIMITS,
            budget_fieldset(obj),
        ]

    @sensitive_variables("plaintext")
    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if not change:
            brought = form.cleaned_data["existing_key"]
            plaintext = brought or gateway_keys.generate()
            obj.set_plaintext(plaintext)
            # For response_add below, in the same request; a key that was brought isn't shown.
            request.plaintext = "" if brought else plaintext  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: Any = None) -> HttpResponse:
        plaintext = request.plaintext  # type: ignore[attr-defined]
        if plaintext:
            return self._show_once(request, [(obj, plaintext)], "The API key was added.")
        return super().response_add(request, obj, post_url_continue)

    @admin.action(description="Revoke selected API keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self.switch(request, queryset, enabled=False, done="revoked")

    @admin.action(description="Regenerate selected API keys", permissions=["change"])
    def regenerate_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        if "confirmed" not in request.POST:
            return self._ask_to_regenerate(request, list(queryset))
        with transaction.atomic():
            keys = [key for key in queryset.select_for_update(of=("self",)) if _asked_for(request, key)]
            shown = [(key, gateway_keys.generate()) for key in keys]
            for key, plaintext in shown:
                key.set_plaintext(plaintext)
                key.last_used_at = None
            ApiKey.objects.bulk_update(keys, ["key_hash", "prefix", "last_used_at"])
            record(request, keys, CHANGE, "Regenerated.")
        if not shown:
            self.message_user(request, "Already regenerated: nothing was changed.", messages.WARNING)
            return None
        return self._show_once(request, shown, "Regenerated: the old value is refused from now on.")

    @action(description="Regenerate", url_path="regenerate", permissions=["change"], icon="autorenew")
    def regenerate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks only: what changes something is the POST of that page."""
        key = self.get_object(request, object_id)
        if key is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        return self._ask_to_regenerate(request, [key])

    def _ask_to_regenerate(self, request: HttpRequest, keys: list[ApiKey]) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Regenerate API keys",
            "opts": self.opts,
            "keys": [(key, _state(key)) for key in keys],
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "list_url": reverse("admin:routing_apikey_changelist"),
        }
        return TemplateResponse(request, "admin/routing/apikey/regenerate.html", context)

    def _show_once(self, request: HttpRequest, shown: list[tuple[ApiKey, str]], message: str) -> HttpResponse:
        """The answer to the POST itself, without a redirect.

        A message would wait for the next page in a signed, readable cookie or in the session's
        row, and come back with a stolen cookie, a backup, or a page that was never opened. This
        page is held by the browser only, which is told not to store it (the admin sends
        no-store); its script makes a reload fetch the key's page instead of posting again.
        """
        lists = reverse("admin:routing_apikey_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": "API key" if len(shown) == 1 else "API keys",
            "opts": self.opts,
            "message": message,
            "shown": shown,
            "list_url": lists,
            "add_url": reverse("admin:routing_apikey_add"),
            "next_url": change_url(shown[0][0]) if len(shown) == 1 else lists,
        }
        return TemplateResponse(request, "admin/routing/apikey/shown_once.html", context)

    @display(description="Key", ordering="prefix")
    def shown_prefix(self, key: ApiKey) -> SafeString:
        return nowrap(f"{key.prefix}…")

    @display(description="Team", ordering="team__slug")
    def shown_team(self, key: ApiKey) -> Any:
        return change_link(key.team) if key.team else NOTHING

    @display(description="Routes")
    def shown_routes(self, key: ApiKey) -> str:
        names = [route.name for route in key.allowed_routes.all()]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more if names else "all"

    @display(description="Limits")
    def limits(self, key: ApiKey) -> SafeString:
        return limits_text(key)

    @display(description="Expires (UTC)", ordering="expires_at")
    def shown_expiry(self, key: ApiKey) -> Any:
        if key.expires_at is None:
            return "never"
        if key.expires_at <= timezone.now():
            return badge("expired", "danger", f"{utc(key.expires_at)} UTC")
        return nowrap(utc(key.expires_at))

    @display(description="Last used (UTC)", ordering="last_used_at")
    def shown_use(self, key: ApiKey) -> SafeString:
        return nowrap(utc(key.last_used_at))

    @display(description="Created (UTC)")
    def shown_creation(self, key: ApiKey) -> SafeString:
        return nowrap(utc(key.created_at))

    @display(description="Revoked (UTC)")
    def shown_revocation(self, key: ApiKey) -> SafeString:
        return nowrap(utc(key.revoked_at))

    @display(description="Related")
    def related_links(self, key: ApiKey) -> SafeString:
        url = list_url("monitoring_requestlog", key_id=key.pk)
        return link(url, "Request log") if url else format_html(NOTHING)


def _state(key: ApiKey) -> str:
    """Stands for the key's present value, so that a page posted twice regenerates once."""
    return salted_hmac("routing.admin.regenerate", f"{key.pk}:{key.key_hash}").hexdigest()


def _asked_for(request: HttpRequest, key: ApiKey) -> bool:
    return _state(key) in request.POST.getlist("state")
