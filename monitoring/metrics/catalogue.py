"""All metrics that /metrics has, with what they mean; docs/metrics.md is made from here."""

from dataclasses import dataclass

from proxy.metrics.counters import (
    COST_NANO,
    FALLBACKS,
    INPUT,
    OUTPUT,
    OVERHEAD_SECONDS,
    RETRIES,
    SECONDS,
    UNPRICED,
    Labels,
)

PREFIX = "switchstand_"


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` without the prefix. Counters and histograms read a family of proxy/metrics/counters.py."""

    name: str
    kind: str
    labels: Labels
    help: str
    family: str = ""
    place: int = 0
    scale: float = 1.0
    bounds: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        return PREFIX + self.name


_WHERE = ("route", "provider")
COUNTED = (
    Metric(
        "requests_total",
        "counter",
        ("endpoint", "route", "provider", "outcome", "status"),
        "Requests that are over, by outcome as in the request log and class of the status sent.",
        "requests",
    ),
    Metric(
        "refusals_total",
        "counter",
        ("route", "code"),
        "Requests that the gateway refused, by code.",
        "refusals",
    ),
    Metric(
        "attempts_total",
        "counter",
        ("provider", "result"),
        "Calls made to providers: answered, failed or cancelled.",
        "attempts",
    ),
    Metric(
        "shadow_requests_total",
        "counter",
        ("route", "provider", "outcome"),
        "Copies sent to shadow targets; not in the requests.",
        "shadows",
    ),
    Metric("retries_total", "counter", _WHERE, "Further tries at the same target.", "usage", RETRIES),
    Metric("fallbacks_total", "counter", _WHERE, "Tries at another target than before.", "usage", FALLBACKS),
    Metric("input_tokens_total", "counter", _WHERE, "Prompt tokens, estimated ones too.", "usage", INPUT),
    Metric("output_tokens_total", "counter", _WHERE, "Answer tokens, estimated ones too.", "usage", OUTPUT),
    Metric(
        "cost_usd_total", "counter", _WHERE, "US dollars, where the price is known.", "usage", COST_NANO, 1e-9
    ),
    Metric(
        "unpriced_requests_total", "counter", _WHERE, "Answers whose price is unknown.", "usage", UNPRICED
    ),
    Metric(
        "request_duration_seconds",
        "histogram",
        _WHERE,
        "From the request to the end of its answer, of requests that reached a provider.",
        "seconds",
        bounds=SECONDS,
    ),
    Metric(
        "time_to_first_token_seconds",
        "histogram",
        _WHERE,
        "From a stream's request to its first byte sent.",
        "ttft",
        bounds=SECONDS,
    ),
    Metric(
        "overhead_seconds",
        "histogram",
        _WHERE,
        "Spent in the gateway itself until the first byte.",
        "overhead",
        bounds=OVERHEAD_SECONDS,
    ),
)

_TARGET = ("route", "provider", "model", "target")
IN_FLIGHT = Metric("in_flight", "gauge", _TARGET, "Calls to a target that are not over.")
TARGET_STATE = Metric(
    "target_state",
    "gauge",
    (*_TARGET, "state"),
    "1 for the state of the target's circuit: closed, half_open, open or rate_limited.",
)
PROVIDER_UP = Metric(
    "provider_up", "gauge", ("provider",), "0 where health checks say unhealthy; absent in maintenance."
)
PROVIDER_MAINTENANCE = Metric("provider_maintenance", "gauge", ("provider",), "1 in a maintenance window.")
POOL_IN_USE = Metric("pool_in_use", "gauge", ("provider",), "Connections in use, all web processes.")
POOL_SIZE = Metric("pool_size", "gauge", ("provider",), "Connections allowed, all web processes.")
TABLE_VERSION = Metric(
    "worker_table_version", "gauge", ("worker",), "Version of the routing table that a web process serves."
)
TABLE_AGE = Metric(
    "worker_table_age_seconds",
    "gauge",
    ("worker",),
    "Since the web process last knew its table to be the newest.",
)
WORKER_START = Metric(
    "worker_start_time_seconds", "gauge", ("worker",), "When the web process started, Unix seconds."
)
WORKER_REPORT_AGE = Metric(
    "worker_report_age_seconds", "gauge", ("worker",), "Since the web process last posted its counts."
)
JOURNAL_LOST = Metric("journal_lost_records_total", "counter", (), "Records that the disk refused.")
TRACES_DROPPED = Metric(
    "traces_dropped_total", "counter", (), "OpenTelemetry traces that found the queue full or no collector."
)
BACKLOG = Metric("journal_backlog_bytes", "gauge", (), "Journal not yet in the database.")
SHIPPER_AGE = Metric(
    "journal_shipper_age_seconds",
    "gauge",
    (),
    "Since the shipper's last sign of life; absent before the first.",
)
STALLED = Metric(
    "stalled", "gauge", ("component",), "1 for each background part without a sign of life; absent else."
)
GAUGES = (
    IN_FLIGHT,
    TARGET_STATE,
    PROVIDER_UP,
    PROVIDER_MAINTENANCE,
    POOL_IN_USE,
    POOL_SIZE,
    TABLE_VERSION,
    TABLE_AGE,
    WORKER_START,
    WORKER_REPORT_AGE,
    JOURNAL_LOST,
    TRACES_DROPPED,
    BACKLOG,
    SHIPPER_AGE,
    STALLED,
)
METRICS = (*COUNTED, *GAUGES)
