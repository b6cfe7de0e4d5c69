"""A client on a bare socket: requests as bytes, and answers one after the other."""

from tests.live import ask

PATH = "/v1/chat/completions"


def post(key, body=None, *headers, path=PATH, method="POST", version="1.1", length=True):
    body = ask("gpt") if body is None else body
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", f"AUTHORIZATION: Bearer {key}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


GET_HEALTH = b"GET /health/liveliness HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Answers:
    """Reads one answer after the other."""

    def __init__(self, client):
        self.file = client.makefile("rb")

    def next(self):
        """(status, headers, body)"""
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower().decode()] = value.strip().decode()
        if status == 100:
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, self._chunks()
        if "content-length" in headers:
            return status, headers, self.file.read(int(headers["content-length"]))
        return status, headers, self.file.read()

    def _chunks(self):
        parts = []
        while size := int(self.file.readline(), 16):
            parts.append(self.file.read(size))
            self.file.readline()
        self.file.readline()
        return b"".join(parts)

    def ended(self):
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


def statuses(client, count):
    answers = Answers(client)
    return [answers.next()[0] for _ in range(count)]
