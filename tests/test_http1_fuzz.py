"""proxy/transports/http1.py against bytes in any pieces and in any state of repair."""

import asyncio

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.transports.base import TransportFault
from proxy.transports.http1 import Http1Connection
from proxy.transports.room import Room

tokens = st.text("abcXYZ-09", min_size=1, max_size=12).filter(lambda name: name[0] != "-")
values = st.text("abc XYZ;=/,09", max_size=20).map(str.strip)
headers = st.lists(st.tuples(tokens.map(lambda name: "x-" + name), values), max_size=4)
bodies = st.binary(max_size=300)
GAP = st.integers(1, 60)


class FakeTransport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.aborted = False
        self.paused = False

    def write(self, data):
        pass

    def abort(self):
        self.aborted = True

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


class Line:
    """A connection without a socket, and what its pool was told."""

    def __init__(self, loop):
        self.freed = 0
        self.transport = FakeTransport()
        self.connection = Http1Connection(loop, "place", self._free, lambda _: None, Room(2**25))
        self.connection.connection_made(self.transport)

    def _free(self, connection):
        self.freed += 1

    @property
    def reusable(self):
        return self.freed and not self.connection.lost

    def feed(self, pieces):
        """As a socket does: nothing comes after an abort."""
        for piece in pieces:
            if not self.transport.aborted and piece:
                self.connection.data_received(piece)

    def end(self):
        self.connection.connection_lost(None)


def run(story):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(story(loop), 5))
    finally:
        loop.close()


@st.composite
def cuts(draw, data):
    """`data` in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@st.composite
def answers(draw):
    """(bytes, status, headers, body, how it is framed)"""
    status = draw(st.sampled_from([200, 201, 400, 404, 429, 500, 503]))
    fields, body = draw(headers), draw(bodies)
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    lines = [f"{name}: {value}" for name, value in fields]
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    head = "\r\n".join([f"HTTP/1.1 {status} Some Words", *lines, "", ""]).encode()
    early = draw(st.sampled_from([b"", b"", b"HTTP/1.1 103 Early Hints\r\nx-early: 1\r\n\r\n"]))
    return (
        early + head + (_chunked(draw, body) if framing == "chunked" else body),
        status,
        fields,
        body,
        framing,
    )


def _chunked(draw, body):
    size = draw(GAP)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


async def collected(response):
    parts = []
    while part := await response.next_chunk():
        parts.append(part)
    return b"".join(parts)


@settings(max_examples=400, deadline=None)
@given(answer=answers(), stream=st.booleans(), data=st.data())
def test_a_valid_answer_is_the_same_in_any_pieces(answer, stream, data):
    sent, status, fields, body, framing = answer
    pieces = data.draw(cuts(sent))

    async def story(loop):
        line = Line(loop)
        response = line.connection.request(b"", stream)
        line.feed(pieces)
        if framing == "close":
            line.end()
        await response.head()
        assert response.status == status
        assert response.header("x-early") is None
        for name in {name.lower() for name, _ in fields}:
            same = [value for found, value in fields if found.lower() == name]
            assert response.header(name) == ", ".join(same)
        assert (await collected(response) if stream else await response.read()) == body
        assert bool(line.reusable) == (framing != "close")

    run(story)


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "drop", "insert", "cut", "double"]),
        st.integers(0, 10**6),
        st.binary(max_size=3),
    ),
    max_size=5,
)


def mutated(data, changes):
    for kind, place, extra in changes:
        at = place % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << place % 8)]) + data[at + 1 :]
        elif kind == "drop":
            data = data[:at] + data[at + 1 + len(extra) :]
        elif kind == "insert":
            data = data[:at] + extra + data[at:]
        elif kind == "cut":
            data = data[:at]
        elif kind == "double":
            data = data[:at] + data
    return data


@settings(max_examples=800, deadline=None)
@given(answer=answers(), changes=MUTATIONS, stream=st.booleans(), data=st.data())
@example(
    (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nba",
        0,
        0,
        0,
        "",
    ),
    [],
    False,
    None,
)
def test_broken_bytes_end_the_call_and_reach_no_other(answer, changes, stream, data):
    sent = mutated(answer[0], changes)
    pieces = data.draw(cuts(sent)) if data is not None else [sent]
    mark = b"this is the answer to the second call"
    second = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(mark), mark)

    async def story(loop):
        line = Line(loop)
        response = line.connection.request(b"", stream)
        line.feed(pieces)
        reusable = line.reusable
        if not reusable:
            line.end()  # the server closes, or has been aborted
        try:
            await response.head()
            await collected(response)
        except TransportFault:
            assert not reusable
        if reusable:
            following = line.connection.request(b"", False)
            line.feed([second])
            await following.head()
            assert await following.read() == mark

    run(story)
