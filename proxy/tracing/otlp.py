"""Sends traces and metrics over OTLP/HTTP from a thread of their own; the only importer of the SDK."""

import logging
import os
import threading
import time
from typing import Any

import requests
from django.conf import settings
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.trace.sampling import Sampler as SdkSampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from proxy.calls.trace import Finished, Parent, Sampler, Tracing
from proxy.tracing.instruments import Instruments
from proxy.tracing.spans import spans_of

logger = logging.getLogger(__name__)

EXPORT_SECONDS = 1.0
MOST_AT_ONCE = 256  # traces
STOP_SECONDS = 2.0
TRACES_PATH, METRICS_PATH = "v1/traces", "v1/metrics"


def otlp_tracing(endpoint: str) -> Tracing:
    """Started. Headers, time-out, compression, sampler and resource are the SDK's own OTEL_ variables."""
    resource = Resource.create(_described())
    # Read from the environment by the SDK itself: OTEL_TRACES_SAMPLER.
    sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
    base = endpoint.rstrip("/")
    metrics = OTLPMetricExporter(f"{base}/{METRICS_PATH}", session=_session())
    reader = PeriodicExportingMetricReader(metrics)
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    export = Export(OTLPSpanExporter(f"{base}/{TRACES_PATH}", session=_session()), resource, provider)
    export.tracing = Tracing(_samples_by(sampler), export.stop)
    export.start()
    return export.tracing


class HeadsOnly(requests.Session):
    """Reads no answer's body: nothing in it is asked for, and it may be endless, or unpack to gigabytes."""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        answer = super().request(*arguments, **options | {"stream": True})
        answer.close()
        answer._content = b""  # whoever asks for it gets nothing, instead of an error
        return answer


def _session() -> requests.Session | None:
    """None where the SDK is told to load one: see OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER."""
    told = any(name.startswith("OTEL_PYTHON_EXPORTER_OTLP_HTTP_") for name in os.environ)
    return None if told else HeadsOnly()


def _described() -> dict[str, Any]:
    """What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES don't say."""
    found = {SERVICE_VERSION: settings.SPECTACULAR_SETTINGS["VERSION"]}
    named = Resource.create().attributes.get(SERVICE_NAME, "")
    return found | ({SERVICE_NAME: "switchstand"} if str(named).startswith("unknown_service") else {})


def _samples_by(sampler: SdkSampler) -> Sampler:
    def samples(parent: Parent | None, trace_id: int) -> bool:
        context = None
        if parent is not None:
            span = SpanContext(trace_id, parent.span_id, True, TraceFlags(parent.flags))
            context = otel.set_span_in_context(NonRecordingSpan(span))
        found = sampler.should_sample(context, trace_id, "chat", SpanKind.SERVER)
        return bool(found.decision is Decision.RECORD_AND_SAMPLE)

    return samples


class Export:
    """Makes spans of finished calls and sends them. A collector that is away costs traces, nothing else."""

    tracing: Tracing

    def __init__(self, exporter: SpanExporter, resource: Resource, provider: MeterProvider) -> None:
        self._exporter = exporter
        self._resource = resource
        self._provider = provider
        self._instruments = Instruments(provider)
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what is there, for at most STOP_SECONDS."""
        deadline = time.monotonic() + STOP_SECONDS
        self._stop.set()
        self._thread.join(STOP_SECONDS)
        left = max(deadline - time.monotonic(), 0.1)
        self._provider.shutdown(timeout_millis=1000 * left)

    def _run(self) -> None:
        while not self._stop.wait(EXPORT_SECONDS):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while found := self._next():
            try:
                for done in found:
                    self._instruments.record(done)
                if spans := [span for done in found for span in spans_of(done, self._resource)]:
                    self._send(spans, len(found))
            except Exception:
                self.tracing.refused += len(found)
                logger.exception("%d traces are lost", len(found))

    def _next(self) -> list[Finished]:
        waiting = self.tracing.finished
        return [waiting.popleft() for _ in range(min(len(waiting), MOST_AT_ONCE))]

    def _send(self, spans: list[ReadableSpan], traces: int) -> None:
        failed = self._exporter.export(spans) is not SpanExportResult.SUCCESS
        if failed:
            self.tracing.refused += traces
        if failed != self._failing:
            self._failing = failed
            if failed:
                logger.error(
                    "the collector takes no traces, they are dropped until it does; LOG_LEVEL=DEBUG says why"
                )
            else:
                logger.info("the collector takes traces again")
