"""Metrics of finished calls, by the same conventions as the spans; recorded off the event loop."""

from opentelemetry.sdk.metrics import MeterProvider

from proxy.calls.call import Attempt
from proxy.calls.trace import Finished
from proxy.tracing.spans import client_attributes, error_of, seconds_of, server_attributes

# The boundaries that the conventions give.
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(4**power for power in range(14))
HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Instruments:
    def __init__(self, provider: MeterProvider) -> None:
        make = provider.get_meter("switchstand").create_histogram
        self._requests = make(
            "http.server.request.duration", "s", "", explicit_bucket_boundaries_advisory=HTTP_SECONDS
        )
        self._operations = make(
            "gen_ai.client.operation.duration", "s", "", explicit_bucket_boundaries_advisory=SECONDS
        )
        self._first_chunks = make(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._tokens = make(
            "gen_ai.client.token.usage", "{token}", "", explicit_bucket_boundaries_advisory=TOKENS
        )

    def record(self, done: Finished) -> None:
        self._requests.record((done.row.total_ms or 0.0) / 1000, server_attributes(done.row))
        for attempt in done.attempts:
            self._record_attempt(done, attempt)

    def _record_attempt(self, done: Finished, attempt: Attempt) -> None:
        attributes = client_attributes(done.row, attempt)
        self._operations.record(seconds_of(done, attempt), attributes)
        if done.row.stream and not error_of(attempt):
            self._first_chunks.record(attempt.ms / 1000, attributes)
        if attempt is done.served and done.row.input_tokens is not None:
            self._tokens.record(done.row.input_tokens, attributes | {"gen_ai.token.type": "input"})
            self._tokens.record(done.row.output_tokens or 0, attributes | {"gen_ai.token.type": "output"})
