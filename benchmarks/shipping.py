"""How fast the shipper moves rows: `python -m benchmarks.shipping [--rows N]`, into DATABASE_URL's database.

Writes a journal of N calls as a web process would, then times the shipper on it. The rows stay: use a
database of its own.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")

import django

django.setup()

from monitoring.models import RequestLog  # noqa: E402
from monitoring.shipping.shipper import Shipper  # noqa: E402
from proxy.ids import uuid7  # noqa: E402
from proxy.journal.records import Closed, Opened  # noqa: E402
from proxy.journal.writer import JournalWriter  # noqa: E402


def write_journal(directory: Path, rows: int) -> None:
    journal = JournalWriter(directory)
    for number in range(rows):
        call = uuid7()
        common = {
            "id": call,
            "received_at_ns": time.time_ns(),
            "request_id": call,
            "endpoint": "chat/completions",
            "stream": number % 2 == 0,
            "model": "gpt",
            "key_name": f"key-{number % 50}",
            "team": f"team-{number % 7}",
            "route": "gpt",
        }
        journal.write(Opened(key_id=number % 50, reserved_nano_usd=10**6, **common))
        trail = [
            {"target": 1, "provider": "p1", "model": "m", "result": "200", "at_ms": 0.512, "ms": 412.125}
        ]
        journal.write(
            Closed(
                key_id=number % 50,
                outcome="answered",
                status=200,
                target_id=1,
                provider="p1",
                upstream_model="m",
                attempts=1,
                attempt_trail=trail,
                input_tokens=24 + number % 1000,
                output_tokens=48,
                cached_tokens=0,
                reasoning_tokens=0,
                cost_nano_usd=12_345 + number,
                total_ms=412.5 + number % 300,
                overhead_ms=0.812,
                ttft_ms=101.25,
                tags=["a", "b"],
                **common,
            )
        )
    journal.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    rows = parser.parse_args().rows
    directory = Path(tempfile.mkdtemp(prefix="shipping-"))
    try:
        write_journal(directory, rows)
        before = RequestLog.objects.count()
        shipper = Shipper(directory)
        started, busy = time.perf_counter(), time.process_time()
        shipper.ship()
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        assert not shipper.problem, shipper.problem
        moved = RequestLog.objects.count() - before
        assert moved == rows, f"{moved} of {rows} rows"
        print(
            f"{moved:,} rows in {seconds:.2f} s: {moved / seconds:,.0f} rows/s, "
            f"{moved / busy:,.0f} per second of this process's own time"
        )
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
