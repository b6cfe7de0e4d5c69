"""Alerts in the admin: whom to tell, about what, what is wrong now, and what was told."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldBooleanSwitchWidget

from monitoring.alerts.delivering import send_test
from monitoring.alerts.models import Alert, AlertChannel, AlertDelivery, AlertRule
from monitoring.alerts.rules import THRESHOLDS
from routing.addresses import AddressRefused, for_channels, origin
from routing.admin.base import NOTHING, PLAIN_NUMBERS, ReadOnlyAdmin, badge, nowrap, record, utc
from routing.credentials import CredentialUnreadable
from routing.models.fields import validate_url

STATUS_KIND = {"sent": "success", "pending": "warning", "failed": "danger"}


class ChannelForm(forms.ModelForm):
    new_target = forms.CharField(
        label="Address",
        required=False,
        max_length=2000,
        widget=UnfoldAdminPasswordWidget({"autocomplete": "off"}),
        help_text="The webhook's URL, or e-mail addresses separated by commas. Stored encrypted and never "
        "shown again. Blank: the stored one stays.",
    )
    new_secret = forms.CharField(
        label="Signing secret",
        required=False,
        max_length=200,
        widget=UnfoldAdminPasswordWidget({"autocomplete": "new-password"}),
        help_text="Webhooks only: signs each message. Blank: the stored one stays.",
    )
    clear_secret = forms.BooleanField(
        label="Clear the stored signing secret",
        required=False,
        widget=UnfoldBooleanSwitchWidget(),
        help_text="Messages are then not signed.",
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "purpose" in self.fields:
            self.fields["purpose"].required = False  # left out: what the row has
            if self.instance.pk is None:
                self.initial["purpose"] = AlertChannel.Purpose.ALERTS

    def clean_purpose(self) -> str:
        purpose: str = self.cleaned_data["purpose"] or self.instance.purpose
        if purpose == AlertChannel.Purpose.ALERTS and self.instance.pk is not None:
            reports = self.instance.scheduledreport_set.values_list("name", flat=True)
            if names := ", ".join(reports):
                raise ValidationError(f"These reports are sent there, so reports must be allowed: {names}.")
        return purpose

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        target = cleaned.get("new_target", "").strip()
        if not target and (self.instance.pk is None or "kind" in self.changed_data):
            self.add_error("new_target", "An address is needed.")
        elif target:
            _check(cleaned.get("kind", ""), target, self)
            self._check_move(cleaned, target)
        if cleaned.get("new_secret") and cleaned.get("clear_secret"):
            self.add_error("clear_secret", "Allowed is either a new secret or clearing the stored one.")
        return cleaned

    def _check_move(self, cleaned: dict[str, Any], target: str) -> None:
        """Whoever may edit the address must not have messages signed for a host of theirs."""
        typed_anew = cleaned.get("new_secret") or cleaned.get("clear_secret")
        if self.instance.encrypted_secret and not typed_anew and _moved(self.instance, target):
            self.add_error(
                "new_secret",
                "The address has another scheme, host or port: type the secret anew, or clear it.",
            )

    def save(self, commit: bool = True) -> AlertChannel:
        if target := self.cleaned_data.get("new_target", "").strip():
            self.instance.target = target
        if secret := self.cleaned_data.get("new_secret"):
            self.instance.secret = secret
        elif self.cleaned_data.get("clear_secret"):
            self.instance.secret = ""
        channel: AlertChannel = super().save(commit)
        return channel


def _moved(channel: AlertChannel, target: str) -> bool:
    try:
        return origin(channel.target) != origin(target)
    except (CredentialUnreadable, ValueError):
        return True  # nobody knows where it was


def _check(kind: str, target: str, form: forms.Form | forms.ModelForm) -> None:
    try:
        if kind == AlertChannel.Kind.EMAIL:
            for address in target.split(","):
                validate_email(address.strip())
        else:
            validate_url(target, "Allowed are an http or https URL, or e-mail addresses for e-mail.")
            for_channels().check_url(target)
    except ValidationError:
        form.add_error("new_target", "Allowed are an http or https URL, or e-mail addresses for e-mail.")
    except AddressRefused as why:
        form.add_error("new_target", f"{why}. docs/settings.md says what CHANNEL_NETWORKS opens.")


@admin.register(AlertChannel)
class AlertChannelAdmin(ModelAdmin):
    form = ChannelForm
    list_display = ("name", "kind", "purpose", "last_delivery", "enabled")
    fields = (("name", "kind", "purpose"), "new_target", ("new_secret", "clear_secret"), "enabled")
    actions = ("send_a_test",)
    compressed_fields = False

    @admin.action(description="Send a test to selected alert channels", permissions=["change"])
    def send_a_test(self, request: HttpRequest, queryset: QuerySet[AlertChannel]) -> None:
        for channel in queryset[:10]:
            problem = send_test(channel)
            text = f"{channel.name}: {problem or 'the test was taken'}."
            self.message_user(request, text, messages.ERROR if problem else messages.SUCCESS)

    @display(description="Last delivery")
    def last_delivery(self, channel: AlertChannel) -> Any:
        last = channel.deliveries.first()
        return _delivery(last) if last else NOTHING


def _delivery(delivery: AlertDelivery) -> SafeString:
    return badge(delivery.status, STATUS_KIND.get(delivery.status, ""), delivery.last_error)


@admin.register(AlertRule)
class AlertRuleAdmin(ModelAdmin):
    list_display = ("kind", "shown_threshold", "steps", "remind_minutes", "enabled")
    fields = (("kind", "threshold", "steps"), ("remind_minutes", "enabled"), "channels")
    readonly_fields = ("kind",)
    filter_horizontal = ("channels",)
    formfield_overrides = PLAIN_NUMBERS
    compressed_fields = False

    @display(description="Threshold", ordering="threshold")
    def shown_threshold(self, rule: AlertRule) -> str:
        return f"{rule.threshold:,g}" if rule.kind in THRESHOLDS else NOTHING

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # there is one of each kind

    def has_delete_permission(self, request: HttpRequest, obj: AlertRule | None = None) -> bool:
        return False


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = ("summary", "rule", "shown_state", "shown_start", "shown_end", "acknowledged_by")
    list_filter = ("rule",)
    list_select_related = ("rule", "acknowledged_by")
    actions = ("acknowledge",)

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("monitoring.change_alert")

    @admin.action(description="Acknowledge selected alerts: no more reminders", permissions=["acknowledge"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        fresh = list(queryset.filter(acknowledged_at=None, ended_at=None))
        ids = [alert.pk for alert in fresh]
        Alert.objects.filter(pk__in=ids).update(
            acknowledged_at=timezone.now(), acknowledged_by=request.user.pk
        )
        if fresh:
            record(request, fresh, CHANGE, "Acknowledged.")
        self.message_user(request, f"{len(fresh)} alerts acknowledged.", messages.SUCCESS)

    @display(description="From (UTC)", ordering="started_at")
    def shown_start(self, alert: Alert) -> SafeString:
        return nowrap(utc(alert.started_at))

    @display(description="Until (UTC)", ordering="ended_at")
    def shown_end(self, alert: Alert) -> SafeString:
        return nowrap(utc(alert.ended_at))

    @display(description="State")
    def shown_state(self, alert: Alert) -> SafeString:
        if alert.ended_at is not None:
            return badge("over", "success")
        return badge("acknowledged", "info") if alert.acknowledged_at else badge("open", "danger")


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnlyAdmin):
    list_display = ("shown_time", "channel", "event", "summary", "shown_status", "attempts", "last_error")
    list_filter = ("status", "channel")
    list_select_related = ("channel",)

    @display(description="At (UTC)", ordering="created_at")
    def shown_time(self, delivery: AlertDelivery) -> SafeString:
        return nowrap(utc(delivery.created_at))

    @display(description="Status")
    def shown_status(self, delivery: AlertDelivery) -> SafeString:
        return _delivery(delivery)
