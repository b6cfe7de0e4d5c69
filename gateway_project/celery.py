"""The Celery application; tasks live in the apps' tasks.py."""

import os

from celery import Celery

from monitoring.background.beat_thread import BeatThread

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")

app = Celery("switchstand")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add(BeatThread)
