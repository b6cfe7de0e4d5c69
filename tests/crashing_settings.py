"""The gateway's settings and tests/crashing.py."""

from gateway_project.settings import *  # noqa: F403
from gateway_project.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.crashing.Crashing"]
ROOT_URLCONF = "tests.crashing_urls"
