"""Where uvicorn finds the fast lane: it imports the protocol before the application that sets Django up."""

import django

django.setup()

from proxy.doors.fast_lane import FastLaneProtocol  # noqa: E402

__all__ = ["FastLaneProtocol"]
