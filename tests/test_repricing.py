"""Unknown prices: listed, set by an admin, and the rows, reports and budgets corrected."""

import threading
from contextlib import contextmanager
from decimal import Decimal

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection
from django.urls import reverse

from monitoring.models import Repricing, RequestLog, UsageHour
from monitoring.pricing import repricing
from monitoring.shipping.storing import store
from monitoring.tasks import reprice_requests
from monitoring.usage.rollups import roll_up
from routing.compiler import current_version
from routing.models import RouteTarget
from routing.price import price_from_text
from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import Door, LiveGateway, ask, until
from tests.optional import needs
from tests.test_admin_usage import cells
from tests.test_journal_faults import closed
from tests.upstream import Answer, completion

pytestmark = pytest.mark.django_db(transaction=True)
PAGE = reverse("admin:monitoring_unpriced")
CHOSEN = f"{PAGE}?provider=p1&upstream_model=m"
PRICE = {"input_price": "2", "cached_input_price": "0.5", "output_price": "10", "request_price": "0.001"}
COST = 600 * 2000 + 400 * 500 + 200 * 10_000 + 1_000_000  # of one of the calls below


@pytest.fixture(autouse=True)
def own_directories(settings, tmp_path):
    settings.JOURNAL_DIR = tmp_path / "journal"
    settings.LIMITS_FILE = tmp_path / "limits.json"


def unpriced(**values):
    facts = {"provider": "p1", "upstream_model": "m", "attempts": 1, "cost_nano_usd": None}
    tokens = {"input_tokens": 1000, "cached_tokens": 400, "output_tokens": 200, "reasoning_tokens": 50}
    return closed(**facts | tokens | values)


@pytest.fixture
def calls(monkeypatch):
    """More than a batch, and others that must stay as they are."""
    monkeypatch.setattr(repricing, "BATCH", 3)
    found = [unpriced(team="search") for _ in range(8)]
    others = [
        unpriced(upstream_model="other"),
        unpriced(provider="p2"),
        unpriced(input_tokens=None, output_tokens=None, outcome="upstream_failed"),
        closed(provider="p1", upstream_model="m", attempts=1, input_tokens=5, cost_nano_usd=7),
    ]
    store([*found, *others])
    roll_up()
    return found


def costs(model="m", provider="p1"):
    rows = RequestLog.objects.filter(provider=provider, upstream_model=model)
    return sorted(rows.values_list("cost_nano_usd", flat=True), key=lambda cost: -1 if cost is None else cost)


def audit(capsys):
    call_command("audit_books")
    return capsys.readouterr().out


def test_the_page_lists_what_could_not_be_priced(admin_client, calls):
    html = admin_client.get(PAGE).content.decode()
    rows = cells(html, "unpriced")
    assert [row[:4] for row in rows] == [
        ["p1/m", "8", "8,000", "1,600"],
        ["p1/other", "1", "1,000", "200"],
        ["p2/m", "1", "1,000", "200"],
    ]
    assert PAGE in admin_client.get(reverse("admin:monitoring_usage")).content.decode()
    assert PAGE in admin_client.get(reverse("admin:index")).content.decode()


def test_a_price_is_set_and_all_books_are_corrected(admin_client, calls, capsys):
    target = make_target(provider=make_provider(slug="p1"), route=make_route(), upstream_model="m")
    answer = admin_client.post(CHOSEN, {**PRICE, "to_targets": "on"})
    assert (answer.status_code, answer["location"]) == (302, PAGE)
    reprice_requests()
    assert costs() == [None, 7] + [COST] * 8
    assert costs("other") == costs(provider="p2") == [None]
    row = RequestLog.objects.filter(cost_nano_usd=COST).first()
    assert row.price == "input 2, output 10, cached_input 0.5, request 0.001"
    job = Repricing.objects.get()
    assert (job.requests, job.cost_nano_usd, job.left_out) == (8, 8 * COST, 0)
    assert job.finished_at
    target.refresh_from_db()
    assert (target.input_price, target.request_price) == (Decimal(2), Decimal("0.001"))
    assert audit(capsys) == "The books agree.\n"
    usage = UsageHour.objects.get(team="search")
    assert (usage.cost_nano_usd, usage.unpriced) == (8 * COST, 0)
    html = admin_client.get(PAGE).content.decode()
    assert "p1/other" in html
    assert "done" in html


def test_running_again_changes_nothing(calls):
    job = Repricing.objects.create(provider="p1", upstream_model="m", price="input 2, output 10")
    repricing.run(job)
    before = list(RequestLog.objects.order_by("pk").values())
    Repricing.objects.create(provider="p1", upstream_model="m", price="input 3, output 30")
    reprice_requests()
    reprice_requests()
    assert list(RequestLog.objects.order_by("pk").values()) == before
    assert Repricing.objects.filter(requests=0, finished_at__isnull=False).count() == 1


def test_a_task_that_dies_half_way_is_gone_on_with(calls, monkeypatch, capsys):
    job = Repricing.objects.create(provider="p1", upstream_model="m", price="input 2, output 10")
    original, left = repricing._reprice, [5]

    def dies(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("killed")
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(repricing, "_reprice", dies)
        with pytest.raises(OSError, match="killed"):
            reprice_requests()
    assert costs().count(None) == 6, "a batch is all or nothing"
    roll_up()
    assert audit(capsys) == "The books agree.\n"
    reprice_requests()
    job.refresh_from_db()
    assert (job.requests, costs().count(None)) == (8, 1)
    assert audit(capsys) == "The books agree.\n"


def test_a_row_that_was_altered_by_hand_is_left_for_the_audit(calls, capsys):
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE monitoring_requestlog SET output_tokens = 1 WHERE id = %s", [calls[3].id.replace("-", "")]
        )
    Repricing.objects.create(provider="p1", upstream_model="m", price="input 2, output 10")
    reprice_requests()
    assert Repricing.objects.get().left_out == 1
    assert RequestLog.objects.get(pk=calls[3].id).cost_nano_usd is None
    with pytest.raises(SystemExit):
        call_command("audit_books")
    assert f"rows: row {calls[3].id} was altered" in capsys.readouterr().out


def test_every_class_of_tokens_has_its_price():
    store(
        [
            unpriced(
                cache_write_tokens=300,
                cache_write_1h_tokens=100,
                audio_input_tokens=50,
                image_input_tokens=20,
                audio_output_tokens=30,
                image_output_tokens=10,
            )
        ]
    )
    text = (
        "input 1, output 2, cached_input 3, cache_write 4, cache_write_1h 5, reasoning 6, audio_input 7, "
        "audio_output 8, image_input 9, image_output 10"
    )
    assert price_from_text(text).text == text
    Repricing.objects.create(provider="p1", upstream_model="m", price=text)
    reprice_requests()
    given = (1000 - 400 - 300 - 50 - 20) * 1 + 400 * 3 + 200 * 4 + 100 * 5 + 50 * 7 + 20 * 9
    made = (200 - 50 - 30 - 10) * 2 + 50 * 6 + 30 * 8 + 10 * 10
    assert costs() == [(given + made) * 1000]


@pytest.mark.parametrize("missing", ["input_price", "output_price"])
def test_a_price_needs_input_and_output(admin_client, calls, missing):
    answer = admin_client.post(CHOSEN, {name: value for name, value in PRICE.items() if name != missing})
    assert answer.status_code == 200
    assert "This field is required." in answer.content.decode()
    assert not Repricing.objects.exists()
    assert admin_client.post(CHOSEN, PRICE | {missing: "-1"}).status_code == 200


def test_only_who_may_sets_prices(client, django_user_model, calls):
    target = make_target(provider=make_provider(slug="p1"), route=make_route(), upstream_model="m")
    user = django_user_model.objects.create_user("reader", password="x", is_staff=True)
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    allow(user, "view_requestlog")
    html = client.get(PAGE).content.decode()
    assert "p1/m" in html
    assert "Set the price" not in html
    assert client.get(CHOSEN).status_code == client.post(CHOSEN, PRICE).status_code == 403
    allow(user, "add_repricing")
    assert "to_targets" not in client.get(CHOSEN).content.decode()
    assert client.post(CHOSEN, PRICE | {"to_targets": "on"}).status_code == 302
    assert Repricing.objects.get().asked_by == "reader"
    assert RouteTarget.objects.get(pk=target.pk).input_price is None, "he may not change targets"


def allow(user, codename):
    user.user_permissions.add(Permission.objects.get(codename=codename))


@pytest.mark.parametrize("limits", ["in_process", pytest.param("in_redis", marks=needs("Redis"))])
def test_budgets_of_a_live_gateway_are_corrected(request, tmp_path, upstream, settings, limits):
    """Also while a call is open, which was admitted before."""
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}"}
    if limits == "in_redis":
        server = request.getfixturevalue("redis_server")
        server.client.flushall()
        env["REDIS_URL"] = settings.REDIS_URL = server.url
    priced, unknown = make_route(name="priced"), make_route(name="unknown")
    provider = make_provider(slug="p1", base_url=upstream.url("p1"))
    make_target(route=priced, provider=provider, upstream_model="known", input_price="1", output_price="1")
    make_target(route=unknown, provider=provider, upstream_model="m")
    team = make_team(slug="search")
    _, key = make_key(name="app", team=team)
    gateway = LiveGateway(tmp_path, env).start()
    try:
        door = Door("fast_lane", gateway.url)
        usage = {"prompt_tokens": 1000, "completion_tokens": 200}
        upstream.always("p1", Answer(body=completion(usage=usage)))
        for _ in range(3):
            assert door.chat(key, "unknown").status_code == 200
        until(lambda: RequestLog.objects.filter(cost_nano_usd=None).count() == 3, "the rows are there")
        team.budget_usd, team.budget_period = "1", "total"
        team.save()
        until(lambda: gateway.readiness()["table_version"] == current_version(), "the budget is served")
        assert door.chat(key, "priced").status_code == 200
        until(lambda: RequestLog.objects.count() == 4, "its row")
        agrees(gateway)
        Repricing.objects.create(provider="p1", upstream_model="m", price="input 100, output 1000")
        upstream.script("p1", Answer(delay=3))
        with open_call(upstream, gateway.url, key):
            reprice_requests()
            until(lambda: gateway.readiness()["table_version"] == current_version(), "the recount is known")
            # 3 times 0.3 USD are spent now: a reserve of 0.0041 fits, one of 0.2 does not.
            assert door.chat(key, "priced").status_code == 200
            over = door.chat(key, "priced", max_tokens=200_000)
            assert (over.status_code, over.json()["error"]["code"]) == (429, "insufficient_quota")
        until(lambda: RequestLog.objects.count() == 7, "all rows")
        agrees(gateway)
    finally:
        gateway.stop()


def agrees(gateway):
    found = gateway.manage("audit_books", check=False)
    assert found.stdout == "The books agree.\n", found.stdout + found.stderr


@contextmanager
def open_call(upstream, url, key):
    """A call that is open while the block runs, and ends after it."""
    answers = []

    def run():
        headers = {"authorization": f"Bearer {key}"}
        answers.append(plain.post(f"{url}/v1/chat/completions", content=ask("priced"), headers=headers))

    before = len(upstream.calls("p1"))
    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: len(upstream.calls("p1")) > before, "the provider is asked")
    yield
    assert not answers
    thread.join()
    assert answers[0].status_code == 200
