"""Whose request it is where proxies stand between, and by what addresses are counted."""

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache

from django.conf import settings
from django.http import HttpRequest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

IPV6_PREFIX = 64  # the least that one subscriber gets: all of it is one caller


def counted_as(address: str) -> str:
    """What stands for an address where addresses are counted: an IPv6 address's network."""
    found = _address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(found) & _NETWORK_PART, IPV6_PREFIX)))
    return address if found is None else str(found)


def client_of(request: HttpRequest) -> str:
    """The address behind a Django request, as TRUSTED_PROXIES lets it be believed."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").encode("latin-1", "replace")
    proxies = TrustedProxies(settings.TRUSTED_PROXIES)
    return proxies.client_of(request.META.get("REMOTE_ADDR", ""), {b"x-forwarded-for": forwarded})


_NETWORK_PART = (2**IPV6_PREFIX - 1) << (128 - IPV6_PREFIX)


class TrustedProxies:
    """Proxies whose X-Forwarded-For is believed; everybody else could write there what they like."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks

    def client_of(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The nearest address that is not a trusted proxy's; `peer` is the connection's own."""
        nearest = peer
        hops = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        while hops and self.trusts(nearest):
            hop = _address(hops.pop())
            if hop is None:
                break  # no proxy writes this: the rest is not to be believed either
            nearest = str(hop)
        return nearest

    def trusts(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


MOST_FORWARDED = 256  # bytes of X-Forwarded-For that rows look at: the nearest hops
AGENT_LENGTH = 200
ADDRESS_LENGTH = 45  # longer only with a zone that somebody made up
IPV4_SHOWN = 24  # bits of an address that is cut; of IPv6 it is IPV6_PREFIX


class Callers:
    """What rows say of who called: `kept` is keep, cut or drop."""

    def __init__(self, kept: str, proxies: TrustedProxies) -> None:
        self.kept = kept != "drop"
        self._cuts = kept == "cut"
        self._proxies = proxies
        self._address_of = lru_cache(maxsize=4096)(self._found)  # each call asks: parsing costs more

    def address_of(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        return self._address_of(peer, headers.get(b"x-forwarded-for", b"")[-MOST_FORWARDED:])

    def _found(self, peer: str, forwarded: bytes) -> str:
        if len(forwarded) == MOST_FORWARDED:
            forwarded = forwarded.partition(b",")[2]  # its first hop may be cut
        address = self._proxies.client_of(peer, {b"x-forwarded-for": forwarded})
        return (_network_of(address) if self._cuts else address)[:ADDRESS_LENGTH]


def _network_of(address: str) -> str:
    """Nothing of what is no address."""
    found = _address(address)
    if not isinstance(found, ipaddress.IPv4Address):
        return "" if found is None else counted_as(address)
    return str(ipaddress.ip_network((found, IPV4_SHOWN), strict=False))


def _address(text: str) -> Address | None:
    """Some proxies add the port: 192.0.2.1:4711, [2001:db8::1]:4711."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
