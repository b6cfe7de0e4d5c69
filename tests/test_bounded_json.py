"""What a body within MAX_BODY_BYTES may cost the others: bounded before it is built, through both doors."""

import asyncio
import json
import time

import pytest

from proxy.gateway import build_gateway, stop_gateway
from tests.factories import make_key, make_provider, make_route, make_target
from tests.served_in_process import ORIGIN, ServedInProcess

SIZE = 20 * 1024 * 1024
MOST_SECONDS = 0.05
DOORS = {"fast_lane": {}, "drf": ORIGIN}
START = b'{"model":"m","messages":[{"role":"user","content":"Hello!"}],'


SAYS = b'{"model":"m","messages":[{"role":"u","content":"'


def repeated(before, part, after, size=SIZE):
    return before + part * ((size - len(before) - len(after)) // len(part)) + after


def keys():
    found = b",".join(b'"k%07d":1' % number for number in range(1_500_000))
    return START + found + b"}"


BODIES = {
    "1.5 million fields": (400, keys),
    "the same field again and again": (400, lambda: repeated(START, b'"k":1,', b'"z":1}')),
    "messages that are empty": (400, lambda: repeated(b'{"model":"m","messages":[', b"{},", b"{}]}")),
    "800,000 messages": (
        400,
        lambda: repeated(b'{"model":"m","messages":[', b'{"role":"u","content":"x"},', b"{}]}"),
    ),
    "arrays": (400, lambda: repeated(START + b'"z":[', b"[],", b"1]}")),
    "objects as the user": (400, lambda: repeated(START + b'"user":[', b"{},", b"1]}")),
    "numbers": (400, lambda: repeated(START + b'"z":[', b"0,", b"1]}")),
    "a number of 20 million digits": (400, lambda: repeated(START + b'"max_tokens":', b"1", b"}")),
    "options of streams": (400, lambda: repeated(START + b'"stream_options":{"a":"', b"x", b'"}}')),
    "a long model": (400, lambda: repeated(b'{"messages":[],"model":"', b"x", b'"}')),
    "a long text": (200, lambda: repeated(SAYS, b"x", b'"}]}')),
    "escapes": (200, lambda: repeated(SAYS, b"\\n", b'"}]}')),
    "four bytes a character": (
        200,
        lambda: repeated(SAYS, "\N{GRINNING FACE}".encode(), b'"}]}'),
    ),
    "9,000 messages": (
        200,
        lambda: b'{"model":"m","messages":['
        + b",".join([b'{"role":"user","content":"' + b"x" * 2000 + b'"}'] * 9000)
        + b"]}",
    ),
}  # fmt: skip


@pytest.fixture
def served(settings, tmp_path, transactional_db, upstream):
    settings.JOURNAL_DIR, settings.DATA_DIR = tmp_path / "journal", tmp_path
    settings.LIMITS_FILE, settings.REDIS_URL = tmp_path / "limits.json", ""
    provider = make_provider(slug="one", base_url=upstream.url("one"), retries=0)
    make_target(route=make_route(name="m"), provider=provider, upstream_model="m")
    _, key = make_key(rpm=10**6, tpm=10**12)
    stop_gateway()
    gateway = build_gateway()
    gateway.keeper.refresh()
    with ServedInProcess(gateway) as running:
        running.given = {"authorization": f"Bearer {key}"}
        yield running


class Callbacks:
    """The longest CPU time that the gateway held the event loop in one call."""

    def __init__(self, monkeypatch):
        self.longest = (0.0, "")
        run = asyncio.Handle._run

        def timed(handle):
            started = time.thread_time()
            name = repr(handle)
            try:
                return run(handle)
            finally:
                self.longest = max(self.longest, (time.thread_time() - started, name))

        monkeypatch.setattr(asyncio.Handle, "_run", timed)


async def send_slowly(client, served, body, headers):
    """In parts, so that the test's own client, on the same loop, holds it no longer than the gateway may."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    client._writer.write("\r\n".join([*lines, "", ""]).encode())
    view = memoryview(body)
    for begin in range(0, len(body), 1 << 18):
        client._writer.write(view[begin : begin + (1 << 18)])
        await client._writer.drain()
    return await client.answer()


@pytest.mark.parametrize("door", DOORS)
def test_no_body_holds_the_event_loop(served, door, monkeypatch):
    watch = Callbacks(monkeypatch)
    found = {}

    async def ask(body):
        client = await served.client()
        status, told = await send_slowly(client, served, body, served.given | DOORS[door])
        await client.close()
        return status, told

    for what, (status, make) in BODIES.items():
        body = make()
        for _ in range(3):  # the least of three: the machine is shared
            watch.longest = (0.0, "")
            assert served.run(ask(body))[0] == status, what
            found[what] = min(found.get(what, watch.longest), watch.longest)
            if found[what][0] < MOST_SECONDS:
                break
    too_long = {what: spent for what, spent in found.items() if spent[0] > MOST_SECONDS}
    assert too_long == {}


def asked(**more):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello!"}]} | more).encode()


DEEP = {depth: b'{"z":' + b"[" * depth for depth in (1_000, 100_000)}
WRONG = {
    **{f"{depth} deep": (body, {}, None) for depth, body in DEEP.items()},
    "deep messages": (b'{"model":"m","messages":' + b"[" * 100_000, {}, None),
    "max_tokens of 65 bits": (asked(max_tokens=2**65), {}, "max_tokens"),
    "max_tokens of 6,000 digits": (b'{"max_tokens":' + b"9" * 6000 + b"," + asked()[1:], {}, "max_tokens"),
    "max_completion_tokens of 65 bits": (asked(max_completion_tokens=2**65), {}, "max_completion_tokens"),
    "n of 65 bits": (asked(n=2**65), {}, "n"),
    "n below 0": (asked(n=-1), {}, "n"),
    "a time-out of 6,000 digits": (asked(), {"x-litellm-timeout": "9" * 6000}, "x-litellm-timeout"),
    "retries of 6,000 digits": (asked(), {"x-litellm-num-retries": "9" * 6000}, "x-litellm-num-retries"),
    "a long model": (asked(model="x" * 257), {}, "model"),
    "a long model in a header": (asked(), {"x-litellm-model": "x" * 257}, "model"),
    "1,001 fields": (asked(**{f"k{number}": 1 for number in range(999)}), {}, None),
    "1,001 fields of a larger body": (asked(**{f"k{number}": "x" * 30 for number in range(999)}), {}, None),
    "10,001 messages": (asked(messages=[{"role": "u", "content": "x"}] * 10_001), {}, "messages"),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_numbers_depths_and_counts_are_bounded_where_they_are_read(served, door):
    async def ask(body, headers):
        client = await served.client()
        status, told = await client.ask(body, **(served.given | DOORS[door] | headers))
        await client.close()
        return status, json.loads(told[told.index(b"{") : told.rindex(b"}") + 1])["error"]

    for what, (body, headers, param) in WRONG.items():
        status, error = served.run(ask(body, headers))
        assert (status, error["param"], error["gateway_code"]) == (400, param, "VALIDATION_ERROR"), (
            what,
            error,
        )


@pytest.mark.parametrize("door", DOORS)
def test_64_bits_of_tokens_are_counted_as_the_most_there_are(served, door):
    _, key = make_key(tpm=10**9)
    served._gateway.keeper.refresh()
    headers = {"authorization": f"Bearer {key}"} | DOORS[door]

    async def ask(body):
        client = await served.client()
        found = await client.ask(body, **headers)
        await client.close()
        return found[0]

    assert served.run(ask(asked(max_tokens=2**53 - 1, n=2**53 - 1))) == 429
    assert served.run(ask(asked(max_tokens=10, n=2))) == 200


def test_a_large_body_is_served_like_a_small_one(served, upstream):
    async def ask():
        client = await served.client()
        found = await client.ask(asked(filler="x" * 100_000, n=1), **served.given)
        await client.close()
        return found

    assert served.run(ask())[0] == 200
    assert upstream.calls("one")[-1].json["filler"] == "x" * 100_000
