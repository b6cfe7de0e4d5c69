"""The providers that a file's entries mean, each with what the file says of it."""

import json
from typing import Any

from routing.config import accounts, known_providers
from routing.config.accounts import Account
from routing.config.model_list import Entry
from routing.config.own_section import OwnSection
from routing.config.plan import Credential, PlannedRow
from routing.config.report import Notes
from routing.config.settings_sections import Settings
from routing.config.shares import share_out
from routing.config.slugs import Slugs, Stored
from routing.config.values import ABSENT


class ProviderRows:
    def __init__(self, entries: list[Entry], own: OwnSection, stored: Stored, notes: Notes) -> None:
        self.rows: dict[str, PlannedRow] = {}
        self.notes = notes
        self._own = own
        self._whole = own.whole_providers()
        for entry in entries:
            if entry.prefix not in self._whole:
                _take_key_of_environment(entry)
        prefixes = {accounts.wanted_slug(entry.prefix, entry.base_url) for entry in entries}
        self._slugs = Slugs({*prefixes, *self._whole}, stored)
        self._wanted: dict[str, str] = {}  # slug -> the prefix that it came from
        self._first_keys = _keys_by_place(entries)
        self._slugs.know(self._accounts(entries))
        for slug, base_url in self._whole.items():
            self._start(slug, slug, base_url, own.providers[slug].path)

    def add(self, entry: Entry) -> str | None:
        """The slug of the entry's provider; None where it can't be told, which is reported."""
        base_url = _base_url(entry)
        # As it stands, where it is a slug already: a wanted slug has lost dots and dashes at its end.
        name = entry.prefix if entry.prefix in self._whole else accounts.wanted_slug(entry.prefix, base_url)
        if name in self._whole:
            slug, base_url = name, self._whole[name]
            if self._is_second_account(entry, name):
                return None
        elif base_url:
            slug = self._slug_of(entry, base_url)
        else:
            self._refuse_unknown(entry)
            return None
        self._add_settings(self.rows[slug], entry, base_url)
        return slug

    def _refuse_unknown(self, entry: Entry) -> None:
        if entry.prefix in accounts.OTHER_APIS:
            reason = f"{entry.prefix} has no OpenAI-compatible API whose address is known"
        else:
            reason = "is missing, and the model's prefix is none whose address is known"
        self.notes.say(
            entry.paths["base_url"],
            f"{reason}; this entry is left out",
            "write the address of an OpenAI-compatible API below api_base",
        )

    def _accounts(self, entries: list[Entry]) -> dict[Account, list[tuple[str, str]]]:
        found: dict[Account, list[tuple[str, str]]] = {}
        for entry in entries:
            base_url = _base_url(entry)
            if base_url and not {entry.prefix, accounts.wanted_slug(entry.prefix, base_url)} & set(
                self._whole
            ):
                target = (entry.route, entry.upstream_model)
                found.setdefault(self._account(entry, base_url), []).append(target)
        return found

    def is_zai(self, slug: str) -> bool:
        return self.rows[slug].initial["dialect"] == "zai"

    def settle(self, settings: Settings) -> None:
        """Fill in what the file says of several or all providers."""
        for slug, row in self.rows.items():
            for name in (slug, self._wanted[slug]):
                if name in settings.by_provider:
                    row.fill(settings.by_provider[name])
            row.fill(settings.every_provider)
            if settings.headers:
                # Header names have no case; what an entry says of its own wins.
                said = {name.lower() for name in row.additions.get("extra_headers", {})}
                others = {name: text for name, text in settings.headers.items() if name.lower() not in said}
                row.add_to_mapping("extra_headers", others, settings.headers_path)
        for slug, config in settings.by_provider.items():
            if slug not in {*self.rows, *self._wanted.values()}:
                self.notes.say(
                    config.path, "no effect: the file has no provider of this name", "correct the name"
                )
        share_out(settings.shares, self.rows, self._wanted, self.notes)

    def _is_second_account(self, entry: Entry, slug: str) -> bool:
        where = f"switchstand.providers.{slug}"
        if entry.api_key is not ABSENT:
            self.notes.say(
                entry.paths["api_key"],
                "one provider has one credential, and this one is left out",
                f"write it below {where}.api_key",
            )
        other = entry.base_url not in ("", self._whole[slug].rstrip("/"))
        if other:
            reason = f"{where}.base_url says otherwise; this entry is left out"
            self.notes.say(entry.paths["base_url"], reason, "use another prefix")
        return other

    def _slug_of(self, entry: Entry, base_url: str) -> str:
        account = self._account(entry, base_url)
        slug = self._slugs.of(account)
        if slug not in self.rows:
            self._start(slug, account.name, base_url, entry.provider.path)
            if entry.prefix in accounts.OTHER_APIS:
                self.notes.say(
                    entry.paths["model"],
                    f"{entry.prefix} is called as an OpenAI-compatible API at {base_url}",
                    "see that this address speaks it; parameters of its own API are not translated",
                )
            variable = known_providers.variable_of(entry.prefix)
            if variable and not account.key and not entry.base_url:
                self.notes.say(
                    entry.paths["api_key"],
                    "is missing: the provider has no credential here",
                    f"set {variable}, or write api_key: os.environ/NAME, or enter it in the admin",
                )
        row = self.rows[slug]
        if entry.base_url:
            self._say_once(row, "base_url", base_url, entry.paths["base_url"])
        if entry.api_key is not ABSENT:
            self._say_once(row, "api_key", entry.api_key, entry.paths["api_key"])
        return slug

    def _account(self, entry: Entry, base_url: str) -> Account:
        """An entry without a key shares the first key at the same address."""
        place = _place(entry, base_url)
        key = _key_id(entry) or self._first_keys.get(place, "")
        return Account(name=place[0], base_url=base_url, key=key, headers=place[2])

    def _start(self, slug: str, wanted: str, base_url: str, path: str) -> None:
        own = self._own.providers.get(slug)
        dialect = own.values.get("dialect") if own else None
        if not isinstance(dialect, str):
            dialect = "zai" if accounts.is_zai(wanted, base_url) else "openai"
        initial = accounts.starting_values(slug, wanted, base_url, dialect)
        self.rows[slug] = PlannedRow(path, initial=initial)
        self._wanted[slug] = wanted

    def _add_settings(self, row: PlannedRow, entry: Entry, base_url: str) -> None:
        if entry.headers:
            row.add_to_mapping("extra_headers", entry.headers, f"{entry.provider.path}.extra_headers")
        for name, bad in entry.provider.bad.items():
            row.bad.setdefault(name, bad)
            row.paths.setdefault(name, entry.provider.paths[name])
        for name, value in entry.provider.values.items():
            path = entry.provider.paths[name]
            if name != "api_version":
                self._say_once(row, name, value, path)
            elif row.initial["dialect"] != "zai":
                self.notes.say(path, "no effect: only Z.ai is sent an API version", "take it out")
            elif accounts.is_version_of(base_url, value):
                self.notes.say(
                    path,
                    "no effect: the address ends with it already; X-API-Version stays the provider's own",
                    "take it out",
                )
            else:
                self._say_once(row, name, value, path)

    def _say_once(self, row: PlannedRow, name: str, value: Any, path: str) -> None:
        if name not in row.values:
            row.say(name, value, path)
        elif row.values[name] != value:
            self.notes.say(
                path,
                f"no effect: {row.paths[name]} says otherwise, and one provider has one",
                "write the same for both, or give one of them another prefix",
            )


def _base_url(entry: Entry) -> str:
    known = known_providers.KNOWN.get(entry.prefix)
    return entry.base_url or (known.base_url if known else "")


def _place(entry: Entry, base_url: str) -> tuple[str, str, str]:
    headers = json.dumps(entry.headers, sort_keys=True)
    return accounts.wanted_slug(entry.prefix, base_url), base_url, headers


def _keys_by_place(entries: list[Entry]) -> dict[tuple[str, str, str], str]:
    keys: dict[tuple[str, str, str], str] = {}
    for entry in entries:
        if _base_url(entry) and _key_id(entry):
            keys.setdefault(_place(entry, _base_url(entry)), _key_id(entry))
    return keys


def _key_id(entry: Entry) -> str:
    return entry.key_reference if entry.api_key is ABSENT else entry.api_key.plaintext


def _take_key_of_environment(entry: Entry) -> None:
    """As LiteLLM does for a known vendor, never for an address that the file gives itself."""
    if entry.api_key is ABSENT and not entry.key_reference and not entry.base_url:
        key, _ = known_providers.key_of(entry.prefix)
        if key.isascii() and key.isprintable() and " " not in key and key:
            entry.api_key = Credential(key)
