"""The gateway's pages, and one that fails."""

from django.urls import path

from gateway_project.urls import handler400, handler404, handler500, urlpatterns
from tests.crashing import page

__all__ = ["handler400", "handler404", "handler500"]
urlpatterns = [path("crash", page), *urlpatterns]
