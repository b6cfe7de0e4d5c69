"""The gateway's settings and tests/clock.py."""

from gateway_project.settings import *  # noqa: F403
from gateway_project.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.clock.ClockedBeat"]
