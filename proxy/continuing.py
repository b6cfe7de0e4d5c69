"""A stream that was cut is continued by another target, so that the caller receives one whole answer.

What the caller has already is given to the next target as the beginning of the assistant's message;
the events of its answer are made to look like the first one's.
"""

import re
from typing import Any

import msgspec
from msgspec.structs import replace

from proxy.ask import ChatAsk
from proxy.dialects.openai.answer import says_something, without_halves
from proxy.metering.reported_usage import lenient
from proxy.metering.usage import Usage, tokens_of_text
from proxy.sse import BOM, KEEPS_WARM, LONGEST_EVENT, UNREADABLE
from routing.table import ProviderEntry

_encode = msgspec.json.encode
_object = msgspec.json.Decoder(dict[str, Any])
_BLANK = re.compile(rb"\n\r?\n")
_KEEPS_WARM = re.compile(rb"^event:[ \t]*(?:" + b"|".join(KEEPS_WARM) + rb")[ \t\r]*$", re.MULTILINE)
_NO_BLANK = re.compile(rb"[}\]][ \t]*\r?\ndata:")
"""Where some providers' events end that have no blank line between them; or a line of an event of several."""
LONGEST_END = 12  # bytes, but the last one, of either
SAME = ("id", "created", "model", "system_fingerprint")
"""Fields of an event that stay those of the first answer."""


class Prefix:
    """The text that the caller has."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def tokens(self) -> int:
        """An estimate."""
        return tokens_of_text(self.text)

    def body(
        self,
        ask: ChatAsk,
        upstream_model: str,
        defaults: tuple[tuple[str, bytes], ...],
        provider: ProviderEntry,
    ) -> bytes:
        """The same question with the beginning of its answer, and so much less to answer."""
        if not self.text:
            return ask.body(upstream_model, defaults)  # cut before its first word: it starts anew
        flag = {"prefix": True} if provider.continues == "flag" else {}
        message = _encode({"role": "assistant", "content": self.text, **flag})
        fields = dict(ask.fields)
        fields["messages"] = msgspec.Raw(bytes(fields["messages"]).rstrip()[:-1] + b"," + message + b"]")
        for name in ("max_completion_tokens", "max_tokens"):
            if name in fields and ask.answer_limit:
                fields[name] = msgspec.Raw(b"%d" % max(ask.answer_limit - self.tokens, 1))
        return replace(ask, fields=fields).body(upstream_model, defaults)


class Continuation:
    """Follows one stream event by event, so that it can be continued where it breaks."""

    def __init__(self, ask: ChatAsk, most: int) -> None:
        """`most`: bytes that it keeps of one event, and of the text."""
        self.fault = ""  # what is wrong with the stream; empty: nothing
        self._ask = ask
        self._most = most
        self._texts: list[str] = []
        self._first: dict[str, Any] = {}
        self._only_text = ask.choices == 1  # nothing else can be given back
        self._cut_texts = 0  # of _texts, so many came before the last cut
        self._text_size = 0
        self._parts: list[bytes] = []  # of an event that is not whole yet
        self._waiting = 0  # bytes of it
        self._tail = b""  # its last ones, in which its end may have begun
        self._goes_on = False  # its JSON is known to stand on several lines
        self._before: Usage | None = None  # of the parts that were cut, estimated
        self._usage: Usage | None = None  # as the provider of the present part reports it

    @property
    def prefix(self) -> Prefix | None:
        """What the caller has; None where it can't be given back as text."""
        return Prefix("".join(self._texts)) if self._only_text else None

    @property
    def usage(self) -> Usage | None:
        """Of all parts together; None where nothing was cut."""
        if self._before is None:
            return None
        told = self._usage.completed(self._estimate()) if self._usage else self._estimate()
        return self._before + told

    def take(self, chunk: bytes) -> bytes:
        """The events that are whole and good; `fault` is set where one isn't. A half one waits."""
        new = self._tail + chunk
        if _BLANK.search(new) is None and (self._goes_on or _NO_BLANK.search(new) is None):
            self._keep(chunk)
            return b""
        lines = b"".join((*self._parts, chunk)).replace(b"\r\n", b"\n")
        *blocks, last = lines.split(b"\n\n")
        events = [event for block in blocks for event in _apart(block)]
        *more, rest = _apart(last)
        self._parts, self._waiting, self._tail = [], 0, b""
        self._goes_on = _NO_BLANK.search(rest) is not None
        good: list[bytes] = []
        for event in (*events, *more):
            if event and not self._take_event(event, good):
                return b"".join(good)
        self._keep(rest)
        return b"".join(good)

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._waiting += len(part)
        self._tail = (self._tail + part[-LONGEST_END:])[-LONGEST_END:]
        if self._waiting > self._most:
            self.fault = f"sent an event of more than {self._most:,} bytes"

    def end(self) -> bytes:
        """The stream ended: an event that no blank line followed is an event too."""
        return self.take(b"\n\n") if any(part.strip() for part in self._parts) else b""

    def cut(self) -> Usage:
        """The stream broke: what comes from now on is another target's. The usage of what came, estimated."""
        before = self._before or Usage(0, 0, estimated=True)
        part = self._estimate()
        self._before = before + part
        self._cut_texts = len(self._texts)
        self._parts, self._waiting, self._tail, self._goes_on = [], 0, b"", False
        self._usage, self.fault = None, ""
        return part

    def _estimate(self) -> Usage:
        made = tokens_of_text("".join(self._texts[self._cut_texts :]))
        given = self._ask.size // 4 + tokens_of_text("".join(self._texts[: self._cut_texts]))
        return Usage(given, made, estimated=True)

    def _take_event(self, event: bytes, good: list[bytes]) -> bool:
        if len(event) > LONGEST_EVENT:  # an image, say: it passes unread, and can't be given back
            self._only_text = False
            good.append(event + b"\n\n")
            return True
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data or data == b"[DONE]" or _KEEPS_WARM.search(event):
            good.append(event + b"\n\n")
            return True
        content = _decoded(data)
        if content is None or says_something(content.get("error")):
            self.fault = "sent a malformed event" if content is None else "sent an error"
            return False
        if self._before is not None:
            self._adopt(content)
            event = b"data: " + _encode(content)
        self._note(content)
        good.append(event + b"\n\n")
        return True

    def _note(self, content: dict[str, Any]) -> None:
        if not self._first:
            self._first = {name: content[name] for name in SAME if name in content}
        for choice in _choices(content):
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                continue
            if isinstance(text := delta.get("content"), str):
                self._add(text)
            if any(delta.get(name) for name in ("tool_calls", "function_call", "audio", "refusal")):
                self._only_text = False

    def _add(self, text: str) -> None:
        self._text_size += len(text)
        if self._text_size <= self._most:
            self._texts.append(text)
        else:
            self._only_text = False  # too much to be given back

    def _adopt(self, content: dict[str, Any]) -> None:
        """Make an event of a later part look like one of the first."""
        content.update(self._first)
        for choice in _choices(content):
            if isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)  # the caller has been told
        usage = content.get("usage")
        if isinstance(usage, dict):
            told = lenient(usage)
            self._usage = told.tokens() if told is not None else None
            _share_out(usage, tokens_of_text("".join(self._texts[: self._cut_texts])))


def _apart(block: bytes) -> list[bytes]:
    """The events of what no blank line divides: one, or several of one line each."""
    block = block.removeprefix(BOM)
    if _NO_BLANK.search(block) is None:
        return [block]
    events: list[list[bytes]] = [[]]
    data: list[bytes] = []  # of the event that the last lines belong to
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            if len(data) == 1 and _stands_alone(data[0]):
                events.append([])
                data = []
            data.append(line[5:].strip())
        events[-1].append(line)
    return [b"\n".join(lines) for lines in events]


def _stands_alone(data: bytes) -> bool:
    return data == b"[DONE]" or (len(data) <= LONGEST_EVENT and _decoded(data) is not None)


def _share_out(usage: dict[str, Any], prefix_tokens: int) -> None:
    """The prefix was a part of the prompt to the provider; to the caller it is a part of the answer."""
    prompt, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if isinstance(prompt, int) and isinstance(made, int):
        moved = min(prefix_tokens, prompt)
        usage["prompt_tokens"], usage["completion_tokens"] = prompt - moved, made + moved


def _choices(content: dict[str, Any]) -> list[dict[str, Any]]:
    found = content.get("choices")
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def _decoded(data: bytes) -> dict[str, Any] | None:
    try:
        return _object.decode(data)
    except UNREADABLE:
        pass
    try:  # a character may be cut between two events
        return _object.decode(without_halves(data).decode("utf-8", "replace"))
    except UNREADABLE:
        return None
