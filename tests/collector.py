"""An OTLP/HTTP receiver: keeps what it is sent, decoded by the protocol's own messages."""

import gzip
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    name: str
    kind: int  # 2 server, 3 client
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start: int  # Unix nanoseconds
    end: int
    attributes: dict[str, Any]
    failed: bool
    service: str


def _plain(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.points: dict[
            str, list[tuple[dict[str, Any], int, float]]
        ] = {}  # name -> (attributes, count, sum)
        self.delay = 0.0  # seconds before each answer
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                time.sleep(collector.delay)
                if collector.status == 200:
                    collector.take(self.path, body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            self._take_spans(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self._take_points(ExportMetricsServiceRequest.FromString(body))

    def _take_spans(self, message: ExportTraceServiceRequest) -> None:
        for part in message.resource_spans:
            service = _plain(part.resource.attributes)["service.name"]
            self.spans += [
                Span(
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    state=span.trace_state,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    attributes=_plain(span.attributes),
                    failed=span.status.code == 2,
                    service=service,
                )
                for scope in part.scope_spans
                for span in scope.spans
            ]

    def _take_points(self, message: ExportMetricsServiceRequest) -> None:
        """Cumulative: what came last of each metric counts."""
        for part in message.resource_metrics:
            for scope in part.scope_metrics:
                for metric in scope.metrics:
                    self.points[metric.name] = [
                        (_plain(point.attributes), point.count, point.sum)
                        for point in metric.histogram.data_points
                    ]
