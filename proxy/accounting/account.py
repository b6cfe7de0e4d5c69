"""Step 7: what a call was and cost, to the journal; its limits are settled."""

import logging
import time
from collections.abc import Callable

from proxy.access.client_address import Callers, TrustedProxies
from proxy.access.strangers import Strangers
from proxy.accounting.rows import Rows
from proxy.batching import Together, step_by_step
from proxy.calls.call import Call
from proxy.content.writer import ContentWriter
from proxy.errors import JournalFull
from proxy.journal.records import Closed
from proxy.journal.writer import JournalWriter
from proxy.metering.usage import cost
from proxy.metrics.counters import Counters

logger = logging.getLogger(__name__)


class Accounting:
    def __init__(
        self,
        journal: JournalWriter,
        counters: Counters,
        when_full: str = "serve",
        contents: ContentWriter | None = None,
        strangers: Strangers | None = None,
        callers: Callers | None = None,
    ) -> None:
        self._strangers = strangers or Strangers()
        self._contents = contents
        self._journal = journal
        self._rows = Rows(callers or Callers("keep", TrustedProxies(())))
        self._counters = counters
        self._serves_unwritten = when_full == "serve"
        self._ended = Together(self._close_all)
        self._open = 0  # calls

    def open(self, call: Call) -> None:
        """Before a provider is called: from here on the call leaves a row, whatever happens.

        The row is written before anything that the event loop is given to do from now on.
        Raises JournalFull where the disk is full and calls must not be made then.
        """
        if self._serves_unwritten and self._open:
            self._journal.gather(self._rows.opened(call))  # all of one turn of the event loop in one write
        elif self._serves_unwritten:
            self._journal.write(self._rows.opened(call))
        elif not self._journal.write(self._rows.opened(call), keep=False):
            raise JournalFull("The gateway can't write its books now: try again.", retry_after=1)
        call.opened = True
        self._open += 1

    def write_opened(self) -> None:
        """The rows of all calls opened so far: their providers may be called now."""
        self._journal.write_gathered()

    def keep_content(self, call: Call) -> None:
        """For keys and routes that say something about content."""
        if self._contents is not None:
            call.content = self._contents.begin(call)

    def close(self, call: Call) -> None:
        """Once per call. Not awaited, so it can't be cancelled half-way."""
        call.ended_at = time.perf_counter()
        if call.incoming.unpacked is not None:
            call.incoming.unpacked.release()
        self._open -= call.opened
        if call.opened and not self._open and not self._ended.any_waits:
            self._account([call], self._write)  # alone: there is nobody to wait a turn for
        else:  # refusals too: many may come together, and each is answered first
            self._ended.add(call)

    def close_ended(self) -> None:
        """Those that would have their turn in the event loop's next one."""
        self._ended.handle_now()

    def _close_all(self, ended: list[Call]) -> None:
        self._account(ended, self._gather)

    def _account(self, ended: list[Call], keep: Callable[[Call], None]) -> None:
        step_by_step((self._make_row, keep, self._count), ended, _not_accounted)
        step_by_step((_settle,), ended, _not_accounted)

    def _make_row(self, call: Call) -> None:
        if call.price_cost is None:  # else priced for the answer's headers already
            price_call(call)
        call.row = self._rows.closed(call, _fate(call))

    def _write(self, call: Call) -> None:
        assert call.row is not None
        if call.key is not None or self._is_kept(call, call.row):
            self._journal.write(call.row)

    def _gather(self, call: Call) -> None:
        assert call.row is not None
        if call.key is not None or self._is_kept(call, call.row):
            self._journal.gather(call.row)

    def _is_kept(self, call: Call, row: Closed) -> bool:
        """Of strangers a sample, with nothing of their headers but where they call from."""
        if call.shadow:
            return True
        row.client_info = address = self._strangers.address_of(call)
        return self._strangers.is_sampled(address)

    def _count(self, call: Call) -> None:
        assert call.row is not None
        self._counters.count(call, call.row)
        if call.content is not None and self._contents is not None:
            self._contents.write(call)
        if call.trace is not None and call.key is not None:
            call.trace.end(call, call.row)
        call.incoming.body, call.ask = b"", None  # let go, whoever still holds the call


def _not_accounted(call: Call, error: Exception) -> None:
    logger.error("call %s could not be accounted for", call.id, exc_info=error)


def _settle(call: Call) -> None:
    grant = call.grant
    if grant is None:
        return
    if call.target is not None:
        grant.settle(call.usage.total if call.usage is not None else None, call.price_cost)
    elif _abandoned(call):
        grant.settle(None, call.price_cost)
    else:
        grant.settle(0, 0)


def _fate(call: Call) -> str:
    """What became of the provider's answer where nobody waited for it any more."""
    return call.abandoned or ("cancelled" if call.outcome == "client_gone" and _abandoned(call) else "")


def _abandoned(call: Call) -> bool:
    """A provider still works on an answer that nobody waits for."""
    return call.target is None and bool(call.attempts) and call.attempts[-1].result == "cancelled"


def price_call(call: Call) -> None:
    """Sets price_cost in nano-USD; it stays None where the price or the usage is unknown.

    An abandoned call counts at what was reserved for it, and an estimate never at more.
    """
    reserved = call.grant.reserved_nano if call.grant is not None else None
    if call.target is not None and call.target.price is not None and call.usage is not None:
        call.price_cost = price = _cost_of_parts(call)
        if call.usage.estimated and reserved is not None and price is not None:
            call.price_cost = min(price, reserved)
    elif _abandoned(call):
        call.price_cost = reserved


def _cost_of_parts(call: Call) -> int | None:
    """Each part of a continued answer at the price of the target that gave it."""
    assert call.target is not None
    assert call.usage is not None
    rest, total = call.usage, 0
    for target, part in call.answered_before:
        if target.price is None:
            return None
        total += cost(part, target.price)
        rest = rest - part
    return None if call.target.price is None else total + cost(rest, call.target.price)
