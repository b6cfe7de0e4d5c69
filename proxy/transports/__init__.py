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


def transport_for(wanted: str, base_url: str) -> tuple[str, str]:
    """`wanted`, unless a proxy stands before this provider: only httpx speaks to one. And why it is that."""
    parts = urlsplit(base_url)
    proxies = getproxies()
    scheme = parts.scheme if parts.scheme in proxies else "all"
    if scheme in proxies and not proxy_bypass(parts.hostname or ""):
        return "httpx", f"{scheme.upper()}_PROXY is set, and this host is not in NO_PROXY"
    return wanted, "UPSTREAM_TRANSPORT is set to it" if wanted != "fast" else "no proxy stands before it"


def make_transport(name: str, connection: Connection) -> Transport:
    """`name` is fast or httpx."""
    return TRANSPORTS[name](connection)
