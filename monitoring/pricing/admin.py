"""The admin's page of unknown prices: what could not be priced, and a form that prices it."""

from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldBooleanWidget

from monitoring.pricing.models import Repricing
from monitoring.pricing.repricing import groups
from routing.admin.base import NOTHING, PlainNumberWidget, badge, link, list_url, record, utc
from routing.models import RouteTarget
from routing.models.route import PRICE_FIELDS
from routing.price import NANO, Price, usd
from routing.prices import price_of

MOST_JOBS = 20
_NEEDED = ("input_price", "output_price")


class PriceForm(forms.Form):
    """USD per million tokens of each class, and per request; blank parts cost what their whole does."""

    def __init__(self, *args: Any, targets: int, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in PRICE_FIELDS:
            column: Any = RouteTarget._meta.get_field(name)
            self.fields[name] = forms.DecimalField(
                label=name.removesuffix("_price").replace("_", " ").capitalize(),
                min_value=Decimal(0),
                max_digits=column.max_digits,
                decimal_places=column.decimal_places,
                required=name in _NEEDED,
                widget=PlainNumberWidget(),
            )
        if targets:
            self.fields["to_targets"] = forms.BooleanField(
                label=f"Also for calls to come, on the model's route targets ({targets})",
                required=False,
                initial=True,
                widget=UnfoldBooleanWidget(),
            )

    def price(self) -> Price:
        given = {name: self.cleaned_data[name] for name in PRICE_FIELDS}
        nano = {
            name.removesuffix("_price"): int(value * NANO)
            for name, value in given.items()
            if value is not None
        }
        return Price(**nano)  # type: ignore[arg-type] # the form needs the two that a price needs


def unpriced_view(page: ModelAdmin, request: HttpRequest) -> HttpResponse:
    if not page.has_view_permission(request):
        raise PermissionDenied
    provider, model = request.GET.get("provider", ""), request.GET.get("upstream_model", "")
    may_price = request.user.has_perm("monitoring.add_repricing")
    form = None
    if provider:
        if not may_price:
            raise PermissionDenied
        form = _form(request, provider, model)
        if request.method == "POST" and form.is_valid():
            return _priced(request, provider, model, form)
    context = {
        **page.admin_site.each_context(request),
        "title": "Unknown prices",
        "opts": page.opts,
        "form": form,
        "chosen": f"{provider}/{model}",
        "table": _table(may_price),
        "jobs": _jobs(),
    }
    return TemplateResponse(request, "admin/monitoring/unpriced.html", context)


def _targets(provider: str, model: str) -> Any:
    return RouteTarget.objects.filter(provider__slug=provider, upstream_model=model)


def _form(request: HttpRequest, provider: str, model: str) -> PriceForm:
    targets = _targets(provider, model).select_related("provider")
    count = targets.count() if request.user.has_perm("routing.change_routetarget") else 0
    target = targets.first()
    known = price_of(target) if target is not None else None
    initial = {name: _shown(known, name) for name in PRICE_FIELDS} if known else {}
    return PriceForm(request.POST if request.method == "POST" else None, initial=initial, targets=count)


def _shown(price: Price, field: str) -> str | None:
    nano = getattr(price, field.removesuffix("_price"))
    return usd(nano) if nano else None


def _priced(request: HttpRequest, provider: str, model: str, form: PriceForm) -> HttpResponse:
    with transaction.atomic():
        Repricing.objects.create(
            provider=provider,
            upstream_model=model,
            price=form.price().text,
            asked_by=request.user.get_username()[:150],
        )
        if form.cleaned_data.get("to_targets"):
            values = {name: form.cleaned_data[name] for name in PRICE_FIELDS}
            targets = list(_targets(provider, model))
            _targets(provider, model).update(**values)
            record(request, targets, CHANGE, [{"changed": {"fields": list(PRICE_FIELDS)}}])
    messages.success(
        request, f"The requests of {provider}/{model} are being priced: it begins within seconds."
    )
    return HttpResponseRedirect(reverse("admin:monitoring_unpriced"))


def _table(may_price: bool) -> dict[str, Any]:
    headers = ["Provider and model", "Requests", "Tokens in", "Tokens out", "First (UTC)", "Last (UTC)", ""]
    rows = []
    for group in groups():
        asked = urlencode({"provider": group["provider"], "upstream_model": group["upstream_model"]})
        name = f"{group['provider']}/{group['upstream_model']}"
        log = list_url("monitoring_requestlog", provider=group["provider"])
        rows.append(
            [
                link(log, name) if log else name,
                f"{group['requests']:,}",
                f"{group['given']:,}",
                f"{group['made']:,}",
                utc(group["first"]),
                utc(group["last"]),
                link(f"{reverse('admin:monitoring_unpriced')}?{asked}", "Set the price") if may_price else "",
            ]
        )
    return {"headers": headers, "rows": rows}


def _jobs() -> dict[str, Any]:
    headers = ["Asked (UTC)", "By", "Provider and model", "Price", "Requests", "Cost USD", "State"]
    rows = [
        [
            utc(job.asked_at),
            job.asked_by or NOTHING,
            f"{job.provider}/{job.upstream_model}",
            job.price,
            f"{job.requests:,}" + (f", {job.left_out:,} altered ones left out" if job.left_out else ""),
            usd(job.cost_nano_usd),
            badge("done", "success") if job.finished_at else badge("under way", "info"),
        ]
        for job in Repricing.objects.all()[:MOST_JOBS]
    ]
    return {"headers": headers, "rows": rows}
