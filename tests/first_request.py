"""Run as a process by test_warm_up.py: starts the application, then prints what first requests import."""

import asyncio
import json
import sys
from typing import Any


async def call(application: Any, key: str, origin: str, *, stream: bool) -> int:
    """The status of one chat completion, asked for without a server."""
    body = json.dumps({"model": "gpt", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
    headers = {"host": "localhost", "authorization": f"Bearer {key}", "content-type": "application/json"}
    headers |= {"origin": origin} if origin else {}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 4000),
    }
    asked: list[Any] = [{"type": "http.request", "body": body.encode(), "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return asked.pop() if asked else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return int(sent[0]["status"])


async def main(key: str) -> dict[str, Any]:
    from gateway_project.asgi import application

    orders: asyncio.Queue[Any] = asyncio.Queue()
    told: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(application({"type": "lifespan"}, orders.get, told.put))
    await orders.put({"type": "lifespan.startup"})
    assert (await told.get())["type"] == "lifespan.startup.complete"
    before = set(sys.modules)
    calls = [("", False), ("", True), ("http://allowed.test", False), ("http://allowed.test", True)]
    statuses = [await call(application, key, origin, stream=stream) for origin, stream in calls]
    imported = sorted(set(sys.modules) - before)
    await orders.put({"type": "lifespan.shutdown"})
    await life
    return {"statuses": statuses, "imported": imported}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
