"""Takes credentials, and what admins name, out of content."""

from collections.abc import Collection, Iterable
from typing import Any

import re2

from routing.credential_patterns import CREDENTIALS, NAMED, REDACTED, SAID
from routing.models.content import pattern_options
from routing.secret_headers import SHORTEST_SEARCHED


class Redactor:
    """`secrets` are replaced wherever they stand, `patterns` are RE2's. Raises re2.error."""

    def __init__(self, patterns: Iterable[str] = (), secrets: Collection[str] = ()) -> None:
        options = pattern_options()
        self._patterns = [re2.compile(one, options) for one in (*CREDENTIALS, *patterns)]
        self._said = re2.compile(SAID, options)
        self._name = re2.compile(NAMED, options)
        self._secrets = [one for one in secrets if len(one) >= SHORTEST_SEARCHED]

    def tree(self, value: Any) -> Any:
        """All texts in it, names included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.tree(entry) for entry in value]
        if isinstance(value, dict):
            return {self.text(name): self._named(name, entry) for name, entry in value.items()}
        return value

    def _named(self, name: str, value: Any) -> Any:
        return REDACTED if isinstance(value, str) and self._name.search(name) else self.tree(value)

    def text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        text = self._said.sub(rf"\1={REDACTED}", text)
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text
