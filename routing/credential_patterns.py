"""What credentials look like in texts. Patterns are RE2's, and Python's too."""

import re
from collections.abc import Collection, Mapping
from typing import Any

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
NAMED = r"(?i)(api[-_ ]?key|passwd|password|secret|authorization|(?:access|auth|refresh)[-_ ]?token)"
SAID = NAMED + r"""["']?\s*[:=]\s*["']?[^\s"',;}]{6,}"""

_CREDENTIALS = [re.compile(pattern) for pattern in CREDENTIALS]
_IN_A_QUERY = re.compile(
    r"([?&](?:[\w-]*key|[\w-]*token|[\w-]*secret|sig|signature)=)[^&\s\"']+", re.IGNORECASE
)


def without_credentials(value: Any, known: Collection[str] = ()) -> Any:
    """A text, or all texts inside, without what looks like a credential or is `known` to be one."""
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, Mapping):
        return {name: without_credentials(found, known) for name, found in value.items()}
    if isinstance(value, list | tuple):
        return [without_credentials(found, known) for found in value]
    return value


def _text(text: str, known: Collection[str]) -> str:
    for secret in known:
        text = text.replace(secret, REDACTED)
    for pattern in _CREDENTIALS:
        text = pattern.sub(REDACTED, text)
    return _IN_A_QUERY.sub(rf"\1{REDACTED}", text)
