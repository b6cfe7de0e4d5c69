"""What must not stand in anything that a provider's words get into."""

from proxy.calls.call import Call
from routing.secret_headers import SHORTEST_SEARCHED
from routing.table import ProviderEntry


def secrets_of(call: Call, provider: ProviderEntry | None) -> tuple[str, ...]:
    """The credentials that such a call was sent with."""
    stored = provider.secrets if provider is not None else ()
    own = call.caller_credential
    return (own, *stored) if len(own) >= SHORTEST_SEARCHED else stored


def redacted(said: bytes, call: Call, provider: ProviderEntry | None) -> bytes:
    """Some providers repeat the key that they refuse."""
    for secret in secrets_of(call, provider):
        said = said.replace(secret.encode("latin-1", "replace"), b"[redacted]")
    return said
