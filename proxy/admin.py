"""The live side of the routing admin: targets' state, their reset, and why a request goes where it goes."""

from datetime import UTC, datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import action
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from proxy.breaker.exchange import TargetView
from proxy.explain.explain import Candidate, Explanation, Question
from proxy.explain.live import Live, live, reset, target_views
from routing.admin.base import NOTHING, badge, change_url, lines, link, nowrap, record
from routing.admin.routes import ModelRouteAdmin
from routing.admin.targets import RouteTargetAdmin
from routing.compiled_keys import MASTER
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget
from routing.table import KeyEntry

_KINDS = {"closed": "success", "open": "danger", "rate limited": "warning"}
_TOLD = "Circuit closed for {}: it is tried again at once."
_NOBODY = "No web process could be told: none runs here, or Redis is away."

admin.site.unregister(ModelRoute)
admin.site.unregister(RouteTarget)


class ExplainForm(forms.Form):
    model = forms.CharField(
        max_length=200, widget=UnfoldAdminTextInputWidget(), help_text="As a caller sends it."
    )
    key_name = forms.ChoiceField(
        label="API key", required=False, widget=UnfoldAdminSelectWidget(), help_text="Whose request it is."
    )
    pasted_key = forms.CharField(
        label="or paste a key",
        required=False,
        max_length=1000,
        widget=UnfoldAdminPasswordWidget({"autocomplete": "off"}),
        help_text="Instead of choosing one. It is not stored.",
    )
    provider = forms.ChoiceField(
        required=False, widget=UnfoldAdminSelectWidget(), help_text="As in x-litellm-route."
    )
    tags = forms.CharField(
        required=False, widget=UnfoldAdminTextInputWidget(), help_text="As in x-litellm-tags: a, b."
    )
    session = forms.CharField(
        required=False, widget=UnfoldAdminTextInputWidget(), help_text="As in x-session-id."
    )
    stream = forms.BooleanField(
        required=False, widget=UnfoldBooleanSwitchWidget(), help_text="As for a stream."
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        keys = ApiKey.objects.values_list("name", flat=True)
        slugs = Provider.objects.values_list("slug", flat=True)
        self._offer("key_name", "MASTER_KEY (may do everything)", keys)
        self._offer("provider", "any", slugs)

    def _offer(self, name: str, nothing: str, names: Any) -> None:
        self.fields[name].choices = [("", nothing), *((one, one) for one in names)]  # type: ignore[attr-defined]

    def question(self, state: Live) -> Question:
        given = self.cleaned_data
        return Question(
            model=given["model"],
            key=_key(state, given["key_name"], given["pasted_key"]),
            provider=given["provider"],
            tags=given["tags"],
            session=given["session"],
            stream=given["stream"],
        )


def _key(state: Live, name: str, pasted: str) -> KeyEntry | None:
    if pasted:
        return state.key_of(pasted.strip())
    return state.key_named(name) if name else MASTER


@admin.register(ModelRoute)
class LiveModelRouteAdmin(ModelRouteAdmin):
    change_form_outer_after_template = "admin/proxy/live_targets.html"
    actions_list = ("to_explanation",)

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                "<int:route_id>/reset/<int:target_id>/",
                self.admin_site.admin_view(self.reset_view),
                name="routing_modelroute_reset",
            ),
            path(
                "explain/",
                self.admin_site.admin_view(self.explain_view),
                name="routing_modelroute_explain",
            ),
        ]
        return [*own, *super().get_urls()]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        live_targets: list[dict[str, Any]] = []
        if object_id is not None and request.method == "GET" and str(object_id).isdecimal():
            live_targets = _live_rows(int(object_id))
        context = {
            "live_targets": live_targets,
            "explain_url": reverse("admin:routing_modelroute_explain"),
            **(extra_context or {}),
        }
        return super().changeform_view(request, object_id, form_url, context)

    def reset_view(self, request: HttpRequest, route_id: int, target_id: int) -> HttpResponse:
        target = get_object_or_404(
            RouteTarget.objects.select_related("provider"), pk=target_id, route=route_id
        )
        if request.method != "POST" or not self.has_change_permission(request, target.route):
            raise PermissionDenied
        _reset(self, request, [target])
        return HttpResponseRedirect(reverse("admin:routing_modelroute_change", args=[route_id]))

    @action(description="Explain a request", url_path="to-explanation", icon="help")
    def to_explanation(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:routing_modelroute_explain"))

    @method_decorator(sensitive_post_parameters("pasted_key"))
    def explain_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = ExplainForm(request.POST if request.method == "POST" else None, initial=request.GET.dict())
        found = None
        if form.is_bound and form.is_valid():
            state = live()
            found = state.explain(form.question(state))
        context = {
            **self.admin_site.each_context(request),
            "title": "Explain a request",
            "opts": self.opts,
            "form": form,
            "found": found,
            "steps": _steps_table(found) if found else None,
            "targets": _targets_table(found) if found else None,
        }
        return TemplateResponse(request, "admin/proxy/explain.html", context)


@admin.register(RouteTarget)
class LiveRouteTargetAdmin(RouteTargetAdmin):
    actions = (*RouteTargetAdmin.actions, "reset_state")

    @admin.action(description="Reset the circuit of selected route targets", permissions=["change"])
    def reset_state(self, request: HttpRequest, queryset: QuerySet[RouteTarget]) -> None:
        _reset(self, request, list(queryset.select_related("provider", "route")))


def _reset(page: Any, request: HttpRequest, targets: list[RouteTarget]) -> None:
    told = [target for target in targets if reset(target.pk)]
    if told:
        record(request, told, CHANGE, "Circuit reset.")
        names = ", ".join(f"{target.provider.slug}/{target.upstream_model}" for target in told)
        page.message_user(request, _TOLD.format(names), messages.SUCCESS)
    if len(told) < len(targets):
        page.message_user(request, _NOBODY, messages.ERROR)


def _live_rows(route_id: int) -> list[dict[str, Any]]:
    views = target_views()
    targets = RouteTarget.objects.filter(route=route_id).select_related("provider")
    return [
        {
            "target": link(change_url(target), f"{target.provider.slug}/{target.upstream_model}"),
            "circuit": _circuit(view),
            "in_flight": view.in_flight,
            "ttft": _ms(view.ttft_ms),
            "total": _ms(view.total_ms),
            "errors": _errors(view),
            "last_error": _last_error(view),
            "reset_url": reverse("admin:routing_modelroute_reset", args=[route_id, target.pk]),
        }
        for target in targets.order_by("priority", "-weight", "pk")
        for view in [views.get(target.pk) or TargetView(target=target.pk)]
    ]


def _circuit(view: TargetView) -> SafeString:
    wait = f", {view.wait:.0f} s left" if view.wait else ""
    return badge(f"{view.standing}{wait}", _KINDS.get(view.standing, "info"), view.why)


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f} ms"


def _errors(view: TargetView) -> str:
    percent = view.error_percent
    return NOTHING if percent is None else f"{percent:.0f} % of {view.requests:,}"


def _last_error(view: TargetView) -> SafeString:
    if not view.last_error:
        return nowrap(NOTHING)
    moment = datetime.fromtimestamp(view.last_error_at, UTC)
    return lines([view.last_error, f"{moment:%Y-%m-%d %H:%M:%S} UTC"])


def _steps_table(found: Explanation) -> dict[str, Any]:
    rows: list[Any] = [
        [badge("ok", "success") if step.passed else badge("no", "danger"), step.step, step.text]
        for step in found.steps
    ]
    rows += [["", "limit", str(limit)] for limit in found.limits]
    return {"headers": ["", "Step", "Finding"], "rows": rows}


def _targets_table(found: Explanation) -> dict[str, Any]:
    headers = [
        "Order",
        "Target",
        "Why",
        "Circuit",
        "In flight",
        "Errors, last minute",
        "Last error",
        "Limits",
    ]
    return {"headers": headers, "rows": [_target_row(candidate) for candidate in found.targets]}


def _target_row(candidate: Candidate) -> list[Any]:
    view = candidate.state
    return [
        candidate.place or NOTHING,
        lines(
            [
                f"{candidate.provider}/{candidate.model}",
                f"priority {candidate.priority}, weight {candidate.weight}",
            ]
        ),
        candidate.why or NOTHING,
        _circuit(view),
        view.in_flight,
        _errors(view),
        view.last_error or NOTHING,
        lines(str(limit) for limit in candidate.limits) or NOTHING,
    ]
