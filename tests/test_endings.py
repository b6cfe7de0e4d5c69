"""Every ending of a call leaves exactly one row, settles every limit, and leaves books that agree.

Both doors, whole answers and streams, limits counted in the process and in Redis. The gateway runs in
this process, so that its own code can be made to fail.
"""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import call_command

from monitoring.models import RequestLog
from monitoring.shipping.shipper import Shipper
from proxy import engine
from proxy.answers.headers import AnswerHeaders
from proxy.attempts import failover
from proxy.gateway import running_gateway
from proxy.sse import StreamReader
from routing.compiler import current_version
from routing.models import GatewaySettings
from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import ORIGIN, ask, until
from tests.optional import needs
from tests.test_no_queries import serving_in_this_process
from tests.upstream import USAGE, Answer, events

LIMITS = {"rpm": 10_000, "tpm": 10**9, "parallel": 1, "budget_usd": "1000"}
"""One call at a time: a hold that leaks refuses the next."""

WORDS = events("one ", "two ", "three ", usage=True)
VISIBLE = [b"one ", b"two ", b"three ", b'"stop"']  # [DONE] comes after the usage, that nobody asked for
COST = USAGE["prompt_tokens"] * 1000 + USAGE["completion_tokens"] * 2000
LIMITED = Answer(status=429, body={})
ERROR = b'data: {"error": {"message": "overloaded"}}\n\n'
NOBODY = "sk-nobody"
BROKEN = "broken on purpose"


@dataclass(frozen=True)
class Ending:
    """How one call is made to end, and what its row must say."""

    name: str
    outcomes: tuple[str, ...]
    statuses: tuple[int | None, ...]
    script: Answer | None = None
    times: int = 1  # that the provider answers so
    key: str = "app"
    model: str = "gpt"
    content: bytes | None = None
    hang_up_after: bytes | None = None  # b"": before the answer
    fails: tuple[Any, str] | None = None  # what of our own code
    paid: bool | None = None  # whether it must cost something; None: either


def both(stream: bool) -> list[Ending]:
    """Endings that streams and whole answers have in common."""
    answer = Answer(chunks=WORDS, gap=0.02) if stream else Answer()
    refused = {"outcomes": ("refused",), "paid": False}
    failed = {"outcomes": ("upstream_failed",), "paid": False}
    asked_wrong = {"outcomes": ("caller_error",), "paid": False}
    ours = {"outcomes": ("failed",), "statuses": (500,)}
    return [
        Ending("answered", ("answered",), (200,), answer, paid=True),
        Ending("no_key", statuses=(401,), key=NOBODY, **refused),
        Ending("malformed", statuses=(400,), content=b"{", **refused),
        Ending("no_such_model", statuses=(404,), model="nothing", **refused),
        Ending("not_allowed", statuses=(403,), model="other", **refused),
        Ending("too_large", statuses=(413,), content=b"x" * 60_000, **refused),
        Ending("over_budget", statuses=(429,), key="poor", **refused),
        Ending("over_rate", statuses=(429,), key="slow", **refused),
        Ending("provider_refuses", statuses=(400,), script=Answer(status=400, body={}), **asked_wrong),
        Ending("provider_fails", statuses=(502,), script=Answer(status=500, body={}), **failed),
        Ending("provider_limits", statuses=(429,), script=LIMITED, model="limited", **failed),
        # Twice: a kept connection that ends like this is replaced.
        Ending(
            "cut_before_the_answer",
            statuses=(502,),
            script=Answer(cut="before_headers"),
            times=2,
            **failed,
        ),
        Ending("too_late", ("upstream_failed",), (504,), Answer(delay=3), model="hurried"),
        Ending("gone_early", ("client_gone",), (None,), Answer(delay=3), hang_up_after=b"", paid=True),
        Ending("fails_before_admission", **ours, fails=(engine, "resolve"), paid=False),
        Ending("fails_after_admission", **ours, fails=(failover.Attempts, "first_answer"), paid=False),
        Ending(
            "fails_after_the_answer", **ours, script=answer, fails=(AnswerHeaders, "of_answer"), paid=True
        ),
    ]


def of_streams() -> list[Ending]:
    slow = Answer(chunks=WORDS, gap=0.15)
    broken = {"outcomes": ("upstream_broken",), "statuses": (200,), "paid": True}
    gone = [
        Ending(
            f"gone_after_{number}_{model}",
            ("answered",) if word == VISIBLE[-1] else ("client_gone",),
            (200,),
            slow,
            model=model,
            hang_up_after=word,
            paid=True,
        )
        for model in ("gpt", "drained")
        for number, word in enumerate(VISIBLE)
    ]
    return [
        *gone,
        Ending("cut", script=Answer(chunks=WORDS[:2], gap=0.05, cut="after_chunks", stall=0.05), **broken),
        Ending("error_event", script=Answer(chunks=[WORDS[0], ERROR], gap=0.1), **broken),
        Ending("stalls", script=Answer(chunks=WORDS[:2], stall=3), model="hurried", **broken),
        Ending("no_end", script=Answer(chunks=WORDS[:2], gap=0.05), **broken),
        Ending("fails_in_the_middle", ("failed",), (200,), slow, fails=(StreamReader, "feed"), paid=True),
    ]


def of_whole_answers() -> list[Ending]:
    failed = {"outcomes": ("upstream_failed",), "statuses": (502,), "paid": False}
    return [
        Ending("cut_in_the_body", script=Answer(cut="mid_body"), **failed),
        Ending("malformed_answer", script=Answer(body=b"<html>"), **failed),
    ]


@pytest.fixture
def keys(upstream, transactional_db):
    """Plaintexts by name. Everything has limits of every kind."""
    routes = [
        make_route(name="gpt", **LIMITS),
        make_route(name="drained", **LIMITS),
        make_route(name="limited", **LIMITS),
        make_route(name="hurried", deadline=0.6, stall_timeout=0.5, **LIMITS),
    ]
    GatewaySettings.objects.create(pk=1, breaker_enabled=False)  # or many failures would keep the rest out
    other = make_route(name="other", **LIMITS)
    for route in (*routes, other):
        provider = make_provider(
            slug=f"for-{route.name}",
            base_url=upstream.url("p1"),
            retries=0,
            when_abandoned="drain" if route.name == "drained" else "cancel",
            rpm=10_000,
            parallel=1,
        )
        prices = {"input_price": "1", "output_price": "2"}
        make_target(route=route, provider=provider, upstream_model="m", **prices, **LIMITS)
    team = make_team(slug="search", **LIMITS)
    limits = {
        "app": LIMITS,
        "poor": LIMITS | {"budget_usd": "0.000001"},
        "slow": LIMITS | {"tpm": 1},
    }
    made = {
        name: make_key(name=name, team=team, allowed_routes=routes, **own)[1] for name, own in limits.items()
    }
    return made | {NOBODY: NOBODY}


@pytest.fixture
def served(request, settings, tmp_path):
    """The gateway's URL; limits are counted where the parameter says."""
    settings.JOURNAL_DIR, settings.LIMITS_FILE = tmp_path / "journal", tmp_path / "limits.json"
    settings.MAX_BODY_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 50_000
    settings.REDIS_URL = ""
    if request.param == "in_redis":
        server = request.getfixturevalue("redis_server")
        server.client.flushall()
        settings.REDIS_URL = server.url
    request.getfixturevalue("keys")
    with serving_in_this_process() as url:
        until(lambda: running_gateway().keeper.table.version == current_version(), "the table is served")
        yield url


def call(client: httpx.Client, ending: Ending, key: str, name: str, stream: bool) -> bytes:
    """What was told when the answer is over for this client, however that came about."""
    content = ending.content or ask(ending.model, stream=stream)
    headers = {"authorization": f"Bearer {key}", "x-request-id": name, "content-type": "application/json"}
    timeout = 0.4 if ending.hang_up_after == b"" else 10
    told = b""
    with (
        suppress(httpx.TransportError),
        client.stream(
            "POST", "/v1/chat/completions", content=content, headers=headers, timeout=timeout
        ) as answer,
    ):
        for chunk in answer.iter_raw():
            told += chunk
            if ending.hang_up_after and ending.hang_up_after in told:
                break
    return told


class Books:
    def __init__(self, directory: Path) -> None:
        self.shipper = Shipper(directory)

    def row(self, name: str, known: list[str], *, stranger: bool) -> RequestLog:
        """`known`: the ids of the other rows; a stranger's own id is not kept."""

        def find() -> Any:
            self.shipper.ship()
            rows = RequestLog.objects
            return (rows.exclude(request_id__in=known) if stranger else rows.filter(request_id=name)).first()

        row: RequestLog = until(find, f"the row of {name}")
        return row


def check(row: RequestLog, ending: Ending, told: bytes) -> None:
    assert row.outcome in ending.outcomes
    assert row.status in ending.statuses
    if ending.paid is not None:
        assert bool(row.cost_nano_usd) == ending.paid
    if row.outcome == "client_gone":
        wanted = "drained" if ending.model == "drained" else "cancelled"
        assert row.abandoned == wanted
    if row.stream and row.status == 200 and row.error_code:
        assert b'"error"' in told
        assert b"[DONE]" not in told
    if ending.name == "answered" or row.abandoned == "drained":
        assert (row.cost_nano_usd, row.tokens_estimated) == (COST, False)


def nothing_is_held() -> bool:
    admission: Any = running_gateway().admission
    if hasattr(admission, "budgets"):
        return not any(reserved or count for *_, reserved, count in admission.budgets())
    return not admission._open and not len(admission._settlements)  # settled, and Redis knows


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("door", ["fast_lane", "drf"])
@pytest.mark.parametrize(
    "served", ["in_process", pytest.param("in_redis", marks=needs("Redis"))], indirect=True
)
def test_every_ending_leaves_one_row_and_settles_every_limit(
    served, keys, upstream, settings, monkeypatch, capsys, door, stream
):
    books = Books(settings.JOURNAL_DIR)
    endings = both(stream) + (of_streams() if stream else of_whole_answers())
    names = []
    with plain.Client(base_url=served, headers={"origin": ORIGIN} if door == "drf" else {}) as client:
        for ending in endings:
            for number in range(2):  # twice: what leaks shows in the second
                names.append(f"{ending.name}-{number}")
                if ending.script is not None:
                    upstream.script("p1", *[ending.script] * ending.times)
                with monkeypatch.context() as patch:
                    if ending.fails is not None:
                        _break(patch, *ending.fails)
                    told = call(client, ending, keys[ending.key], names[-1], stream)
                    row = books.row(names[-1], names, stranger=ending.key == NOBODY)
                    names[-1] = row.request_id
                try:
                    check(row, ending, told)
                    until(nothing_is_held, "all limits are settled", 3)
                except AssertionError as error:
                    told = f"{ending.name}: {row.outcome} {row.status} {row.error_code!r} {row.abandoned!r}"
                    raise AssertionError(f"{told} {row.cost_nano_usd} {row.attempt_trail}") from error
        time.sleep(0.2)
        books.shipper.ship()
    rows = Counter(RequestLog.objects.values_list("request_id", flat=True))
    assert rows == Counter(names)
    call_command("audit_books")
    assert capsys.readouterr().out == "The books agree.\n"


def _break(patch: Any, owner: Any, name: str) -> None:
    """The first call of it works where it reads a stream's first event; all others raise."""
    original, calls = getattr(owner, name), []

    def fail(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if name == "feed" and len(calls) < 3:
            return original(*arguments, **options)
        raise RuntimeError(BROKEN)  # a new one: it knows all frames that it passes

    patch.setattr(owner, name, fail)
