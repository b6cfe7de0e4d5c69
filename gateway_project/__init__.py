from gateway_project.environment import choose_settings, say_refusals_plainly

choose_settings()
say_refusals_plainly()

from gateway_project.celery import app as celery_app  # noqa: E402 it may read the settings

__all__ = ["celery_app"]
