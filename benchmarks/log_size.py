"""How long pages and reports take on a large log: `python -m benchmarks.log_size`.

On DATABASE_URL's database, once `manage.py generate_request_logs --rows N` has filled it. Prints a table in
Markdown: the median and the slowest try in milliseconds, and an export's lines and the memory that it took.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")

import django

django.setup()

import httpx  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import reverse  # noqa: E402

from monitoring.budgets.spending import spent  # noqa: E402
from monitoring.models import RequestLog  # noqa: E402
from monitoring.request_log.generating import FIRST_KEY  # noqa: E402
from monitoring.usage import report as usage  # noqa: E402
from proxy.ids import first_id  # noqa: E402
from routing.table import Budget, LimitOwner, Limits  # noqa: E402
from tests.live import LiveGateway  # noqa: E402

FILTERS = (
    "outcome__exact=answered",
    "outcome__exact=unknown",
    "status_group=2xx",
    "status_group=4xx",
    "status_group=401",
    "status_group=429",
    "status_group=5xx",
    "status_group=none",
    "provider=z-ai",
    "provider=gone",
    "route=reasoning",
    "team=team-07",
    "team=gone",
    "endpoint=embeddings",
    "endpoint=gone",
    "stream=yes",
    "stream=no",
    "shadow=yes",
    f"key_id={FIRST_KEY + 41}",
    "team=team-07&status_group=5xx",
    "route=reasoning&outcome__exact=unknown",
)
MASTER = "sk-measuring-0123456789abcdef"


def _timed(tries: int, work: Callable[[], Any]) -> tuple[float, float]:
    """(median, slowest) in milliseconds; one try before them warms up."""
    work()
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times), max(times)


def _pages(client: Client) -> dict[str, Callable[[], Any]]:
    log = reverse("admin:monitoring_requestlog_changelist")
    now = datetime.now(UTC)
    middle, week = first_id((now - timedelta(days=15)).timestamp()), (now - timedelta(days=7)).date()
    row = RequestLog.objects.filter(id__gt=middle).order_by("id").first()
    assert row is not None
    urls = {
        "log, first page": log,
        "log, a page in the middle": f"{log}?older_than={middle}",
        "log, backwards from the middle": f"{log}?newer_than={middle}",
        "log, the oldest page": f"{log}?newer_than={first_id(0)}",
        "log, one day": f"{log}?received_at_from={week}&received_at_to={week}",
        "log, search by request id": f"{log}?q={row.request_id}",
        **{f"log, {query}": f"{log}?{query}" for query in FILTERS},
        "usage page, month by team": reverse("admin:monitoring_usage") + "?group_by=team",
    }
    return {name: lambda url=url: _get(client, url) for name, url in urls.items()}  # type: ignore[misc]


def _get(client: Client, url: str) -> None:
    assert client.get(url).status_code == 200, url


def _reports() -> dict[str, Callable[[], Any]]:
    today = datetime.now(UTC).date()

    def ask(**given: str) -> Callable[[], Any]:
        asked = usage.question(given, today=today)
        return lambda: (usage.report(asked), usage.total(asked))

    month = Budget(limit_nano=10**12, period="month", time_zone="UTC")
    owner = LimitOwner("key", FIRST_KEY, "key-00", Limits(), month)
    start = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
    return {
        **{f"month by {group}": ask(group_by=group) for group in ("team", "key", "model", "tag", "day")},
        "month by model, of one team": ask(group_by="model", team="team-07"),
        "month by day, of one key": ask(group_by="day", key="key-00"),
        "what the busiest key has spent this month": lambda: spent(owner, start, None),
    }


def _export(days: int) -> tuple[int, float, float, float]:
    """(lines, seconds, resident MB of the web process before, most during)."""
    with tempfile.TemporaryDirectory(prefix="log-size-") as directory:
        env = {"DATABASE_URL": os.environ["DATABASE_URL"], "MASTER_KEY": MASTER}
        gateway = LiveGateway(Path(directory), env).start()
        try:
            return _exported(gateway, days)
        finally:
            gateway.stop()


def _exported(gateway: LiveGateway, days: int) -> tuple[int, float, float, float]:
    assert gateway.process is not None
    last = datetime.now(UTC).date() - timedelta(days=2)
    query = f"group_by=request&format=csv&from={last - timedelta(days=days - 1)}&to={last}"
    before = most = _resident(gateway.process.pid)
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.05):
            most = max(most, _resident(gateway.process.pid))  # type: ignore[union-attr]

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, lines = time.perf_counter(), -1
    headers = {"authorization": f"Bearer {MASTER}"}
    with httpx.stream("GET", f"{gateway.url}/api/usage?{query}", headers=headers, timeout=600) as answer:
        for chunk in answer.iter_raw():
            lines += chunk.count(b"\n")
    stop.set()
    watcher.join()
    return lines, time.perf_counter() - started, before, most


def _resident(pid: int) -> float:
    """MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--export-days", type=int, nargs="*", default=[1, 3])
    given = parser.parse_args()
    settings.ALLOWED_HOSTS.append("testserver")
    print(f"| {RequestLog.objects.count():,} rows on {connection.display_name} | median ms | slowest ms |")
    print("|---|---|---|")
    with transaction.atomic():
        client = Client()
        client.force_login(get_user_model().objects.create_superuser("log-size-benchmark"))
        for name, work in (_pages(client) | _reports()).items():
            median, slowest = _timed(given.tries, work)
            print(f"| {name} | {median:,.0f} | {slowest:,.0f} |", flush=True)
        transaction.set_rollback(True)
    for days in given.export_days:
        lines, seconds, before, most = _export(days)
        print(
            f"CSV of {lines:,} requests: {seconds:,.1f} s ({lines / seconds:,.0f} a second), "
            f"resident {before:.0f} MB before, {most:.0f} MB at most"
        )


if __name__ == "__main__":
    main()
