"""Which provider row each of a file's accounts is: the one that it was before."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from routing.config.accounts import Account, wanted_slug


@dataclass(frozen=True, slots=True)
class There:
    """A provider that is in the database."""

    base_url: str
    key: str = field(repr=False)
    ours: bool  # this file made all of its targets, and no other one lists any
    of_another_file: bool = False  # one lists a target of it


@dataclass(frozen=True, slots=True)
class Stored:
    """What a load finds, as far as it decides which provider an entry means."""

    providers: Mapping[str, There] = field(default_factory=dict)
    of_targets: Mapping[tuple[str, str], Collection[str]] = field(default_factory=dict)  # by route and model


class Slugs:
    """The wanted slug to the first account that wants it, then -2, -3 ... in the file's order.

    Accounts that are stored come first: an entry that is taken out of the file, or moved in it, gives its
    neighbours no other provider.
    """

    def __init__(self, taken: Collection[str], stored: Stored) -> None:
        self._taken = set(taken)
        self._stored = stored
        self._given: dict[Account, str] = {}

    def know(self, entries: Mapping[Account, Collection[tuple[str, str]]]) -> None:
        """All accounts of the file, each with the routes and models of its entries."""
        for account, targets in entries.items():
            self._give(account, [slug for slug in self._same(account) if slug in self._of(targets)])
        for account in entries:
            self._give(account, self._same(account))
        for account, targets in entries.items():
            self._give(account, self._changed(account, targets))

    def of(self, account: Account) -> str:
        if account not in self._given:
            self._given[account] = self._free(account)
        return self._given[account]

    def _give(self, account: Account, candidates: list[str]) -> None:
        free = [slug for slug in candidates if slug not in self._given.values()]
        if account not in self._given and free:
            self._given[account] = free[0]

    def _same(self, account: Account) -> list[str]:
        return [
            slug
            for slug, there in sorted(self._stored.providers.items())
            if _is_of_family(slug, account.name)
            and (there.base_url.rstrip("/"), there.key) == (account.base_url, account.key)
        ]

    def _changed(self, account: Account, targets: Collection[tuple[str, str]]) -> list[str]:
        """Where its entries' targets are now: their address or key is another one since."""
        return [
            slug
            for slug in self._of(targets)
            if (there := self._stored.providers[slug]).ours
            and (_is_of_family(slug, account.name) or _are_both_named_by_host(slug, there, account))
        ]

    def _of(self, targets: Collection[tuple[str, str]]) -> list[str]:
        return sorted({slug for target in targets for slug in self._stored.of_targets.get(target, ())})

    def _free(self, account: Account) -> str:
        if account.name not in self._given.values() and not self._is_of_another_file(account.name, account):
            return account.name
        number = 2
        while self._is_taken(slug := f"{account.name[:60]}-{number}", account):
            number += 1
        return slug

    def _is_taken(self, slug: str, account: Account) -> bool:
        given = slug in self._taken or slug in self._given.values()
        return given or self._is_of_another_file(slug, account)

    def _is_of_another_file(self, slug: str, account: Account) -> bool:
        """What one file says of its account changes no other file's."""
        there = self._stored.providers.get(slug)
        if there is None or not there.of_another_file:
            return False
        return there.base_url.rstrip("/") != account.base_url or account.key not in ("", there.key)


def _is_of_family(slug: str, wanted: str) -> bool:
    return bool(re.fullmatch(rf"{re.escape(wanted[:60])}(-[0-9]+)?|{re.escape(wanted)}", slug))


def _are_both_named_by_host(slug: str, there: There, account: Account) -> bool:
    """No prefix names them: a name that nobody chose says nothing."""
    before, now = wanted_slug("", there.base_url), wanted_slug("", account.base_url)
    return _is_of_family(slug, before) and account.name == now
