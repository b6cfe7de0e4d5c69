"""Connects only to addresses that were looked at: what is checked is what is connected to."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import httpcore
import httpx

from routing.addresses import AddressRefused, Rules

Made = TypeVar("Made")


async def addresses_of(host: str, port: int, rules: Rules) -> list[str]:
    """Those of the host that may be connected to. Raises AddressRefused, OSError or UnicodeError."""
    rules.check_name(host)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return allowed((str(info[4][0]) for info in found), port, rules)


def allowed(addresses: Iterable[str], port: int, rules: Rules) -> list[str]:
    """Raises AddressRefused where none is left."""
    good: list[str] = []
    refused: AddressRefused | None = None
    for address in dict.fromkeys(addresses):
        try:
            rules.check(address, port)
            good.append(address)
        except AddressRefused as why:
            refused = why
    if not good and refused is not None:
        raise refused
    return good


async def connected(
    host: str, port: int, rules: Rules, connect: Callable[[str], Awaitable[Made]], failures: type[Exception]
) -> Made:
    """What `connect` makes of the first address that takes a connection."""
    last: Exception = OSError(f"{host} has no address")
    for address in await addresses_of(host, port, rules):
        try:
            return await connect(address)
        except failures as failure:
            last = failure
    raise last


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """httpcore's way to the network. Names and certificates stay those of the URL."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        def connect(address: str) -> Awaitable[httpcore.AsyncNetworkStream]:
            return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)

        try:
            async with asyncio.timeout(timeout):
                return await connected(host, port, self._rules, connect, httpcore.ConnectError)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        except (AddressRefused, OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def checked(client: httpx.AsyncClient, rules: Rules) -> httpx.AsyncClient:
    """The same client. Behind a proxy only names and literal addresses can be checked: the proxy resolves."""

    async def check(request: httpx.Request) -> None:
        try:
            rules.check_url(str(request.url))
        except AddressRefused as why:
            raise httpx.ConnectError(str(why)) from why

    # httpx has no public way to give its pool a backend; tests/test_addresses.py tells if this one is gone.
    client._transport._pool._network_backend = CheckedBackend(rules)  # type: ignore[attr-defined]
    client.event_hooks = {"request": [check]}
    return client


def refusal(error: BaseException | None) -> AddressRefused | None:
    """What is behind an error of httpx, if it is that."""
    while error is not None and not isinstance(error, AddressRefused):
        error = error.__cause__ or error.__context__  # httpcore drops the cause
    return error
