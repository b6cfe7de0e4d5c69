"""One request's life, from authentication to accounting, in seven steps."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping, Sequence

from proxy.access.failed_auth import FailedAuth
from proxy.access.identify import identify
from proxy.accounting.account import Accounting, price_call
from proxy.admission.base import Admission
from proxy.admit import admit, admit_at_once, admit_closely, over_limit_route
from proxy.answers.abandoned import Abandoned, Bounds
from proxy.answers.headers import AnswerHeaders
from proxy.answers.recorded import RecordedRelay
from proxy.answers.relay import Relay
from proxy.answers.whole import Whole, read_stream, usage_of
from proxy.ask import OWN_TURN, LargeBodies, decode_chat
from proxy.attempts import fallbacks
from proxy.attempts.failover import Attempts
from proxy.attempts.reading import Answer
from proxy.batching import step_by_step
from proxy.bodies.unpacking import Unpacking
from proxy.calls.call import Call, Incoming, given_request_id
from proxy.calls.trace import Tracing
from proxy.errors import (
    GatewayError,
    InvalidApiKey,
    NotReady,
    RateLimited,
    Refusal,
    forget_history,
    outcome_of,
)
from proxy.metering.usage import estimate
from proxy.shadows import Shadows
from proxy.targets.resolve import resolve
from proxy.targets.selection import Chooser
from proxy.upstreams.pool import Upstreams
from routing.live import TableKeeper
from routing.table import EMPTY_TABLE, KeyEntry, RoutingTable

LONGEST_UNPACKED = 20 * 1024 * 1024  # bytes, where nobody says more

logger = logging.getLogger(__name__)


class Engine:
    def __init__(
        self,
        keeper: TableKeeper,
        upstreams: Upstreams,
        admission: Admission,
        accounting: Accounting,
        chooser: Chooser,
        failed_auth: FailedAuth,
        abandoned: Abandoned | None = None,
        tracing: Tracing | None = None,
        unpacking: Unpacking | None = None,
    ) -> None:
        self._keeper = keeper
        self._admission = admission
        self.accounting = accounting
        self._chooser = chooser
        self._failed_auth = failed_auth
        self.abandoned = abandoned or Abandoned(Bounds(seconds=0, bytes=0, at_once=0))
        self._tracing = tracing
        self._headers = AnswerHeaders()
        self._large = LargeBodies()
        self._unpacking = unpacking or Unpacking(LONGEST_UNPACKED)
        self._attempts = Attempts(upstreams, admission, chooser, random.Random())
        self.shadows = Shadows(self._attempts, admission, accounting, chooser, random.Random())

    async def serve(self, incoming: Incoming) -> Whole | Relay:
        """The answer on its way. Raises Refusal; a cancelled caller is accounted for too."""
        (call,) = self.begin([incoming])
        answer = await self.go_on(call)
        if isinstance(answer, Whole):
            self.finish([answer])
        return answer

    def begin(self, arrived: Sequence[Incoming]) -> list[Call]:
        """Steps 1 to 4 of requests that came together; then those that need not wait leave for a provider.

        go_on() must be called for each, or give_up().
        """
        calls = list(map(self._call, arrived))
        step_by_step((self._identify, self._decode, self._resolve, self._admit), calls, _note)
        self.accounting.write_opened()  # before a provider is called
        step_by_step((self._send,), calls, _note)
        return calls

    async def go_on(self, call: Call) -> Whole | Relay:
        """Steps 5 and 6; first what of 1 to 4 has to wait or to be refused. A whole answer needs finish()."""
        answer: Answer | None = None
        try:
            if call.fault is not None:
                raise call.take_fault()
            if call.ask is None:
                await self._decode_later(call)
            if call.grant is None:
                await self._admit_later(call)
            answer = await self._attempts.first_answer(call)
            assert call.ask is not None
            if not answer.stream:
                body, call.usage = answer.body, usage_of(answer, call.ask)
            elif (read := read_stream(answer, call.ask)) is not None:
                body, call.usage = read
                await answer.aclose()
            else:
                return self._relayed(call, answer)
            if call.content is not None:
                call.content.add(body)
            return Whole(answer.response.status, body, answer.content_type, call, self.accounting.close)
        except GatewayError as error:
            forget_history(error)
            raise self._refused(call, error) from None
        except asyncio.CancelledError:
            self.give_up(call)
            raise
        except Exception as error:  # noqa: BLE001 it is logged here, while its traceback is known
            _log_failure(call)
            forget_history(error)
            raise await self._broken_off(call, answer) from None

    async def _broken_off(self, call: Call, answer: Answer | None) -> Refusal:
        """Our own code failed. Accounted for before a wait that can be cancelled."""
        if answer is None or not answer.stream:
            return self._refused(call, GatewayError())
        call.usage = estimate(len(call.incoming.body), len(answer.body))
        refusal = self._refused(call, GatewayError())
        await answer.aclose()
        return refusal

    def finish(self, answers: list[Whole]) -> None:
        """Step 6 of whole answers that came together: price and headers."""
        step_by_step((self._complete,), answers, self._fail)

    def give_up(self, call: Call) -> None:
        """The caller has left before there was an answer."""
        self._attempts.give_up(call)
        call.outcome = "client_gone"
        self.accounting.close(call)

    def _call(self, incoming: Incoming) -> Call:
        call = Call(incoming, self._keeper.table)
        if self._tracing is not None:
            call.trace = self._tracing.begin(incoming.headers)
        return call

    def _identify(self, call: Call) -> None:
        wrong_id = call.take_request_id()
        incoming = call.incoming
        call.key, call.caller_credential = self.identify(incoming.headers, incoming.client, call.table)
        if wrong_id is not None:  # a key's holder leaves a row, whatever is wrong
            raise wrong_id

    def _decode(self, call: Call) -> None:
        if len(call.incoming.body) > OWN_TURN or b"content-encoding" in call.incoming.headers:
            return  # go_on() does it: nobody is to wait for it
        call.ask = decode_chat(call.incoming.body, call.incoming.option(b"x-litellm-model"))

    def _resolve(self, call: Call) -> None:
        if call.ask is None:
            return
        call.route, targets = resolve(call)
        fallbacks.choose(call, targets, self._chooser)

    def _admit(self, call: Call) -> None:
        if call.ask is None:
            return
        call.grant = admit_at_once(call, self._admission)
        if call.grant is not None:
            self._open(call)

    def _send(self, call: Call) -> None:
        if call.grant is not None and call.fault is None:
            self._attempts.begin(call)

    async def _decode_later(self, call: Call) -> None:
        """Steps 2 to 4 of a call whose body is large, or packed."""
        incoming, table = call.incoming, call.table
        if b"content-encoding" in incoming.headers:
            await self._unpacking.unpack(call)

        def most_messages(model: str) -> int | None:
            found = table.resolve(model)
            return found.route.max_messages if found is not None else None

        call.ask = await self._large.decode(incoming.body, incoming.option(b"x-litellm-model"), most_messages)
        self._resolve(call)
        self._admit(call)
        self.accounting.write_opened()

    async def _admit_later(self, call: Call) -> None:
        """Where limits must be asked for elsewhere, or are looked at closer."""
        try:
            call.grant = await admit_closely(call, self._admission)
        except RateLimited as full:
            await self._admit_elsewhere(call, full)
        self._open(call)
        # The journal writes its row, and all that Redis answered together get here before the first goes on.
        await asyncio.sleep(0)

    def _open(self, call: Call) -> None:
        assert call.key is not None
        assert call.route is not None
        self.accounting.open(call)
        if call.key.content or call.route.route.content:
            self.accounting.keep_content(call)
        if call.route.route.shadows:
            self.shadows.start(call)

    def _relayed(self, call: Call, answer: Answer) -> Relay:
        relay = Relay if call.content is None else RecordedRelay
        headers = self._headers.of_answer(call, answer.content_type)
        resume = self._attempts.continued_answer
        return relay(call, answer, headers, self.accounting.close, resume, self.abandoned)

    def _complete(self, answer: Whole) -> None:
        price_call(answer.call)
        answer.headers = self._headers.of_answer(answer.call, answer.content_type)

    def _fail(self, answer: Whole, error: Exception) -> None:
        _log_failure(answer.call, error)
        answer.replace(self._refusal(answer.call, GatewayError()))

    def identify(
        self, headers: Mapping[bytes, bytes], address: str, table: RoutingTable
    ) -> tuple[KeyEntry, str]:
        """(the gateway key, the caller's own provider key or "").

        Raises InvalidApiKey, RateLimited; NotReady before there is a table, whatever was presented.
        """
        try:
            return identify(headers, table)
        except InvalidApiKey as error:
            if table is EMPTY_TABLE:
                raise NotReady from None
            raise self._failed_auth.count(address, headers, error) from None

    def refuse(self, incoming: Incoming, error: GatewayError) -> Refusal:
        """For what a door must refuse before there is a body to serve; leaves a row as well."""
        call = self._call(incoming)
        call.request_id = given_request_id(incoming.headers.get(b"x-request-id")) or call.request_id
        with contextlib.suppress(InvalidApiKey, NotReady):  # then it is a stranger's
            call.key, _ = identify(incoming.headers, call.table)
        return self._refused(call, error)

    async def _admit_elsewhere(self, call: Call, refusal: RateLimited) -> None:
        """To the route that takes what limits keep from the call's own. Raises the refusal for none."""
        if (other := over_limit_route(call)) is not None:
            call.route, targets = other
            fallbacks.choose(call, targets, self._chooser)
        elif not fallbacks.take_last_resort(call, alone=True):
            raise refusal
        call.grant = await admit(call, self._admission)

    def _refused(self, call: Call, error: GatewayError) -> Refusal:
        refusal = self._refusal(call, error)
        self.accounting.close(call)
        return refusal

    def _refusal(self, call: Call, error: GatewayError) -> Refusal:
        call.error, call.status, call.outcome = error, error.status, outcome_of(error)
        return Refusal(error.status, self._headers.of_error(error, call), error.body(call.request_id))


def _note(call: Call, fault: Exception) -> None:
    if isinstance(fault, GatewayError):
        forget_history(fault)  # it knows the calls of all that came together
    call.fault = fault


def _log_failure(call: Call, error: Exception | None = None) -> None:
    """`error`: where it is not being handled right now."""
    ids = {"request_id": call.request_id, "call_id": call.id}
    logger.error("call %s failed in the gateway", call.id, extra=ids, exc_info=error or True)
