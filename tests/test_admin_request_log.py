"""The request log in the admin: readable, searchable, and read-only."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.urls import reverse

from monitoring.models import RequestLog
from proxy.ids import uuid7
from tests.factories import make_key, make_provider, make_route, make_target, make_team

LIST = reverse("admin:monitoring_requestlog_changelist")
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def an_empty_log(db):
    """A live gateway of an earlier file may have shipped rows late; from here on the database is ours."""
    RequestLog.objects.all().delete()


def make_row(**values):
    received = values.setdefault("received_at", NOON)
    values.setdefault("id", uuid.UUID(uuid7(int(received.timestamp() * 1e9))))
    values.setdefault("request_id", f"req-{values['id']}")
    values.setdefault("outcome", "answered")
    values.setdefault("status", 200)
    values.setdefault("endpoint", "chat/completions")
    return RequestLog.objects.create(**values)


def detail(row):
    return reverse("admin:monitoring_requestlog_change", args=[row.pk])


def found(client, **query):
    return set(client.get(LIST, query).context["cl"].result_list)


def test_a_row_shows_every_column(admin_client):
    make_row(
        request_id="req-1",
        outcome="upstream_failed",
        status=502,
        error_code="upstream_error",
        model="best",
        route="gpt-4o",
        provider="openai",
        upstream_model="gpt-4o-2024",
        key_name="search-prod",
        input_tokens=12345,
        output_tokens=67,
        cost_nano_usd=1_234_500,
        total_ms=1234.5678,
        ttft_ms=321.04,
        attempts=3,
        stream=True,
    )
    page = admin_client.get(LIST).content.decode()
    for shown in (
        *(
            "2026-03-04 12:00:00",
            "req-1",
            "502",
            "upstream failed",
            "best",
            "gpt-4o",
            "openai",
            "gpt-4o-2024",
        ),
        *("search-prod", "12,345 / 67", "0.0012345", "1,234.6", "321.0", ">3<", "upstream_error"),
    ):
        assert shown in page


@pytest.mark.parametrize(
    ("nano_usd", "shown"),
    [(None, ">unknown<"), (0, ">0.00<"), (1, ">0.000000001<"), (12_500_000_000, ">12.50<")],
)
def test_an_unknown_cost_is_never_shown_as_zero(admin_client, nano_usd, shown):
    make_row(cost_nano_usd=nano_usd, attempts=1)
    assert shown in admin_client.get(LIST).content.decode()


def test_a_request_that_reached_no_provider_has_no_cost(admin_client):
    make_row(cost_nano_usd=None, attempts=0, outcome="refused", status=401)
    assert ">unknown<" not in admin_client.get(LIST).content.decode()


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ({"outcome__exact": "refused"}, {"outcome": "refused"}),
        ({"status_group": "4xx"}, {"status": 404}),
        ({"status_group": "429"}, {"status": 429}),
        ({"status_group": "5xx"}, {"status": 504}),
        ({"status_group": "none"}, {"status": None}),
        ({"provider": "deleted-since"}, {"provider": "deleted-since"}),
        ({"route": "gpt-4o"}, {"route": "gpt-4o"}),
        ({"team": "search"}, {"team": "search"}),
        ({"endpoint": "models"}, {"endpoint": "models"}),
        ({"stream": "yes"}, {"stream": True}),
        ({"key_id": "7"}, {"key_id": 7}),
        ({"shadow": "yes"}, {"shadow": True}),
        (
            {"received_at_from": "2026-03-03", "received_at_to": "2026-03-03"},
            {"received_at": NOON - timedelta(days=1)},
        ),
        ({"received_at_from": "2026-03-05"}, {"received_at": NOON + timedelta(days=1)}),
        ({"received_at_to": "2026-03-03"}, {"received_at": NOON - timedelta(hours=12, microseconds=1)}),
    ],
)
def test_a_filter_finds_its_rows_only(admin_client, query, values):
    make_row()
    wanted = make_row(**values)
    assert found(admin_client, **query) == {wanted}


def test_the_filters_offer_configured_names_recent_endpoints_and_the_chosen_one(admin_client):
    make_provider(slug="openai")
    make_route(name="gpt-4o")
    make_team(slug="search")
    make_row(endpoint="embeddings")
    page = admin_client.get(LIST, {"provider": "deleted-since"}).content.decode()
    for name in ("openai", "gpt-4o", "search", "embeddings", "deleted-since"):
        assert f'<option value="{name}"' in page


def test_an_empty_choice_in_a_filter_filters_nothing(admin_client):
    row = make_row()
    assert found(admin_client, provider="", status_group="", outcome__exact="", stream="") == {row}


def test_a_search_finds_the_exact_request_id_or_row_id(admin_client):
    row, other = make_row(request_id="abc-123"), make_row(request_id="abc-1234")
    assert found(admin_client, q="abc-123") == {row}
    assert found(admin_client, q=f" {other.pk} ") == {other}
    assert found(admin_client, q="abc") == set()
    assert found(admin_client, q="") == {row, other}


def test_the_detail_page_shows_the_attempts_as_a_table(admin_client):
    row = make_row(
        attempts=2,
        attempt_trail=[
            {"target": "openai/gpt-4o", "error": "upstream_timeout", "ms": 1000.5},
            {"target": "azure/gpt-4o", "status": 200, "ms": 12.25},
        ],
    )
    page = admin_client.get(detail(row)).content.decode()
    for shown in (
        "Target",
        "Status",
        "Error",
        "openai/gpt-4o",
        "upstream_timeout",
        "1,000.500",
        "azure/gpt-4o",
        "12.250",
    ):
        assert shown in page


def test_the_detail_page_links_to_key_and_target_while_they_exist(admin_client):
    (key, _), target = make_key(name="search-prod"), make_target()
    row = make_row(key_id=key.pk, key_name="search-prod", target_id=target.pk)
    links = (
        reverse("admin:routing_apikey_change", args=[key.pk]),
        reverse("admin:routing_routetarget_change", args=[target.pk]),
    )
    page = admin_client.get(detail(row)).content.decode()
    assert all(link in page for link in links)
    key.delete()
    target.delete()
    page = admin_client.get(detail(row)).content.decode()
    assert not any(link in page for link in links)
    assert "search-prod" in page
    assert "(deleted)" in page


def test_a_row_without_anything_optional_is_shown(admin_client):
    row = make_row(outcome="unknown", status=None, model="", endpoint="models")
    page = admin_client.get(detail(row)).content.decode()
    assert "none" in page


def test_what_a_caller_sent_is_escaped(admin_client):
    evil = "<script>alert(1)</script>"
    row = make_row(model=evil, client_info=evil, tags=[evil], attempt_trail=[{evil: evil}], error_code=evil)
    for url in (LIST, detail(row)):
        assert evil not in admin_client.get(url).content.decode()


def test_the_log_cannot_be_added_to_changed_or_deleted(admin_client):
    row = make_row(model="before")
    assert admin_client.get(reverse("admin:monitoring_requestlog_add")).status_code == 403
    assert admin_client.post(detail(row), {"model": "after"}).status_code == 403
    assert admin_client.post(reverse("admin:monitoring_requestlog_delete", args=[row.pk])).status_code == 403
    admin_client.post(LIST, {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert RequestLog.objects.get().model == "before"


def page(client, url=LIST):
    return client.get(url).context["cl"]


def test_the_list_is_paged_by_key_without_counting_the_log(admin_client, django_assert_num_queries):
    rows = [make_row(received_at=NOON - timedelta(minutes=number), team="ads") for number in range(120)]
    make_row(team="search")
    admin_client.get(LIST)
    # session, user; providers, routes, teams, endpoints; rows
    with django_assert_num_queries(7) as queries:
        admin_client.get(LIST)
    assert not [query for query in queries if "COUNT(" in query["sql"] or "OFFSET" in query["sql"]]
    first = page(admin_client, f"{LIST}?team=ads")
    second = page(admin_client, LIST + first.older_url)
    third = page(admin_client, LIST + second.older_url)
    assert [list(found.result_list) for found in (first, second, third)] == [
        rows[:50],
        rows[50:100],
        rows[100:],
    ]
    assert (first.newer_url, third.older_url) == ("", "")
    assert list(page(admin_client, LIST + third.newer_url).result_list) == rows[50:100]
    back = page(admin_client, LIST + second.newer_url)
    assert (list(back.result_list), back.newer_url) == (rows[:50], "")
    assert list(page(admin_client, LIST + third.newest_url).result_list) == rows[:50]
    html = admin_client.get(LIST + second.older_url).content.decode()
    assert "Older" not in html.split('aria-label="Pages"')[1].split("</nav>")[0]


def test_a_row_that_comes_while_someone_reads_moves_no_page(admin_client):
    rows = [make_row(received_at=NOON - timedelta(minutes=number)) for number in range(60)]
    first = page(admin_client)
    make_row(received_at=NOON + timedelta(minutes=1))
    assert list(page(admin_client, LIST + first.older_url).result_list) == rows[50:]


@pytest.mark.parametrize("query", ["older_than=x", "newer_than=1", "received_at_from=yesterday"])
def test_a_page_that_is_no_page_leads_back_to_the_list(admin_client, query):
    assert admin_client.get(f"{LIST}?{query}").status_code == 302


FILTERS = {
    "": "",
    "outcome__exact=refused": "outcome",
    "status_group=4xx": "4xx",
    "status_group=401": "401",
    "status_group=429": "429",
    "status_group=5xx": "5xx",
    "status_group=none": "no_status",
    "provider=p1": "provider",
    "route=gpt": "route",
    "team=ads": "team",
    "endpoint=models": "endpoint",
    "stream=yes": "stream",
    "stream=no": "one_piece",
    "shadow=yes": "shadow",
    "key_id=7": "key_id",
    "q=abc": "request_id",
}


@pytest.mark.parametrize(("query", "index"), FILTERS.items())
def test_every_filter_reads_an_index_in_order(admin_client, django_assert_max_num_queries, query, index):
    with django_assert_max_num_queries(9) as queries:
        assert admin_client.get(f"{LIST}?{query}").status_code == 200
    sql = [one["sql"] for one in queries if 'FROM "monitoring_requestlog"' in one["sql"]][-1]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        plan = " / ".join(row[3] for row in cursor.fetchall())
    assert "INDEX" in plan
    assert f"requestlog_{index}" in plan, plan
    assert "TEMP B-TREE" not in plan or query.startswith("q="), plan
