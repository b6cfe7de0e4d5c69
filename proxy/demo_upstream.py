"""A tiny OpenAI-compatible service that echoes: something to route to before there is a provider.

Called over HTTP like any other provider. The web process serves it (gateway_project/demo.py); any ASGI
server can: `uvicorn proxy.demo_upstream:application`.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

# Not from proxy.doors.asgi: another server runs it without Django.
Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CHUNK_PAUSE = 0.05  # seconds between two words of a stream, so that one sees it stream
HELLO = "This is the demo provider of Switchstand; it only echoes. You said: "


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    body = await _body(receive)
    if scope["path"] == "/v1/models":
        return await _json(send, 200, {"object": "list", "data": [{"id": "echo", "object": "model"}]})
    if scope["path"] != "/v1/chat/completions" or scope["method"] != "POST":
        return await _json(send, 404, {"error": {"message": "Not an endpoint of the demo provider."}})
    ask = json.loads(body)
    words = _answer(ask)
    if ask.get("stream"):
        return await _stream(send, ask, words)
    return await _json(send, 200, _completion(ask, "".join(words)))


async def _lifespan(receive: Receive, send: Send) -> None:
    for _ in ("startup", "shutdown"):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message: Message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _answer(ask: dict[str, Any]) -> list[str]:
    """The last message, word by word."""
    content = ask["messages"][-1].get("content") or ""
    said = content if isinstance(content, str) else json.dumps(content)
    return [f"{word} " for word in (HELLO + said).split()]


def _common(ask: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-demo-{time.time_ns()}",
        "object": kind,
        "created": int(time.time()),
        "model": ask["model"],
    }


def _usage(ask: dict[str, Any], text: str) -> dict[str, int]:
    given = sum(len(json.dumps(message)) for message in ask["messages"]) // 4
    made = len(text.split())
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def _completion(ask: dict[str, Any], text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text.strip()}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _common(ask, "chat.completion") | {"choices": [choice], "usage": _usage(ask, text)}


async def _stream(send: Send, ask: dict[str, Any], words: list[str]) -> None:
    head = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    common = _common(ask, "chat.completion.chunk")
    deltas: list[dict[str, str]] = [
        {"role": "assistant", "content": ""},
        *({"content": word} for word in words),
    ]
    for delta in deltas:
        await _event(send, common | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await asyncio.sleep(CHUNK_PAUSE)
    await _event(send, common | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if (ask.get("stream_options") or {}).get("include_usage"):
        await _event(send, common | {"choices": [], "usage": _usage(ask, "".join(words))})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


async def _event(send: Send, content: dict[str, Any]) -> None:
    data = b"data: " + json.dumps(content).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _json(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})
