"""What is kept of calls without a valid key: all are counted, a bounded sample is written down."""

import time
from collections.abc import Callable

from proxy.access.client_address import TrustedProxies, counted_as
from proxy.calls.call import Call

ROWS_OF_ADDRESS = 5  # per minute
ROWS_OF_ALL = 300  # per minute
MINUTE = 60.0


class Strangers:
    """Per web process."""

    def __init__(
        self, proxies: TrustedProxies | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._proxies = proxies or TrustedProxies(())
        self._clock = clock
        self._minute = 0
        self._rows = 0
        self._of_address: dict[str, int] = {}  # no more than there are rows

    def address_of(self, call: Call) -> str:
        return counted_as(self._proxies.client_of(call.incoming.client, call.incoming.headers))

    def is_sampled(self, address: str) -> bool:
        """Whether one more call from there leaves a row."""
        minute = int(self._clock() // MINUTE)
        if minute != self._minute:
            self._minute, self._rows = minute, 0
            self._of_address.clear()
        rows = self._of_address.get(address, 0)
        if self._rows >= ROWS_OF_ALL or rows >= ROWS_OF_ADDRESS:
            return False
        self._rows += 1
        self._of_address[address] = rows + 1
        return True
