from django.urls import path

from monitoring import metrics_view, views

urlpatterns = [
    path("health", views.health),
    path("health/liveliness", views.liveliness),
    path("health/readiness", views.readiness),
    path("metrics", metrics_view.metrics),
]
