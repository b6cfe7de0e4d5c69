from django.urls import path

from monitoring import views

urlpatterns = [
    path("health", views.health),
    path("health/liveliness", views.liveliness),
    path("health/readiness", views.readiness),
]
