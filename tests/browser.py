"""Debian's Chromium, driven by Playwright in a thread of its own.

Playwright's loop would make Django refuse queries in the thread that started it.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from playwright.sync_api import Page, sync_playwright

from tests.optional import PARTS

T = TypeVar("T")

# Nothing but what a page asks for may go out.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def in_browser(act: Callable[[Page], T], seconds: float = 90, **context: Any) -> T:
    """What `act` returns, called with a blank page of a fresh profile."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_drive, act, context).result(seconds)


def _drive(act: Callable[[Page], T], context: dict[str, Any]) -> T:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PARTS["Chromium"], args=FLAGS, headless=True)
        try:
            page = browser.new_context(**context).new_page()
            page.set_default_timeout(20_000)
            return act(page)
        finally:
            browser.close()


class _BlankPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = b"<!doctype html><title>An app</title>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        return None


@contextmanager
def web_origin() -> Iterator[str]:
    """An origin of its own, with an empty page under every path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _BlankPage)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
