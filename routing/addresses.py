"""Which addresses the gateway may be told to connect to: what is never reached, and what a setting opens.

Names and literal addresses can be judged as soon as they are written; what a name stands for only when it is
connected to (proxy/transports/connecting.py), because its owner may answer differently each time.
"""

import errno
import ipaddress
import re
import socket
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

Address = IPv4 | IPv6
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NEVER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("unspecified", ("0.0.0.0/8", "::/128")),
    ("link-local", ("169.254.0.0/16", "fe80::/10")),
    ("multicast", ("224.0.0.0/4", "ff00::/8", "255.255.255.255/32")),
    (
        "a cloud's metadata service",
        ("fd00:ec2::/32", "fd20:ce::254/128", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"),
    ),
)
METADATA_NAMES = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.tencentyun.com",
    }
)
OWN_NAMES = (".local", ".localhost", ".internal", ".lan", ".home.arpa", ".svc", ".docker")
_NEVER = [(why, [ipaddress.ip_network(text) for text in networks]) for why, networks in NEVER]
_WITH_IPV4_AT_ITS_END = [
    ipaddress.IPv6Network(text)
    for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::ffff:0:0/96")
]
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)
_DOTS = re.compile("[\u3002\uff0e\uff61]")  # what a resolver takes for one, by RFC 3490


class AddressRefused(Exception):
    """The gateway doesn't connect there. The text is for admins: it names the address."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`networks`: the addresses that are not public and may be connected to; `setting` lists them."""

    networks: tuple[Network, ...]
    setting: str
    own_port: int

    def check_name(self, host: str) -> None:
        """Raises AddressRefused for names that only metadata services have."""
        if plain_name(host) in METADATA_NAMES:
            raise AddressRefused(f"{host} is a cloud's metadata service, which is never connected to")

    def check(self, address: str, port: int | None = None) -> None:
        """Raises AddressRefused."""
        found = plain_address(ipaddress.ip_address(address.partition("%")[0]))
        for why, networks in _NEVER:
            if any(found in network for network in networks):
                raise AddressRefused(f"{address} is {why}, which is never connected to")
        if not _is_public(found) and not any(found in network for network in self.networks):
            raise AddressRefused(f"{address} is not a public address, and not among {self.setting}")
        if port == self.own_port and _is_of_this_machine(found):
            raise AddressRefused(f"{address} port {port} is the gateway itself")

    def check_url(self, url: str) -> None:
        """What can be said without asking a resolver. Raises AddressRefused."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        self.check_name(host)
        if (address := literal(host)) is not None:
            self.check(str(address), _port_or_none(parts))


def for_providers() -> Rules:
    return Rules(tuple(settings.PROVIDER_NETWORKS), "PROVIDER_NETWORKS", settings.PORT)


def for_channels() -> Rules:
    return Rules(tuple(settings.CHANNEL_NETWORKS), "CHANNEL_NETWORKS", settings.PORT)


def for_environment() -> Rules:
    """Of what the environment names, such as the mail server: whoever sets it owns the machine."""
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    return Rules(everything, "", settings.PORT)


def plain_name(host: str) -> str:
    return _DOTS.sub(".", unicodedata.normalize("NFKC", host)).lower().rstrip(".")


def literal(host: str) -> Address | None:
    """The address that a host is written as, in any form that resolvers take: 127.1, 0x7f000001, [::1]."""
    text = plain_name(host).strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass  # not the usual form
    if not _NUMBERS.fullmatch(text):
        return None
    try:
        return IPv4(socket.inet_aton(text))
    except OSError:
        return None


def plain_address(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for: mapped, translated or tunnelled."""
    if isinstance(address, IPv4):
        return address
    number = int(address)
    if any(address in network for network in _WITH_IPV4_AT_ITS_END):
        return IPv4(number & 0xFFFFFFFF)
    if address in _COMPATIBLE and number > 1:
        return IPv4(number)
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if (number >> 32) & 0xFFFFFFFF in _ISATAP:
        return IPv4(number & 0xFFFFFFFF)
    return address


def port_of(parts: SplitResult) -> int:
    """Raises ValueError for one that is none."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def _port_or_none(parts: SplitResult) -> int | None:
    try:
        return port_of(parts)
    except ValueError:
        return None  # nobody can connect there


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what a credential was given for. Raises ValueError for a port that is none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme.lower(), str(literal(host) or plain_name(host)), port_of(parts)


def is_self_hosted(url: str) -> bool:
    """Whether it looks like a machine of one's own: no public address, or a name that is none on the net."""
    host = urlsplit(url).hostname or ""
    if (address := literal(host)) is not None:
        return not _is_public(address)
    name = plain_name(host)
    return "." not in name or name.endswith(OWN_NAMES)


def _is_public(address: Address) -> bool:
    return address.is_global and not (isinstance(address, IPv6) and address.is_site_local)


def _is_of_this_machine(address: Address) -> bool:
    family = socket.AF_INET if isinstance(address, IPv4) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
