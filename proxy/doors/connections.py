"""How many connections clients may have; one look a second at each of them."""

import asyncio
import resource
import time
from typing import Protocol
from weakref import WeakKeyDictionary

from django.conf import settings
from uvicorn.server import ServerState

from proxy.access.client_address import TrustedProxies, counted_as
from proxy.errors import GatewayError, TooManyConnections

LOOK_SECONDS = 1.0
OTHER_FILES = 128  # that a process has open beside connections: database, journal, Redis, logs
AT_ONCE = 50  # the 50th part of all connections makes room together: to look for them costs time


class Connection(Protocol):
    """Of a client, as its door knows it."""

    @property
    def transport(self) -> asyncio.Transport: ...

    @property
    def client(self) -> tuple[str, int] | None:
        """Its address."""

    @property
    def spare_since(self) -> float | None:
        """Since when it does nothing that it would be missed for; None while it does."""

    def end_if_slow(self, now: float) -> None: ...

    def end_with(self, error: GatewayError) -> None: ...


class Connections:
    """Of one server."""

    _of: "WeakKeyDictionary[ServerState, Connections]" = WeakKeyDictionary()

    def __init__(self, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self._all: set[Connection] = state.connections  # type: ignore[assignment]
        self._loop = loop
        self._looks = False
        self._none_spare = False  # when they were last looked through, since the last look
        self._most = min(settings.CLIENT_CONNECTIONS, most_by_files())
        self._proxies = TrustedProxies(settings.TRUSTED_PROXIES)

    @classmethod
    def of(cls, state: ServerState, loop: asyncio.AbstractEventLoop) -> "Connections":
        found = cls._of.get(state)
        if found is None:
            found = cls._of[state] = cls(state, loop)
        return found

    def welcome(self, newcomer: Connection) -> None:
        """Where there is no room, an idle connection goes, else the new one."""
        if not self._looks:
            self._looks = True
            self._loop.call_later(LOOK_SECONDS, self._look)
        if len(self._all) > self._most and not self._make_room(newcomer):
            newcomer.end_with(TooManyConnections(retry_after=1))
            self._all.discard(newcomer)

    def _make_room(self, newcomer: Connection) -> bool:
        if self._none_spare:
            return False
        spare = _by_age([one for one in self._all if one is not newcomer and one.spare_since is not None])
        for connection in spare[: max(len(self._all) // AT_ONCE, 1)]:
            self._end(connection)
        self._none_spare = not spare
        return bool(spare)

    def _end(self, connection: Connection) -> None:
        self._all.discard(connection)  # before the event loop gets to it: more may come in this turn
        connection.transport.abort()

    def _look(self) -> None:
        """One timer for all connections: one for each would cost every request."""
        now = time.perf_counter()
        for connection in list(self._all):
            connection.end_if_slow(now)
        self._end_idle()
        self._none_spare = False
        self._looks = bool(self._all)
        if self._looks:
            self._loop.call_later(LOOK_SECONDS, self._look)

    def _end_idle(self) -> None:
        """Where one address has more of them than it may."""
        most = settings.IDLE_CONNECTIONS_PER_ADDRESS
        if len(self._all) <= most:
            return
        by_host: dict[str, list[Connection]] = {}
        for connection in self._all:
            if connection.spare_since is not None and connection.client:
                by_host.setdefault(connection.client[0], []).append(connection)
        by_address: dict[str, list[Connection]] = {}
        for host, idle in by_host.items():
            by_address.setdefault(self._counted_as(host), []).extend(idle)
        by_address.pop("", None)
        for idle in by_address.values():
            for connection in _by_age(idle)[: max(len(idle) - most, 0)]:
                self._end(connection)

    def _counted_as(self, address: str) -> str:
        """ "" for what has no bound of its own: a proxy in front has the connections of all clients."""
        return "" if not address or self._proxies.trusts(address) else counted_as(address)


def most_by_files() -> int:
    """Half of the files that the process may open: a stream needs two, to client and provider."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max((soft - OTHER_FILES) // 2, 16)


def _by_age(connections: list[Connection]) -> list[Connection]:
    return sorted(connections, key=lambda connection: connection.spare_since or 0.0)
