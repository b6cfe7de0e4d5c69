"""What channels are given to send."""

from dataclasses import dataclass, field
from typing import IO, Any


def one_line(text: str) -> str:
    """Line breaks, tabs and other control characters as blanks: what a header or a log line may hold."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


class ChannelFailed(Exception):
    """The message was not taken. The text is safe to show: it holds no address and no secret."""


@dataclass(frozen=True, slots=True)
class Message:
    """`event`: fired, reminder, resolved or test. Times are ISO 8601 in UTC."""

    id: str  # of the delivery: the same in each retry
    event: str
    rule: str
    subject: str
    summary: str
    started_at: str
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"[{self.event}] {self.summary}"


@dataclass(frozen=True, slots=True)
class File:
    """`content` is read from its beginning; it may be large."""

    id: str  # of the delivery: the same in each retry
    title: str
    name: str
    content_type: str
    content: IO[bytes]
