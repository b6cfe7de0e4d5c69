"""The data plane on its three base paths."""

from django.urls import path, re_path

from proxy.doors import views
from proxy.endpoints import BASES
from proxy.explain.views import ExplainView

urlpatterns = [path("api/explain", ExplainView.as_view())]
for base in (base.lstrip("/") for base in BASES):
    prefix = f"{base}/" if base else ""
    urlpatterns += [
        re_path(rf"^{prefix}chat/completions/?\Z", views.ChatCompletionsView.as_view()),
        re_path(rf"^{prefix}models/?\Z", views.ModelsView.as_view()),
        # A model's name may have slashes in it.
        path(f"{prefix}models/<path:name>", views.ModelView.as_view()),
        *([re_path(rf"^{prefix}(?:.*)$", views.unknown_endpoint)] if base else []),
    ]
