"""What the fake providers answer: constants, so that only the proxies differ between the rows."""

import json
from dataclasses import dataclass
from functools import cached_property

TEXT = "Points, signals and a steady hand keep every train on the line it was meant to take."
DONE = b"data: [DONE]\n\n"
_COMMON = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "gpt-4o-mini"}


@dataclass(frozen=True)
class Scenario:
    """One kind of request and answer. The fake provider knows it by a mark in the message.

    A message's text is all that every gateway hands on as it came.
    """

    name: str
    chunks: int = 0  # of a stream; 0 is a JSON answer
    at_once: bool = False  # all chunks in one write of the provider's
    delay: float = 0.0  # seconds until the provider answers
    padding: int = 0  # bytes that are added to the request and to the answer

    @property
    def mark(self) -> bytes:
        return f"[bench-{self.name}]".encode()

    @property
    def is_stream(self) -> bool:
        return self.chunks > 0

    @cached_property
    def answer(self) -> bytes:
        """The body, without HTTP's framing."""
        return b"".join([*self.events, DONE]) if self.is_stream else whole(self.padding).encode()

    @cached_property
    def events(self) -> list[bytes]:
        """The server-sent events of one stream; `[DONE]` comes after them."""
        words = (TEXT + " ").split(" ")[:-1]
        deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": words[n % len(words)] + " "} for n in range(self.chunks - 2)]
        return [_event(delta, None) for delta in deltas] + [_event({}, "stop")]

    def ask(self, model: str) -> bytes:
        """The request's body."""
        text = "Which way does the next train go, and who decides it?" + _padding(self.padding)
        question = {"role": "user", "content": f"{text} {self.mark.decode()}"}
        ask = {"model": model, "messages": [question], "temperature": 0.2, "max_tokens": 64}
        return json.dumps(ask | ({"stream": True} if self.is_stream else {})).encode()


def mark_in(request: bytes) -> bytes:
    """The last mark in it, or something that is none."""
    begin = request.rfind(b"[bench-")
    return request[begin : request.find(b"]", begin) + 1]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("json"),
        Scenario("s32", chunks=32),
        Scenario("s32-at-once", chunks=32, at_once=True),
        Scenario("s512", chunks=512),
        Scenario("slow", delay=1.0),
        Scenario("100k", padding=100_000),
        Scenario("5m", padding=5_000_000),
    )
}


def whole(padding: int = 0) -> str:
    """A chat.completion of about 600 bytes; free of the signs that nginx would interpret."""
    content = " ".join([TEXT] * 3) + _padding(padding)
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 24, "completion_tokens": 54, "total_tokens": 78}
    return _dumped({**_COMMON, "object": "chat.completion", "choices": [choice], "usage": usage})


def _padding(size: int) -> str:
    return (f" {TEXT}" * (size // len(TEXT) + 1))[:size]


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    body = _dumped({**_COMMON, "object": "chat.completion.chunk", "choices": [choice]})
    return f"data: {body}\n\n".encode()


def _dumped(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
