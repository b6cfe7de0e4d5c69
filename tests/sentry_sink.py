"""A Sentry that keeps all that it is sent."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import brotli

UNPACK = {"gzip": gzip.decompress, "br": brotli.decompress}  # the client prefers brotli where it is there


class SentrySink:
    def __init__(self) -> None:
        self.envelopes: list[str] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                unpack = UNPACK.get(self.headers.get("content-encoding", ""))
                body = unpack(body) if unpack else body
                sink.envelopes.append(f"{self.path} {self.headers} {body.decode()}")
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.dsn = f"http://public@127.0.0.1:{self._server.server_address[1]}/1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
