"""Usage by the hour: equal to the rows to the nano-USD, whatever came late, twice, or stopped in between."""

import random
import time
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitoring.models import RequestLog, StaleHour, UsageHour
from monitoring.shipping.storing import store
from monitoring.usage import percentiles
from monitoring.usage.rollups import SUMS, roll_up
from tests.test_journal_faults import closed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("own_log")]

HOUR_NS = 3600 * 10**9
BASE_NS = 1_790_000_000 * 10**9 // HOUR_NS * HOUR_NS
names = st.sampled_from(["", "a", "b"])
tokens = st.none() | st.integers(0, 10**9)
milliseconds = st.none() | st.floats(0, 1e7, allow_subnormal=False)
calls = st.builds(
    closed,
    received_at_ns=st.integers(BASE_NS, BASE_NS + 3 * HOUR_NS),
    key_id=st.none() | st.integers(1, 3),
    key_name=names,
    team=names,
    route=names,
    provider=names,
    upstream_model=names,
    status=st.none() | st.sampled_from([200, 429, 502]),
    outcome=st.sampled_from(["answered", "refused", "unknown", "upstream_failed", "caller_error"]),
    attempts=st.integers(0, 2),
    shadow=st.booleans(),
    tags=st.lists(st.sampled_from(["x", "y", "z"]), max_size=3),
    input_tokens=tokens,
    output_tokens=tokens,
    cached_tokens=tokens,
    reasoning_tokens=tokens,
    cost_nano_usd=st.none() | st.integers(0, 2**50),
    total_ms=milliseconds,
    ttft_ms=milliseconds,
)
DIMENSIONS = ("key_id", "team", "route", "provider", "upstream_model", "status", "outcome", "shadow")


def facts_of(row):
    reached = row.attempts > 0 or row.outcome == "unknown"
    return {
        "requests": 1,
        "unpriced": int(row.cost_nano_usd is None and reached),
        **{name: getattr(row, name) or 0 for name in SUMS if name not in ("requests", "unpriced")},
    }


def summed(pairs):
    total = defaultdict(lambda: dict.fromkeys(SUMS, 0))
    for group, facts in pairs:
        for name in SUMS:
            total[group][name] += facts[name]
    return dict(total)


def check_all():
    rows = list(RequestLog.objects.all())
    usage = list(UsageHour.objects.all())
    for dimension in DIMENSIONS:
        by_rows = summed((getattr(row, dimension), facts_of(row)) for row in rows)
        kept = summed((getattr(one, dimension), {n: getattr(one, n) for n in SUMS}) for one in usage)
        assert kept == by_rows, dimension
    by_tags = summed((",".join(sorted(set(row.tags))), facts_of(row)) for row in rows)
    assert summed((one.tags, {n: getattr(one, n) for n in SUMS}) for one in usage) == by_tags
    for column, buckets in (("total_ms", "total_buckets"), ("ttft_ms", "ttft_buckets")):
        timed = sum(getattr(row, column) is not None for row in rows)
        assert sum(sum(getattr(one, buckets).values()) for one in usage) == timed


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(calls, max_size=12), min_size=1, max_size=4))
def test_usage_is_the_sum_of_its_rows_for_every_dimension(batches):
    for model in (RequestLog, UsageHour, StaleHour):
        model.objects.all().delete()
    for batch in batches:
        store(batch)
        store(batch)  # shipped twice
        roll_up()
        check_all()
    assert not StaleHour.objects.exists()
    assert roll_up() == 0


def test_a_row_that_comes_late_changes_its_own_hour_only():
    store([closed(received_at_ns=BASE_NS + n * HOUR_NS) for n in range(3)])
    assert roll_up() == 3
    before = dict(UsageHour.objects.values_list("hour", "pk"))
    store([closed(received_at_ns=BASE_NS + 5)])
    assert roll_up() == 1
    check_all()
    kept = [pk for hour, pk in UsageHour.objects.values_list("hour", "pk") if before[hour] == pk]
    assert len(kept) == 2


def test_a_run_that_stops_in_the_middle_is_made_good_by_the_next(monkeypatch):
    store([closed(received_at_ns=BASE_NS + n * HOUR_NS) for n in range(3)])
    roll_up()
    store([closed(received_at_ns=BASE_NS + n * HOUR_NS + 1) for n in range(3)])
    create, left = UsageHour.objects.bulk_create, iter([False, True])

    def breaks(*arguments, **options):
        create(*arguments, **options)
        if next(left):
            raise KeyboardInterrupt

    monkeypatch.setattr(UsageHour.objects, "bulk_create", breaks)
    with pytest.raises(KeyboardInterrupt):
        roll_up()
    monkeypatch.undo()
    assert StaleHour.objects.count() == 2
    assert UsageHour.objects.count() == 3  # the hour that was being replaced has its old sum
    roll_up()
    check_all()


def test_rows_that_come_while_an_hour_is_summed_up_keep_it_stale(monkeypatch):
    store([closed(received_at_ns=BASE_NS)])
    create = UsageHour.objects.bulk_create

    def meanwhile(*arguments, **options):
        create(*arguments, **options)
        store([closed(received_at_ns=BASE_NS + 1)])

    monkeypatch.setattr(UsageHour.objects, "bulk_create", meanwhile)
    roll_up()
    monkeypatch.undo()
    assert StaleHour.objects.count() == 1
    roll_up()
    check_all()


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_percentiles_are_exact_to_five_percent(share):
    dice = random.Random(2)
    times = sorted(dice.lognormvariate(5, 1) for _ in range(5000))
    store([closed(total_ms=ms, received_at_ns=time.time_ns()) for ms in times])
    roll_up()
    buckets: dict[str, int] = {}
    for usage in UsageHour.objects.all():
        percentiles.add(buckets, usage.total_buckets)
    exact = times[int(share * len(times)) - 1]
    assert percentiles.percentile(buckets, share) == pytest.approx(exact, rel=0.055)
