"""What the fake providers answer: constants, so that only the proxies differ between the rows."""

import json

CHUNKS = 32
TEXT = "Points, signals and a steady hand keep every train on the line it was meant to take."
_COMMON = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "gpt-4o-mini"}


def _dumped(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def whole() -> str:
    """A chat.completion of about 600 bytes; free of the signs that nginx would interpret."""
    message = {"role": "assistant", "content": " ".join([TEXT] * 3), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 24, "completion_tokens": 54, "total_tokens": 78}
    return _dumped({**_COMMON, "object": "chat.completion", "choices": [choice], "usage": usage})


def events() -> list[bytes]:
    """The server-sent events of one stream; `[DONE]` comes after these CHUNKS."""
    words = (TEXT + " ").split(" ")[:-1]
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": words[n % len(words)] + " "} for n in range(CHUNKS - 2)]
    return [_event(delta, None) for delta in deltas] + [_event({}, "stop")]


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    body = _dumped({**_COMMON, "object": "chat.completion.chunk", "choices": [choice]})
    return f"data: {body}\n\n".encode()


DONE = b"data: [DONE]\n\n"
