"""What an answer to a check says about the provider: it lives, its account is at fault, or it is down."""

from dataclasses import dataclass
from enum import Enum

from proxy.dialects import dialect_of
from proxy.errors import UpstreamAuthFailed, UpstreamRateLimited, UpstreamRejected, UpstreamUnpaid
from routing.models import Provider
from routing.table import ProviderEntry

LONGEST = 300  # characters of a detail
NOT_HERE = frozenset({404, 405})
"""Statuses of a server that lives, and has no such path or method."""


class Verdict(Enum):
    GOOD = "good"
    NO_CHECK = "no check"  # it lives, and this request says no more
    REFUSED = "credential"  # it lives, and refuses the gateway's credential
    UNPAID = "unpaid"  # it lives, and the gateway's account is unpaid
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Meaning:
    verdict: Verdict
    detail: str = ""  # names no credential
    misplaced: bool = False  # the path or method is not there


GOOD = Meaning(Verdict.GOOD)


def failed(detail: str) -> Meaning:
    return Meaning(Verdict.FAILED, detail[:LONGEST])


def meaning_of(provider: Provider, entry: ProviderEntry, status: int, body: bytes) -> Meaning:
    """Of a whole answer."""
    if 200 <= status < 300:
        return GOOD
    error, said = dialect_of(entry).error(entry, status, body, None, False), f"status {status}"
    if isinstance(error, UpstreamUnpaid):
        return Meaning(Verdict.UNPAID, f"{said}: the gateway's account is unpaid")
    if isinstance(error, UpstreamRateLimited):
        return Meaning(Verdict.GOOD, f"{said}: it is rate limited, and lives")
    if isinstance(error, UpstreamAuthFailed):
        if not entry.credential and not entry.secrets:
            return Meaning(Verdict.NO_CHECK, f"{said}: there is no stored API key to check with")
        return Meaning(Verdict.REFUSED, f"{said}: the provider refuses the gateway's credential")
    if provider.health_model:
        return failed(said)
    if status in NOT_HERE and not provider.guesses_health_path:
        return Meaning(Verdict.FAILED, said, misplaced=True)
    if provider.guesses_health_path and (status in NOT_HERE or isinstance(error, UpstreamRejected)):
        return Meaning(
            Verdict.NO_CHECK, f"{said}: the server lives, but its path is no check", status in NOT_HERE
        )
    return failed(said)
