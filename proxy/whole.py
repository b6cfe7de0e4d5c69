"""Step 6 for an answer that came in one piece: there is nothing to relay."""

import time
from collections.abc import Callable

import msgspec

from proxy.call import Call
from proxy.usage import estimate


class Whole(msgspec.Struct, eq=False):
    """The door sends `body` and then calls close(), however that went."""

    status: int
    headers: bytes  # lines, each with CR LF
    body: bytes
    _call: Call
    _account: Callable[[Call], None]

    def close(self, *, hung_up: bool = False) -> None:
        """Account for the call. `hung_up`: the client left before it had the answer."""
        call = self._call
        if not hung_up:
            call.first_byte = time.perf_counter()
        call.status = self.status
        call.outcome = "client_gone" if hung_up else "answered"
        if call.usage is None and call.ask is not None:
            call.usage = estimate(call.ask.size, call.answer_bytes)
        self._account(call)
