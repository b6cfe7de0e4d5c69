"""Ways to call a provider; UPSTREAM_TRANSPORT picks one."""

from proxy.transports.base import Transport
from routing.table import Connection


def make_transport(name: str, connection: Connection) -> Transport:
    """`name` is fast or httpx."""
    if name == "httpx":
        from proxy.transports.httpx import HttpxTransport

        return HttpxTransport(connection)
    from proxy.transports.fast import FastTransport

    return FastTransport(connection)
