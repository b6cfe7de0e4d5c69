"""Targets with tags serve only requests with one of them."""

from proxy.calls.call import Call
from proxy.errors import AccessForbidden
from routing.table import TargetEntry


def tags_of(call: Call) -> frozenset[str]:
    """The key's, its team's, and those that the caller sent."""
    assert call.key is not None
    sent = call.tags
    return call.key.tags.union(sent) if sent else call.key.tags


def open_to(call: Call, targets: list[TargetEntry], tags: frozenset[str]) -> list[TargetEntry]:
    """Those that the request may use; what it may not is noted. Raises AccessForbidden for none."""
    kept = []
    for target in targets:
        if not target.tags or target.tags & tags:
            kept.append(target)
        else:
            call.skip(target, f"serves only requests tagged {' or '.join(sorted(target.tags))}")
    if targets and not kept:
        raise AccessForbidden(
            "Every target of this model asks for a tag that neither this API key nor x-litellm-tags has.",
            param="x-litellm-tags",
        )
    return kept
