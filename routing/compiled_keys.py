"""The gateway's API keys and their teams, as the table has them."""

import re
from collections.abc import Container, Iterable

from django.conf import settings
from django.db.models import BooleanField, ExpressionWrapper, Q

from routing import gateway_keys
from routing.limit_owners import limit_owners_of
from routing.models import ApiKey, IssuedKey, Team
from routing.models.content import CONTENT_LEVELS
from routing.table import KeyEntry, TeamEntry
from routing.unreadable import ROW_FAULTS, Faults, texts


def entries(faults: Faults) -> dict[bytes, KeyEntry]:
    """By SHA-256."""
    allowed: dict[int, set[int]] = {}
    for key_id, route_id in ApiKey.allowed_routes.through.objects.values_list("apikey_id", "modelroute_id"):
        allowed.setdefault(key_id, set()).add(route_id)
    expires = ExpressionWrapper(Q(expires_at__isnull=False), BooleanField())
    rows = faults.read(ApiKey.objects.select_related("team").annotate(expires=expires))
    teams = {row.team_id: row.team for row in rows if row.team is not None}
    made = {pk: entry for pk, team in teams.items() if (entry := faults.made(team, _team)) is not None}
    found: dict[bytes, KeyEntry] = {}
    for row in rows:
        if row.team_id is not None and row.team_id not in made:
            continue  # its team's row is the fault
        pair = faults.made(row, _key, allowed.get(row.pk), made.get(row.team_id))
        if pair is not None:
            found[pair[0]] = pair[1]
    if settings.MASTER_KEY:
        found[gateway_keys.digest(settings.MASTER_KEY)] = MASTER
    return found


def unreadable(faults: Faults) -> frozenset[bytes]:
    """Of rows or teams that can't be compiled: of all rows, where there is one."""
    if not faults.of(ApiKey) and not faults.of(Team):
        return frozenset()
    return _hashes(ApiKey.objects.values_list("key_hash", flat=True))


def retired(current: Container[bytes]) -> dict[bytes, float | None]:
    """What was a key and is none of the current ones: since when, in Unix seconds, where that is known."""
    rows = IssuedKey.objects.values_list("key_hash", "retired_at")
    try:
        issued = list(rows)
    except ROW_FAULTS:  # a moment that is none must not open the way for the others
        issued = [(text, None) for text in rows.values_list("key_hash", flat=True)]
    found = {
        bytes.fromhex(text): at.timestamp() if at else None for text, at in issued if _HASH.fullmatch(text)
    }
    return {key: at for key, at in found.items() if key not in current}


def _hashes(stored: Iterable[str]) -> frozenset[bytes]:
    """Without what is none, which no key that is presented can have."""
    return frozenset(bytes.fromhex(text) for text in stored if _HASH.fullmatch(text))


_HASH = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


MASTER = KeyEntry(
    id=None,
    name="master",
    team=None,
    route_ids=None,
    limit_owners=(),
    expires_at=None,
    enabled=True,
)


def _team(row: Team) -> TeamEntry:
    return TeamEntry(
        id=row.pk, slug=row.slug, limit_owners=limit_owners_of(row), tags=frozenset(texts(row.tags))
    )


def _key(row: ApiKey, allowed: set[int] | None, team: TeamEntry | None) -> tuple[bytes, KeyEntry]:
    """By its SHA-256."""
    if row.expires and row.expires_at is None:  # type: ignore[attr-defined] # annotated
        raise ValueError("SQLite's text of a moment that is none is read as never")
    return bytes.fromhex(row.key_hash), KeyEntry(
        id=row.pk,
        name=row.name,
        team=team,
        route_ids=frozenset(allowed or ()) if row.restricted else None,
        limit_owners=limit_owners_of(row) + (team.limit_owners if team is not None else ()),
        expires_at=row.expires_at.timestamp() if row.expires_at else None,
        enabled=row.enabled and (row.team is None or row.team.enabled),
        revoked_at=_revoked_at(row),
        off_with_team=row.enabled and row.team is not None and not row.team.enabled,
        tags=frozenset([*texts(row.tags), *(team.tags if team is not None else ())]),
        content=CONTENT_LEVELS[row.content_log],
    )


def _revoked_at(row: ApiKey) -> float | None:
    off = row.team if row.enabled else row
    return off.revoked_at.timestamp() if off is not None and off.revoked_at is not None else None
