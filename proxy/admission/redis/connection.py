"""One connection to Redis that all calls of this process share.

What is asked for in one turn of the event loop leaves in one write, and the answers come in the
same order: a hundred concurrent calls cost one round trip, not a hundred connections.
"""

import asyncio
import ssl
from collections import deque
from typing import Any

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

Word = str | bytes | int | float


class RedisAway(Exception):
    """No answer within the deadline, or no connection."""


class RedisRefused(Exception):
    """Redis answered with an error."""


class RedisConnection(asyncio.Protocol):
    def __init__(self, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._answers = hiredis.Reader(replyError=RedisRefused)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._answered = 0
        self._turns: deque[tuple[int, float]] = deque()
        """Of each write: how many commands that made in all, and when it was."""
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Done when the connection is of no more use, with the reason."""

    @classmethod
    async def open(cls, url: str, timeout: float) -> "RedisConnection":
        """Connect and log in. `timeout` in seconds holds for this, and then for each command.

        Raises RedisAway or RedisRefused.
        """
        options = parse_url(url)
        connection = cls(timeout)
        try:
            async with asyncio.timeout(timeout * 2):
                await _connect(connection, options)
        except (OSError, TimeoutError) as error:
            raise RedisAway(str(error) or "no connection in time") from error
        try:
            await connection._log_in(options)
        except BaseException:
            connection.close("the log-in failed")
            raise
        return connection

    async def _log_in(self, options: Any) -> None:
        user, password = options.get("username"), options.get("password")
        if password:
            await self.call("AUTH", *([user] if user else []), password)
        if options.get("db"):
            await self.call("SELECT", options["db"])
        await self.call("PING")

    def call(self, *words: Word) -> "asyncio.Future[Any]":
        """The reply, to be awaited. Raises RedisAway, RedisRefused from the future."""
        return self.send(hiredis.pack_command(words))  # type: ignore[arg-type] # its stub says one word

    def send(self, packed: bytes) -> "asyncio.Future[Any]":
        """As call(), of a command that is packed already."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.lost.done():
            future.set_exception(RedisAway(self.lost.result()))
            return future
        self._waiting.append(future)
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(packed)
        return future

    def close(self, reason: str) -> None:
        """All that still waits fails with RedisAway."""
        if not self.lost.done():
            self.lost.set_result(reason)
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(RedisAway(reason))

    def _send(self) -> None:
        parts, self._unsent = self._unsent, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(parts))
        self._forget_answered()
        self._turns.append((self._answered + len(self._waiting), self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._check)

    def _forget_answered(self) -> None:
        while self._turns and self._turns[0][0] <= self._answered:
            self._turns.popleft()

    def _check(self, patient: bool = True) -> None:
        """Fail the connection where its oldest command got no answer in time."""
        self._timer = None
        self._forget_answered()
        if not self._turns:
            return
        left = self._turns[0][1] + self._timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        elif patient:
            # Perhaps it was our own loop that stood still, and the answer lies in the socket.
            self._timer = self._loop.call_later(self._timeout / 10, self._check, False)
        else:
            self.close(f"no answer within {self._timeout * 1000:.0f} ms")

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._answers.feed(data)
        waiting, answer = self._waiting, self._answers.gets
        while waiting and (reply := answer()) is not False:
            future = waiting.popleft()
            self._answered += 1
            if future.done():
                continue  # its caller has gone
            if isinstance(reply, RedisRefused):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(str(exc) if exc else "Redis closed the connection")


async def _connect(connection: RedisConnection, options: Any) -> None:
    loop = asyncio.get_running_loop()
    if options.get("connection_class") is UnixDomainSocketConnection:
        await loop.create_unix_connection(lambda: connection, options["path"])
        return
    secure = _tls(options) if options.get("connection_class") is SSLConnection else None
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    await loop.create_connection(lambda: connection, host, port, ssl=secure)


def _tls(options: Any) -> ssl.SSLContext:
    """Of a rediss:// URL; ssl_ca_certs=FILE and ssl_cert_reqs=none in its query are heeded."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
