"""Step 6 for an answer that came in one piece: there is nothing to relay."""

import time
from collections.abc import Callable

import msgspec

from proxy.call import Call
from proxy.errors import Refusal
from proxy.usage import estimate


class Whole(msgspec.Struct, eq=False):
    """The door sends `body` and then calls close(), however that went."""

    status: int
    body: bytes
    content_type: str
    call: Call
    account: Callable[[Call], None]
    headers: bytes = b""  # lines, each with CR LF; there once the engine has finished it

    def replace(self, refusal: Refusal) -> None:
        """Send this instead."""
        self.status, self.headers, self.body = refusal.status, refusal.headers, refusal.body

    def close(self, *, hung_up: bool = False) -> None:
        """Account for the call. `hung_up`: the client left before it had the answer."""
        call = self.call
        if not hung_up:
            call.first_byte = time.perf_counter()
        call.status = self.status
        call.outcome = "client_gone" if hung_up else call.outcome or "answered"
        if call.usage is None and call.ask is not None:
            call.usage = estimate(call.ask.size, call.answer_bytes)
        self.account(call)
