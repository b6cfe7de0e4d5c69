"""OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT is set; else its packages are not even imported."""

from django.conf import settings

from proxy.calls.trace import Tracing


def make_tracing() -> Tracing | None:
    """None where no endpoint is set: calls then have no trace, and cost nothing more."""
    if not settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        return None
    from proxy.tracing.otlp import otlp_tracing

    return otlp_tracing(settings.OTEL_EXPORTER_OTLP_ENDPOINT)
