"""Who serves which path."""

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from gateway_project import admin_users  # noqa: F401 gives users and groups the admin's theme
from proxy import views as proxy_views


def home(request: HttpRequest) -> HttpResponse:
    return redirect("admin:index")


urlpatterns = [
    path("", home),
    path("admin/", admin.site.urls),
    path("api/schema", SpectacularAPIView.as_view(authentication_classes=[]), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema", authentication_classes=[])),
    path("", include("monitoring.urls")),
    path("", include("proxy.urls")),
    re_path(rf"^(?!{settings.STATIC_URL.lstrip('/')})", proxy_views.unknown_endpoint),
]
handler400 = proxy_views.bad_request
handler404 = proxy_views.unknown_endpoint
handler500 = proxy_views.server_error
