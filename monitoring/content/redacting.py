"""Takes credentials, and what admins name, out of content."""

from collections.abc import Collection, Iterable
from typing import Any

import re2

from routing.models.content import pattern_options
from routing.secret_headers import SHORTEST_SEARCHED

REDACTED = "[redacted]"
CREDENTIALS = (
    r"\bsk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, this gateway
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bAIza[0-9A-Za-z_-]{30,}",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bglpat-[A-Za-z0-9_-]{16,}",
    r"\bhf_[A-Za-z0-9]{20,}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*",
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{16,}",
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,100}:[^\s:/@]{1,200}@",
)
_NAMED = r"(?i)(api[-_ ]?key|passwd|password|secret|authorization|(?:access|auth|refresh)[-_ ]?token)"
_SAID = _NAMED + r"""["']?\s*[:=]\s*["']?[^\s"',;}]{6,}"""


class Redactor:
    """`secrets` are replaced wherever they stand, `patterns` are RE2's. Raises re2.error."""

    def __init__(self, patterns: Iterable[str] = (), secrets: Collection[str] = ()) -> None:
        options = pattern_options()
        self._patterns = [re2.compile(one, options) for one in (*CREDENTIALS, *patterns)]
        self._said = re2.compile(_SAID, options)
        self._name = re2.compile(_NAMED, options)
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
