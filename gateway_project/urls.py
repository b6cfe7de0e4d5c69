"""Who serves which path."""

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from gateway_project import admin_users  # noqa: F401 gives users and groups the admin's theme
from proxy.doors import views as proxy_views


def home(request: HttpRequest) -> HttpResponse:
    return render(request, "switchstand/home.html")


def favicon(request: HttpRequest) -> HttpResponse:
    return redirect(static("switchstand/favicon.svg"))


urlpatterns = [
    path("", home),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("favicon.ico", favicon),
    re_path(r"^docs/?\Z", RedirectView.as_view(url="/api/docs")),
    path("api/schema", SpectacularAPIView.as_view(authentication_classes=[]), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema", authentication_classes=[])),
    path("", include("monitoring.urls")),
    path("", include("proxy.urls")),
    re_path(rf"^(?!{settings.STATIC_URL.lstrip('/')})", proxy_views.unknown_endpoint),
]
handler400 = proxy_views.bad_request
handler404 = proxy_views.not_found
handler500 = proxy_views.server_error
