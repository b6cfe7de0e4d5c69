"""The generator's calls are rows as any other: sealed, summed up, and told apart."""

import io

import pytest
from django.core.management import CommandError, call_command

from monitoring.audit import rows, usage
from monitoring.models import RequestLog, UsageSum
from monitoring.request_log.generating import calls
from tests.test_log_retention import NOW

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("own_log")]


def generate(*arguments):
    out = io.StringIO()
    call_command("generate_request_logs", *arguments, stdout=out)
    return out.getvalue()


def test_the_log_is_filled_and_the_books_agree():
    assert "500 rows in" in generate("--rows", "500", "--days", "2")
    assert RequestLog.objects.count() == 500
    assert RequestLog.objects.values("team").distinct().count() > 5
    assert {"answered", "refused"} <= set(RequestLog.objects.values_list("outcome", flat=True))
    assert not [*rows.differences(), *usage.differences()]
    assert sum(UsageSum.objects.filter(dimension="team").values_list("requests", flat=True)) == 500
    with pytest.raises(CommandError, match="The log has rows"):
        generate("--rows", "1")
    generate("--rows", "10", "--add")


def test_calls_are_in_the_order_of_time_within_their_days():
    times = [call.received_at_ns for call in calls(3000, 3, NOW)]
    last = NOW.timestamp() * 1e9
    assert times == sorted(times)
    assert last - 4 * 86400e9 < times[0] < times[-1] <= last
