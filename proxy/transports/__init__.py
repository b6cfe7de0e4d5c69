"""Ways to call a provider; UPSTREAM_TRANSPORT picks one."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from proxy.transports.base import Transport
from proxy.transports.fast import FastTransport
from proxy.transports.httpx import HttpxTransport
from routing.table import Connection

TRANSPORTS: dict[str, type[FastTransport] | type[HttpxTransport]] = {
    "fast": FastTransport,
    "httpx": HttpxTransport,
}


def transport_for(wanted: str, base_url: str) -> str:
    """`wanted`, unless the environment puts a proxy before this provider: only httpx speaks to one."""
    parts = urlsplit(base_url)
    proxies = getproxies()
    proxied = (parts.scheme in proxies or "all" in proxies) and not proxy_bypass(parts.hostname or "")
    return "httpx" if proxied else wanted


def make_transport(name: str, connection: Connection) -> Transport:
    """`name` is fast or httpx."""
    return TRANSPORTS[name](connection)
