"""Scheduled reports in the admin: what is sent to whom, and what became of it."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from monitoring.alerts.admin import STATUS_KIND
from monitoring.alerts.channels import FILE_KINDS
from monitoring.alerts.models import AlertChannel
from monitoring.reports.due import last_period
from monitoring.reports.models import ReportDelivery, ScheduledReport
from monitoring.reports.sending import send_now
from routing.admin.base import NOTHING, PLAIN_NUMBERS, ReadOnlyAdmin, badge


class ReportForm(forms.ModelForm):
    def clean_channels(self) -> Any:
        chosen = self.cleaned_data["channels"]
        if wrong := [channel.name for channel in chosen if channel.kind not in FILE_KINDS]:
            raise ValidationError(f"{', '.join(wrong)}: allowed are channels for e-mail and webhooks.")
        if wrong := [channel.name for channel in chosen if channel.purpose == AlertChannel.Purpose.ALERTS]:
            raise ValidationError(f"{', '.join(wrong)}: for alerts only, as its channel says.")
        return chosen

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        by_mail = [one for one in cleaned.get("channels", ()) if one.kind == AlertChannel.Kind.EMAIL]
        if by_mail and cleaned.get("group_by") == ScheduledReport.Grouping.REQUEST:
            self.add_error("channels", "Each request: allowed are webhooks only, the file may be large.")
        return cleaned


@admin.register(ScheduledReport)
class ScheduledReportAdmin(ModelAdmin):
    form = ReportForm
    list_display = ("name", "period", "group_by", "format", "last_delivery", "enabled")
    fields = (("name", "enabled"), ("period", "hour"), ("group_by", "format"), "team", "channels")
    filter_horizontal = ("channels",)
    formfield_overrides = PLAIN_NUMBERS
    actions = ("send_now",)
    compressed_fields = False

    @admin.action(description="Send selected reports now, of their last period", permissions=["change"])
    def send_now(self, request: HttpRequest, queryset: QuerySet[ScheduledReport]) -> None:
        for report in queryset[:10]:
            problems = send_now(report, *last_period(report.period, timezone.now().date()))
            text = f"{report.name}: {'; '.join(problems) or 'sent'}."
            self.message_user(request, text, messages.ERROR if problems else messages.SUCCESS)

    @display(description="Last delivery")
    def last_delivery(self, report: ScheduledReport) -> Any:
        last = report.deliveries.first()
        return _status(last) if last else NOTHING


def _status(delivery: ReportDelivery) -> SafeString:
    return badge(delivery.status, STATUS_KIND.get(delivery.status, ""), delivery.last_error)


@admin.register(ReportDelivery)
class ReportDeliveryAdmin(ReadOnlyAdmin):
    list_display = (
        "created_at",
        "report",
        "channel",
        "first",
        "last",
        "shown_status",
        "attempts",
        "sent_at",
        "last_error",
    )
    list_filter = ("status", "report", "channel")
    list_select_related = ("report", "channel")

    @display(description="Status")
    def shown_status(self, delivery: ReportDelivery) -> SafeString:
        return _status(delivery)
