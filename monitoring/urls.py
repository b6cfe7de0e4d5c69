from django.urls import path

from monitoring import views
from monitoring.budgets.litellm_views import KeyInfoView, SpendLogsView
from monitoring.metrics import views as metrics_view
from monitoring.status import views as status_views
from monitoring.usage.views import OwnUsageView, UsageView
from proxy.endpoints import BASES

urlpatterns = [
    path("health", views.health),
    path("health/liveliness", views.liveliness),
    path("health/readiness", views.readiness),
    path("status", status_views.status, name="status"),
    path("status.json", status_views.status_json, name="status-json"),
    path("api/usage", UsageView.as_view()),
    path("key/info", KeyInfoView.as_view()),
    path("spend/logs", SpendLogsView.as_view()),
    *(path(f"{base}/usage".lstrip("/"), OwnUsageView.as_view()) for base in BASES),
    path("metrics", metrics_view.metrics),
]
