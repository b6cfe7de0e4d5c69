"""The contract of proxy/transports/base.py, held by every transport against a server of raw bytes."""

import asyncio
import contextlib
import gc
import socket
import weakref

import pytest
import uvloop

from proxy.transports import make_transport
from proxy.transports.base import (
    LONGEST_ERROR,
    ConnectFailed,
    ConnectionBroken,
    RequestHead,
    TransportFault,
    TransportTimeout,
    UpstreamRequest,
)
from proxy.transports.fast import tls_context
from proxy.transports.http1 import Http1Connection
from routing.table import Connection
from tests.certificates import Authority
from tests.live import eventually, steady
from tests.raw_server import RawServer, answering, serving, whole

SECRET = "sk-never-to-be-shown"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
BIG = b"0123456789abcdef" * (5 * 1024 * 1024 // 16)


@pytest.fixture(params=["fast", "fast on asyncio", "httpx"])
def kind(request):
    return request.param


@pytest.fixture
def event_loop_policy(kind):
    return uvloop.EventLoopPolicy() if kind == "fast" else asyncio.DefaultEventLoopPolicy()


@pytest.fixture
def transport(kind):
    """Makes transports, and closes them."""

    @contextlib.asynccontextmanager
    async def make(**settings):
        defaults = {"connect_timeout": 5, "read_timeout": 5, "max_connections": 100, "queue_timeout": 1}
        connection = Connection(**{**defaults, "keep_alive": 60, **settings})
        made = make_transport(kind.split()[0], connection)
        try:
            yield made
        finally:
            await made.aclose()

    return make


def post(where, body=b"{}", *, stream=False, headers=(), silence=5.0):
    url = where.url() if isinstance(where, RawServer) else where
    head = RequestHead(
        url, [("Authorization", f"Bearer {SECRET}"), ("accept-encoding", "identity"), *headers]
    )
    return UpstreamRequest(head, body, stream, silence)


async def body_of(response, stream):
    if not stream:
        return await response.read()
    parts = []
    while part := await response.next_chunk():
        parts.append(part)
    return b"".join(parts)


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


# What is answered


@both
@pytest.mark.parametrize(
    "pieces",
    [
        [whole(b"hello")],
        [whole(b"hello")[:-3], b"llo"],
        [CHUNKED + b"2\r\nhe\r\n", b"3;ext=1\r\nllo\r\n", b"0\r\ntrailer: x\r\n\r\n"],
        [CHUNKED + b"5\r\nhello\r\n0\r", b"\n\r\n"],
        [UNTIL_CLOSE, b"hel", b"lo"],
        [b"HTTP/1.1 100 Continue\r\n\r\n", whole(b"hello")],
        [b"HTTP/1.1 103 Early Hints\r\nx-hint: 1\r\n\r\n" + whole(b"hello")],
    ],
    ids=["length", "length in pieces", "chunked", "chunked end in pieces", "until close", "100", "103"],
)
async def test_a_body_arrives_however_it_is_framed(transport, pieces, stream):
    async def script(peer):
        await peer.request()
        await peer.send(*pieces)

    async with serving(script) as server, transport() as made:
        response = await made.send(post(server, stream=stream))
        assert response.status == 200
        assert response.header("x-hint") is None
        assert await body_of(response, stream) == b"hello"
        assert response.header("trailer") is None


@both
async def test_an_empty_body_ends_at_once(transport, stream):
    async with serving(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as server, transport() as made:
        for _ in range(2):
            response = await made.send(post(server, stream=stream))
            assert (response.status, await body_of(response, stream)) == (204, b"")


async def test_headers_are_found_by_lower_case_name_and_repeated_ones_joined(transport):
    answer = whole(b"{}", b"X-Request-ID: 7", b"X-MANY: a", b"x-many: b", status=b"429 Slow down")
    async with serving(answering(answer)) as server, transport() as made:
        response = await made.send(post(server))
        found = (response.status, response.header("x-request-id"), response.header("x-many"))
        assert found == (429, "7", "a, b")
        assert response.header("x-none") is None


@both
async def test_five_megabytes_go_both_ways(kind, transport, stream):
    seen = []
    async with serving(answering(whole(BIG), seen=seen)) as server, transport() as made:
        for _ in range(2):
            response = await made.send(post(server, BIG, stream=stream))
            assert await body_of(response, stream) == BIG
        assert [body for _, body in seen] == [BIG, BIG]
        assert server.opened == (2 if kind == "httpx" else 1)


async def test_a_stream_is_handed_on_as_it_arrives(transport):
    go_on = asyncio.Event()

    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED + b"3\r\none\r\n")
        await go_on.wait()
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async with serving(script) as server, transport() as made:
        response = await made.send(post(server, stream=True))
        assert await response.next_chunk() == b"one"
        go_on.set()
        assert await response.next_chunk() == b"two"
        assert await response.next_chunk() == b""
        assert await response.next_chunk() == b""


class Steps:
    """A stream of five chunks, each of which comes when it is called for."""

    def __init__(self):
        self.next = asyncio.Semaphore(0)

    async def __call__(self, peer):
        await peer.request()
        await peer.send(CHUNKED)
        for word in (b"one", b"two", b"three", b"four", b"five"):
            await self.next.acquire()
            await peer.send(b"%x\r\n%b\r\n" % (len(word), word))
        await peer.send(b"0\r\n\r\n")

    def come(self, count=1):
        for _ in range(count):
            self.next.release()


async def test_what_comes_during_a_wait_is_the_sinks_up_to_what_it_does_not_take(transport):
    steps, taken = Steps(), []

    def sink(chunk):
        steps.come()
        if len(taken) == 2:
            return False
        taken.append(chunk)
        return True

    async with serving(steps) as server, transport() as made:
        response = await made.send(post(server, stream=True))
        steps.come()
        assert await response.next_chunk() == b"one"
        steps.come()
        assert await response.next_chunk(sink) == b"four"
        assert await body_of(response, True) == b"five"
        assert taken == [b"two", b"three"]


async def test_what_a_sink_raises_ends_the_wait_for_it(transport):
    steps = Steps()

    def sink(chunk):
        raise ConnectionBroken(f"enough of {chunk.decode()}")

    async with serving(steps) as server, transport() as made:
        response = await made.send(post(server, stream=True))
        steps.come()
        with pytest.raises(ConnectionBroken, match="enough of one"):
            await response.next_chunk(sink)
        steps.come(4)
        assert await body_of(response, True) == b"twothreefourfive"


async def test_what_a_sink_raises_leaves_nothing_for_the_garbage_collector(transport):
    class Holder:
        def sink(self, chunk):
            raise ConnectionBroken("enough")

    steps = Steps()
    async with serving(steps) as server, transport() as made:
        gc.collect()
        gc.disable()
        try:
            response = await made.send(post(server, stream=True))
            steps.come()
            holder = Holder()
            held = weakref.ref(holder)
            with pytest.raises(ConnectionBroken, match="enough"):
                await response.next_chunk(holder.sink)
            await response.aclose()
            del holder, response
            await eventually(lambda: held() is None, "nobody holds what the sink belongs to")
        finally:
            gc.enable()


async def test_a_sink_gets_nothing_after_its_wait_was_cancelled(transport):
    steps, taken = Steps(), []

    def sink(chunk):
        taken.append(chunk)
        return True

    async with serving(steps) as server, transport() as made:
        response = await made.send(post(server, stream=True))
        steps.come()
        wait = asyncio.ensure_future(response.next_chunk(sink))
        await eventually(lambda: taken, "the sink has a chunk")
        wait.cancel()
        steps.come(4)
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert await body_of(response, True) == b"twothreefourfive"
        assert taken == [b"one"]


async def test_a_redirect_is_handed_on_not_followed(transport):
    answer = whole(b"", b"location: /other", status=b"302 Found")
    seen = []
    async with serving(answering(answer, seen=seen)) as server, transport() as made:
        response = await made.send(post(server))
        assert (response.status, response.header("location"), len(seen)) == (302, "/other", 1)


# What is sent


async def test_the_request_says_where_it_goes_and_nothing_of_who_asks(transport):
    seen = []
    async with serving(answering(whole(), seen=seen)) as server, transport() as made:
        url = f"http://user:{SECRET}@127.0.0.1:{server.port}/base/v1/chat?api-version=2"
        await (
            await made.send(UpstreamRequest(RequestHead(url, [("X-Case", "Kept")]), b"body", False))
        ).read()
    head, body = seen[0]
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /base/v1/chat?api-version=2 HTTP/1.1"
    hosts = [line.partition(b":")[2].strip() for line in lines if line.lower().startswith(b"host:")]
    assert hosts == [b"127.0.0.1:%d" % server.port]
    assert b"X-Case: Kept" in lines
    assert body == b"body"


async def test_an_ipv6_address_is_a_host(transport):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    seen = []
    async with serving(answering(whole(b"six"), seen=seen), host="::1") as server, transport() as made:
        response = await made.send(post(f"http://[::1]:{server.port}/v1"))
        assert await response.read() == b"six"
    assert b"host: [::1]:%d\r\n" % server.port in seen[0][0].lower()


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb"])
async def test_a_line_break_in_a_header_is_refused(transport, value):
    seen = []
    async with serving(answering(whole(), seen=seen)) as server, transport() as made:
        with pytest.raises(ConnectFailed):
            await made.send(post(server, headers=[("x-tag", value)]))
    assert seen == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "http:///v1", "http://127.0.0.1:x/v1"])
async def test_a_url_that_is_none_is_a_fault(transport, url):
    async with transport() as made:
        with pytest.raises(ConnectFailed):
            await made.send(post(url))


# Connections are kept


@both
async def test_a_connection_is_used_again_by_who_knows_that_it_is_clean(kind, transport, stream):
    async with serving(answering(whole())) as server, transport() as made:
        for _ in range(5):
            assert await body_of(await made.send(post(server, stream=stream)), stream) == b"{}"
        assert server.opened == (5 if kind == "httpx" else 1)
        assert made.opened_total == server.opened


def can_begin(kind, transport, request):
    """Once a connection is idle; httpx never can."""
    found = transport.can_begin(request.head)
    assert found == (kind != "httpx")
    return found


@both
async def test_what_is_begun_is_on_its_way_before_anyone_waits(kind, transport, stream):
    seen = []
    async with serving(answering(whole(b"hello"), seen=seen)) as server, transport() as made:
        request = post(server, b'{"n": 1}', stream=stream)
        assert not made.can_begin(request.head), "there is no connection yet"
        assert await body_of(await made.send(request), stream) == b"hello"
        if not can_begin(kind, made, request):
            return
        begun = made.begin(request)
        assert not made.can_begin(request.head)
        await eventually(lambda: len(seen) == 2, "the request is there")
        await asyncio.sleep(0.01)  # the answer is here, too
        assert await body_of(await begun.head(), stream) == b"hello"
        assert (made.idle, made.opened_total) == (1, 1)


async def test_nothing_is_begun_on_a_connection_that_the_server_closed_idle(kind, transport):
    async def script(peer):
        await peer.request()
        await peer.send(whole(b"hello"))

    async with serving(script) as server, transport() as made:
        request = post(server)
        await (await made.send(request)).read()
        await eventually(lambda: not made.can_begin(request.head), "it is seen to be closed")
        assert await (await made.send(request)).read() == b"hello"


async def test_what_is_begun_and_abandoned_closes_its_connection(kind, transport):
    async with serving(answering(whole(b"hello"))) as server, transport() as made:
        request = post(server)
        await (await made.send(request)).read()
        if can_begin(kind, made, request):
            made.begin(request).abandon()
            assert made.idle == 0
            assert await (await made.send(request)).read() == b"hello"
            assert made.opened_total == 2


@both
async def test_what_is_begun_fails_as_what_is_sent(kind, transport, stream):
    async def script(peer):
        await peer.request()
        await peer.send(whole(b"hello"))
        await peer.request()
        await peer.send(b"HTTP/1.1 2")

    async with serving(script) as server, transport() as made:
        request = post(server, stream=stream)
        await body_of(await made.send(request), stream)
        if can_begin(kind, made, request):
            begun = made.begin(request)
            await asyncio.sleep(0.05)  # it is broken before anyone waits
            with pytest.raises(ConnectionBroken):
                await begun.head()


async def test_calls_side_by_side_never_share_one(transport):
    async def script(peer):
        while True:
            _, body = await peer.request()
            await peer.send(whole(b"answer to " + body))

    async with serving(script) as server, transport() as made:

        async def call(number):
            response = await made.send(post(server, b"%d" % number, stream=bool(number % 2)))
            return await body_of(response, number % 2)

        answers = await asyncio.gather(*map(call, range(50)))
    assert answers == [b"answer to %d" % number for number in range(50)]


@pytest.mark.parametrize("answer", [whole(b"{}", b"connection: close"), b"HTTP/1.0 200 OK\r\n\r\n{}"])
async def test_a_server_that_closes_gets_a_new_connection(transport, answer):
    async def script(peer):
        await peer.request()
        await peer.send(answer)

    async with serving(script) as server, transport() as made:
        for _ in range(3):
            assert await (await made.send(post(server))).read() == b"{}"
        assert server.opened == 3


async def test_a_connection_that_the_server_closed_idle_is_not_used(transport):
    async def script(peer):
        await peer.request()
        await peer.send(whole())

    async with serving(script) as server, transport() as made:
        for _ in range(3):
            assert await (await made.send(post(server))).read() == b"{}"
            await asyncio.sleep(0.05)
        assert server.opened == 3


@pytest.mark.parametrize("kind", ["fast", "fast on asyncio"], indirect=True)
async def test_a_connection_that_is_over_waits_for_no_garbage_collection(transport):
    """It would for millions of requests: memory grew by 6 % meanwhile."""

    async def script(peer):
        await peer.request()
        await peer.send(whole(b"{}", b"connection: close"))

    async with serving(script) as server, transport() as made:
        gc.collect()
        gc.disable()
        others = open_connections()  # of gateways that other tests ended
        try:
            for _ in range(5):
                await (await made.send(post(server))).read()
            await eventually(lambda: not open_connections() - others, "all of them are gone")
        finally:
            gc.enable()


def open_connections():
    return {id(one) for one in gc.get_objects() if isinstance(one, Http1Connection)}


async def test_an_idle_connection_is_let_go(transport):
    async with serving(answering(whole())) as server, transport(keep_alive=0.2) as made:
        await (await made.send(post(server))).read()
        await asyncio.sleep(0.6)
        await (await made.send(post(server))).read()
        assert server.opened == 2


async def test_keep_alive_0_keeps_none(transport):
    async with serving(answering(whole())) as server, transport(keep_alive=0) as made:
        for _ in range(3):
            await (await made.send(post(server))).read()
        assert server.opened == 3


@pytest.mark.parametrize(
    "extra", [whole(b"evil"), whole(b"evil")[:-2], b"HTTP/1.1 200 OK\r\ncontent-le", b"rubbish"]
)
@pytest.mark.parametrize("together", [True, False])
async def test_bytes_that_nobody_asked_for_answer_nobody(transport, extra, together):
    async def script(peer):
        await peer.request()
        await peer.send(whole(b"good") + extra) if together else await peer.send(whole(b"good"), extra)
        await peer.request()
        await peer.send(b"il" + whole(b"late"))

    async with serving(script) as server, transport() as made:
        assert await (await made.send(post(server))).read() == b"good"
        await asyncio.sleep(0.1)
        assert await (await made.send(post(server))).read() == b"good"
        assert server.opened == 2


# Faults


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def fault_of(made, request):
    """The fault of a call, wherever in it."""
    with pytest.raises(TransportFault) as caught:
        async with asyncio.timeout(4):
            await body_of(await made.send(request), request.stream)
    seen, error = [], caught.value
    while error is not None:
        seen += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    assert SECRET not in "".join(seen)
    return caught.value


@both
async def test_a_refused_connection(transport, stream):
    async with transport() as made:
        fault = await fault_of(made, post(f"http://127.0.0.1:{closed_port()}/", stream=stream))
    assert type(fault) is ConnectFailed


async def test_a_host_that_accepts_nobody_times_out(transport):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with transport(connect_timeout=0.3) as made:
            fault = await fault_of(made, post(f"http://127.0.0.1:{port}/"))
        for filler in fillers:
            filler.close()
    assert type(fault) is TransportTimeout


@both
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", whole(b"four")[:-2], CHUNKED + b"2\r\nhi\r\n"])
async def test_silence_is_a_time_out(transport, stream, sent):
    closed = asyncio.Event()

    async def script(peer):
        await peer.request()
        await peer.send(sent)
        if await peer.closed():
            closed.set()

    async with serving(script) as server, transport(read_timeout=0.3) as made:
        response = None
        fault = await fault_of(made, post(server, stream=stream, silence=0.3))
        await asyncio.wait_for(closed.wait(), 2)
    assert type(fault) is TransportTimeout
    assert response is None


@both
async def test_without_a_bound_silence_is_none(transport, stream):
    """The read time-out of a provider has no say where the request has none: an answer is being made."""

    async def script(peer):
        await peer.request()
        await asyncio.sleep(1.2)
        await peer.send(whole(b"four"))

    async with serving(script) as server, transport(read_timeout=0.1) as made:
        response = await made.send(post(server, stream=stream, silence=None))
        assert await body_of(response, stream) == b"four"


async def test_a_stream_that_has_begun_may_be_allowed_more(transport, kind):
    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED + b"2\r\nhi\r\n")
        await asyncio.sleep(1.2)
        await peer.send(b"0\r\n\r\n")

    async with serving(script) as server, transport(read_timeout=0.1) as made:
        response = await made.send(post(server, stream=True, silence=0.3))
        response.allow_silence(60)
        if kind != "httpx":  # which asks for its bound once
            assert await body_of(response, True) == b"hi"
        await response.aclose()


@both
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", whole(b"four")[:-2], CHUNKED + b"2\r\nhi\r\n"])
async def test_a_cut_answer_is_broken(transport, stream, sent, how):
    async def script(peer):
        await peer.request()
        await peer.send(sent)
        await asyncio.sleep(0.02)
        if how == "reset":
            peer.reset()

    async with serving(script) as server, transport() as made:
        fault = await fault_of(made, post(server, stream=stream))
    assert type(fault) is ConnectionBroken


@both
@pytest.mark.parametrize(
    "sent",
    [
        b"garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nbad header\x00: 1\r\n\r\n",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 600_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: aaaaaaaaaaaaaaaa\r\n" * 40_000 + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
    ids=[
        "garbage",
        "ssh",
        "status",
        "length",
        "lengths",
        "nul",
        "chunk",
        "long header",
        "many headers",
        "101",
    ],
)
async def test_what_is_no_http_is_broken(transport, stream, sent):
    async def script(peer):
        await peer.request()
        await peer.send(sent)
        await peer.closed(1)

    async with serving(script) as server, transport() as made:
        if b"101" in sent:
            with contextlib.suppress(TransportFault):
                response = await asyncio.wait_for(made.send(post(server, stream=stream)), 3)
                assert response.status == 101
                await response.aclose()
            return
        fault = await fault_of(made, post(server, stream=stream))
    assert type(fault) is ConnectionBroken


async def test_a_head_without_end_is_cut_off(transport):
    async def script(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nx: ")
        for _ in range(1000):
            await peer.send(b"a" * 10_000)

    async with serving(script) as server, transport() as made:
        fault = await fault_of(made, post(server))
    assert type(fault) is ConnectionBroken


async def test_an_answer_too_long_to_keep_says_so(transport):
    async with serving(answering(whole(BIG))) as server, transport(longest_answer=300_000) as made:
        fault = await fault_of(made, post(server))
        assert str(fault) == "sent an answer of more than 300,000 bytes"
        assert await body_of(await made.send(post(server, stream=True)), True) == BIG


@both
async def test_of_an_error_little_more_than_its_beginning_is_read(transport, stream):
    async with serving(answering(whole(BIG, status=b"400 No"))) as server, transport() as made:
        response = await made.send(post(server, stream=stream))
        body = await response.read()
        assert (response.status, BIG.startswith(body)) == (400, True)
        assert LONGEST_ERROR <= len(body) <= LONGEST_ERROR + 300_000
        await response.aclose()
        assert await (await made.send(post(server, stream=stream))).read()


# TLS


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """A server's TLS context for a name, from a CA that SSL_CERT_FILE trusts."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    tls_context.cache_clear()
    yield authority.server_context
    tls_context.cache_clear()


@both
async def test_tls_with_a_ca_of_ones_own(kind, transport, tls, stream):
    async with serving(answering(whole(BIG)), tls=tls("127.0.0.1")) as server, transport() as made:
        for _ in range(2):
            request = post(f"https://127.0.0.1:{server.port}/v1", BIG, stream=stream)
            assert await body_of(await made.send(request), stream) == BIG
        assert server.opened == (2 if kind == "httpx" else 1)


async def test_a_certificate_for_another_name_is_refused(transport, tls):
    seen = []
    async with serving(answering(whole(), seen=seen), tls=tls("other.test")) as server, transport() as made:
        fault = await fault_of(made, post(f"https://127.0.0.1:{server.port}/v1"))
    assert type(fault) is ConnectFailed
    assert seen == []


async def test_an_unknown_ca_is_refused(transport, tls, monkeypatch):
    context = tls("127.0.0.1")
    monkeypatch.delenv("SSL_CERT_FILE")
    async with serving(answering(whole()), tls=context) as server, transport() as made:
        fault = await fault_of(made, post(f"https://127.0.0.1:{server.port}/v1"))
    assert type(fault) is ConnectFailed


async def test_tls_to_a_server_without_it(transport):
    async def script(peer):
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad\r\n\r\n")

    async with serving(script) as server, transport() as made:
        fault = await fault_of(made, post(f"https://127.0.0.1:{server.port}/v1"))
    assert isinstance(fault, ConnectFailed | TransportTimeout)


# The end of a call


@both
@pytest.mark.parametrize("sent", [b"", CHUNKED + b"2\r\nhi\r\n"], ids=["before the head", "in the body"])
async def test_a_cancelled_call_closes_its_connection_at_once(transport, stream, sent):
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(peer):
        await peer.request()
        await peer.send(sent)
        asked.set()
        await peer.closed()
        gone.set()

    async with serving(script) as server, transport() as made:

        async def call():
            response = await made.send(post(server, stream=stream))
            try:
                await body_of(response, stream)
            finally:
                await response.aclose()

        task = asyncio.ensure_future(call())
        await asked.wait()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 0.5)
        assert made.idle == 0


async def test_a_response_that_is_closed_early_closes_its_connection(transport):
    gone = asyncio.Event()

    async def script(peer):
        await peer.request()
        await peer.send(CHUNKED + b"2\r\nhi\r\n")
        await peer.closed()
        gone.set()

    async with serving(script) as server, transport() as made:
        response = await made.send(post(server, stream=True))
        assert await response.next_chunk() == b"hi"
        await response.aclose()
        await response.aclose()
        await asyncio.wait_for(gone.wait(), 0.5)


async def test_closing_the_transport_fails_calls_under_way(kind, transport):
    if kind == "httpx":
        pytest.skip("httpx lets go of its connections and leaves the call to its time-out")
    async with serving(answering(b"")) as server, transport() as made:
        call = asyncio.ensure_future(made.send(post(server)))
        await asyncio.sleep(0.1)
        await made.aclose()
        with pytest.raises(ConnectionBroken):
            await asyncio.wait_for(call, 1)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_stream_that_is_read_whole_is_not_held_back(transport, framing):
    """A provider may answer a stream's request with a long JSON answer, or a long error."""
    pieces = [whole(BIG)]
    if framing == "chunks":
        parts = [b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 80
        pieces = [CHUNKED, *parts, b"0\r\n\r\n"]

    async def script(peer):
        await peer.request()
        await peer.send(*pieces)

    async with serving(script) as server, transport() as made:
        response = await made.send(post(server, stream=True))
        assert len(await asyncio.wait_for(response.read(), 10)) == len(BIG)


async def test_a_slow_reader_holds_the_server_back(transport):
    sent = 0

    async def script(peer):
        nonlocal sent
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(1000):
            await peer.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536
        await peer.send(b"0\r\n\r\n")

    async with serving(script) as server, transport(read_timeout=0.4) as made:
        response = await made.send(post(server, stream=True, silence=0.4))
        await response.next_chunk()
        # Each look is longer than the read time-out: it is we who are slow.
        held = await asyncio.to_thread(steady, lambda: sent, 0.6)
        assert 0 < held < 30_000_000  # what the sockets' buffers take, not all 65 MB
        assert len(await body_of(response, True)) > 60_000_000
