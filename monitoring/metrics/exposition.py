"""The metrics in Prometheus' text format; docs/metrics.md lists them from the tables here."""

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from django.conf import settings

from monitoring.metrics.catalogue import (
    BACKLOG,
    COUNTED,
    IN_FLIGHT,
    JOURNAL_LOST,
    POOL_IN_USE,
    POOL_SIZE,
    PROVIDER_MAINTENANCE,
    PROVIDER_UP,
    SHIPPER_AGE,
    STALLED,
    TABLE_AGE,
    TABLE_VERSION,
    TARGET_STATE,
    TRACES_DROPPED,
    WORKER_REPORT_AGE,
    WORKER_START,
    Metric,
)
from monitoring.shipping.backlog import backlog_bytes
from monitoring.shipping.state import read_state
from monitoring.shipping.watching import stalled_parts
from proxy.breaker.exchange import Snapshot, TargetView
from proxy.breaker.sharing import together
from proxy.breaker.state import Standing
from proxy.metrics.counters import Labels
from proxy.metrics.store import Ended, WorkerReport, summed
from routing.table import RoutingTable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = {
    Standing.READY: "closed",
    Standing.PROBE: "half_open",
    Standing.PROBING: "half_open",
    Standing.BROKEN: "open",
    Standing.COOLING: "rate_limited",
}


Sample = tuple[Labels, float]


def exposition(living: list[WorkerReport], ended: Ended, table: RoutingTable) -> str:
    """Everything, of all web processes together. Raises OSError where the journal can't be read."""
    families = summed([ended.families, *(report.families for report in living)])
    lines: list[str] = []
    for metric in COUNTED:
        lines += _head(metric)
        for labels, counts in families.get(metric.family, ()):
            lines += _histogram(metric, labels, counts) if metric.bounds else _counter(metric, labels, counts)
    for metric, samples in _gauges(living, ended, table):
        lines += _head(metric)
        lines += [_line(metric.full_name, metric.labels, labels, value) for labels, value in samples]
    return "\n".join(lines) + "\n"


def _head(metric: Metric) -> list[str]:
    return [f"# HELP {metric.full_name} {metric.help}", f"# TYPE {metric.full_name} {metric.kind}"]


def _counter(metric: Metric, labels: Labels, counts: list[int]) -> Iterator[str]:
    yield _line(metric.full_name, metric.labels, labels, counts[metric.place] * metric.scale)


def _histogram(metric: Metric, labels: Labels, counts: list[int]) -> Iterator[str]:
    """`counts`: of each bucket alone, the last without a bound; then the sum in microseconds."""
    below = 0
    for bound, count in zip((*metric.bounds, math.inf), counts, strict=False):
        below += count
        edge = "+Inf" if bound == math.inf else f"{bound:g}"
        yield _line(f"{metric.full_name}_bucket", (*metric.labels, "le"), (*labels, edge), below)
    yield _line(f"{metric.full_name}_sum", metric.labels, labels, counts[-1] / 1e6)
    yield _line(f"{metric.full_name}_count", metric.labels, labels, below)


def _gauges(
    living: list[WorkerReport], ended: Ended, table: RoutingTable
) -> Iterator[tuple[Metric, Iterable[Sample]]]:
    yield from _of_targets(living, table)
    up: list[Sample] = []
    resting: list[Sample] = []
    for slug, entry in table.providers.items():
        resting.append(((slug,), float(entry.maintenance)))
        if not entry.maintenance:
            up.append(((slug,), float(not entry.unhealthy)))
    yield PROVIDER_UP, up
    yield PROVIDER_MAINTENANCE, resting
    pools: dict[str, tuple[int, int]] = {}
    for pool in (pool for report in living for pool in report.pools):
        used, size = pools.get(pool.provider, (0, 0))
        pools[pool.provider] = used + pool.in_use, size + pool.size
    yield POOL_IN_USE, [((slug,), used) for slug, (used, _) in pools.items()]
    yield POOL_SIZE, [((slug,), size) for slug, (_, size) in pools.items()]
    yield from _of_workers(living)
    yield JOURNAL_LOST, [((), ended.journal_lost + sum(report.journal_lost for report in living))]
    dropped = ended.traces_dropped + sum(report.traces_dropped for report in living)
    yield TRACES_DROPPED, [((), dropped)]
    yield from _of_journal()


def _of_workers(living: list[WorkerReport]) -> Iterator[tuple[Metric, list[Sample]]]:
    now = time.time()
    yield TABLE_VERSION, [((str(report.pid),), report.table_version) for report in living]
    yield TABLE_AGE, [((str(report.pid),), report.table_age) for report in living]
    yield WORKER_START, [((str(report.pid),), report.started_at) for report in living]
    yield WORKER_REPORT_AGE, [((str(report.pid),), max(now - report.at, 0.0)) for report in living]


def _of_journal() -> Iterator[tuple[Metric, list[Sample]]]:
    directory = Path(settings.JOURNAL_DIR)
    told = read_state(directory)
    yield BACKLOG, [((), backlog_bytes(directory, told))]
    yield SHIPPER_AGE, [((), max(time.time() - told.at, 0.0))] if told is not None else []
    yield STALLED, [((component,), 1.0) for component in stalled_parts()]


def _of_targets(living: list[WorkerReport], table: RoutingTable) -> Iterator[tuple[Metric, list[Sample]]]:
    views = together([Snapshot(report.worker, report.at, report.targets) for report in living])
    idle = TargetView(target=0)
    known = {labels: views.get(target_id, idle) for target_id, labels in _target_labels(table).items()}
    yield IN_FLIGHT, [(labels, view.in_flight) for labels, view in known.items()]
    yield TARGET_STATE, [((*labels, _state(view)), 1.0) for labels, view in known.items()]


def _state(view: TargetView) -> str:
    return STATES[Standing(view.standing)]


def _target_labels(table: RoutingTable) -> dict[int, Labels]:
    """Of the targets that are configured now, whatever else workers have called."""
    routes = {found.route.id: found.route for found in table.routes.values()}
    routes |= {route.id: route for _, route in table.wildcards}
    return {
        target.id: (route.name, target.provider.slug, target.upstream_model, str(target.id))
        for route in routes.values()
        for target in (*route.targets, *route.shadows)
    }


def _line(name: str, names: Labels, values: Labels, value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(names, values, strict=True))
    return f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
