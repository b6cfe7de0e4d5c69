"""What Sentry is told of a fault: where it happened, and nothing that a caller or a provider sent.

Lists say what may leave; whatever a later version of the SDK adds does not.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from routing.credential_patterns import without_credentials
from routing.secret_headers import SHORTEST_SEARCHED

Event = dict[str, Any]

FIELDS = frozenset(
    {"event_id", "timestamp", "start_timestamp", "level", "platform", "type", "fingerprint", "tags"}
    | {"logger", "message", "logentry", "exception", "threads", "breadcrumbs", "spans", "request"}
    | {
        "transaction",
        "transaction_info",
        "release",
        "environment",
        "server_name",
        "sdk",
        "modules",
        "contexts",
    }
)
HEADERS = frozenset(["accept", "content-length", "content-type", "host", "user-agent", "x-request-id"])
CONTEXTS = frozenset({"runtime", "os", "device", "trace"})
TRACE = frozenset({"trace_id", "span_id", "parent_span_id", "op", "status"})
SPAN = TRACE | {"start_timestamp", "timestamp", "description", "origin", "same_process_as_parent"}
BREADCRUMB = frozenset({"type", "category", "level", "timestamp", "message"})


def options(reports: "Reports") -> dict[str, Any]:
    """Of sentry_sdk.init()."""
    return {
        "before_send": reports.before_send,
        "before_send_transaction": reports.before_send,
        "before_breadcrumb": reports.before_breadcrumb,
        "send_default_pii": False,
        "max_request_body_size": "never",
        "include_local_variables": False,
        "auto_session_tracking": False,
        "trace_propagation_targets": [],  # providers are sent what the caller wrote, and no header of ours
    }


class Reports:
    """`known`: secrets of this process, looked for in all texts."""

    def __init__(self, known: Iterable[str | None]) -> None:
        self._known = [text for text in known if text and len(text) >= SHORTEST_SEARCHED]

    def before_send(self, event: Event, hint: Any = None) -> Event:
        request = event.get("request") or {}
        found = {name: value for name, value in event.items() if name in FIELDS}
        if "request" in found:
            found["request"] = _request(request)
        if "logentry" in found:
            found["logentry"] = _only(found["logentry"], {"message", "formatted"})
        if "contexts" in found:
            found["contexts"] = _contexts(found["contexts"])
        if "breadcrumbs" in found:
            found["breadcrumbs"] = {
                "values": [_only(one, BREADCRUMB) for one in _values(event["breadcrumbs"])]
            }
        if "spans" in found:
            found["spans"] = [_only(span, SPAN) for span in _values(found["spans"])]
        for place in ("exception", "threads"):
            for one in _values(found.get(place)):
                _forget_variables(one)
        cleaned: Event = without_credentials(found, [*_sent(request), *self._known])
        return cleaned

    def before_breadcrumb(self, crumb: Event, hint: Any = None) -> Event:
        cleaned: Event = without_credentials(_only(crumb, BREADCRUMB), self._known)
        return cleaned


def _only(found: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: found[name] for name in names if name in found} if isinstance(found, Mapping) else {}


def _values(found: Any) -> list[Any]:
    values = found.get("values") if isinstance(found, Mapping) else found
    return list(values or ())


def _request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Its method, path and harmless headers."""
    parts = urlsplit(str(request.get("url", "")))
    headers = request.get("headers") or {}
    return {
        "method": request.get("method"),
        "url": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
        "headers": {name: value for name, value in headers.items() if name.lower() in HEADERS},
    }


def _contexts(contexts: Mapping[str, Any]) -> dict[str, Any]:
    found = _only(contexts, CONTEXTS)
    return found | ({"trace": _only(found["trace"], TRACE)} if "trace" in found else {})


def _forget_variables(one: Mapping[str, Any]) -> None:
    for frame in (one.get("stacktrace") or {}).get("frames") or ():
        frame.pop("vars", None)


def _sent(request: Mapping[str, Any]) -> list[str]:
    """What the caller sent where credentials are: an exception's text may quote it."""
    headers = request.get("headers") or {}
    values = [str(value) for name, value in headers.items() if name.lower() not in HEADERS]
    values += [value.rpartition(" ")[2] for value in values]
    values += [pair.partition("=")[2] for pair in str(request.get("query_string") or "").split("&")]
    return [value for value in values if len(value) >= SHORTEST_SEARCHED]
