"""One request's life, from authentication to accounting, in seven steps."""

import asyncio
import logging
import random
from collections.abc import Mapping

from proxy import detours
from proxy.abandoned import Abandoned, Bounds
from proxy.accounting import Accounting, price_call
from proxy.admission.base import Admission
from proxy.admitting import admit, over_limit_route
from proxy.answer_headers import AnswerHeaders
from proxy.ask import decode_chat
from proxy.attempt import Answer
from proxy.attempts import Attempts
from proxy.call import Call, Incoming, given_request_id
from proxy.content.relay import RecordedRelay
from proxy.errors import (
    GatewayError,
    InvalidApiKey,
    NoHealthyUpstream,
    RateLimited,
    UpstreamError,
    UpstreamRateLimited,
)
from proxy.failed_auth import FailedAuth
from proxy.identify import identify
from proxy.relay import Relay
from proxy.resolve import resolve
from proxy.shadows import Shadows
from proxy.targets.choosing import Chooser
from proxy.tracing.trace import Tracing
from proxy.upstreams import Upstreams
from proxy.usage import estimate
from proxy.whole import Whole
from routing.live import TableKeeper
from routing.table import KeyEntry, RoutingTable, TargetEntry

logger = logging.getLogger(__name__)


class Refusal(Exception):
    """The request is over: a door renders this as a JSON error."""

    def __init__(self, status: int, headers: bytes, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


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
    ) -> None:
        self._keeper = keeper
        self._admission = admission
        self.accounting = accounting
        self._chooser = chooser
        self._failed_auth = failed_auth
        self.abandoned = abandoned or Abandoned(Bounds(seconds=0, bytes=0, at_once=0))
        self._tracing = tracing
        self._headers = AnswerHeaders()
        self._attempts = Attempts(upstreams, admission, chooser, random.Random())
        self.shadows = Shadows(self._attempts, admission, accounting, chooser, random.Random())

    async def serve(self, incoming: Incoming) -> Whole | Relay:
        """The answer on its way. Raises Refusal; a cancelled caller is accounted for too."""
        call = Call(incoming, self._keeper.table)
        if self._tracing is not None:
            call.trace = self._tracing.begin(incoming.headers)
        answer: Answer | None = None
        try:
            call.take_request_id()
            call.key, call.caller_credential = self.identify(incoming.headers, incoming.client, call.table)
            call.ask = decode_chat(incoming.body, incoming.option(b"x-litellm-model"))
            call.route, targets = resolve(call)
            self._choose(call, targets)
            try:
                call.grant = await admit(call, self._admission)
            except RateLimited as full:
                await self._admit_elsewhere(call, full)
            self.accounting.open(call)
            if call.key.content or call.route.route.content:
                self.accounting.keep_content(call)
            if call.route.route.shadows:
                self.shadows.start(call)
            answer = await self._attempts.first_answer(call)
            call.usage = answer.usage
            return self._whole(call, answer) if not answer.stream else self._relayed(call, answer)
        except GatewayError as error:
            raise self._refused(call, error) from error
        except asyncio.CancelledError:
            call.outcome = "client_gone"
            self.accounting.close(call)
            raise
        except Exception as error:
            ids = {"request_id": call.request_id, "call_id": call.id}
            logger.exception("call %s failed in the gateway", call.id, extra=ids)
            if answer is not None and answer.stream:
                await answer.aclose()
                call.usage = estimate(len(incoming.body), len(answer.body))  # the provider had begun
            raise self._refused(call, GatewayError()) from error

    def _whole(self, call: Call, answer: Answer) -> Whole:
        price_call(call)
        if call.content is not None:
            call.content.add(answer.body)
        headers = self._headers.of_answer(call, answer.content_type)
        return Whole(answer.response.status, headers, answer.body, call, self.accounting.close)

    def _relayed(self, call: Call, answer: Answer) -> Relay:
        relay = Relay if call.content is None else RecordedRelay
        headers = self._headers.of_answer(call, answer.content_type)
        resume = self._attempts.continued_answer
        return relay(call, answer, headers, self.accounting.close, resume, self.abandoned)

    def identify(
        self, headers: Mapping[bytes, bytes], address: str, table: RoutingTable
    ) -> tuple[KeyEntry, str]:
        """(the gateway key, the caller's own provider key or ""). Raises InvalidApiKey, RateLimited."""
        try:
            return identify(headers, table)
        except InvalidApiKey as error:
            raise self._failed_auth.count(address, headers, error) from None

    def refuse(self, incoming: Incoming, error: GatewayError) -> Refusal:
        """For what a door must refuse before there is a body to serve; leaves a row as well."""
        call = Call(incoming, self._keeper.table)
        if self._tracing is not None:
            call.trace = self._tracing.begin(incoming.headers)
        call.request_id = given_request_id(incoming.headers.get(b"x-request-id")) or call.request_id
        return self._refused(call, error)

    async def _admit_elsewhere(self, call: Call, refusal: RateLimited) -> None:
        """To the route that takes what limits keep from the call's own. Raises the refusal for none."""
        other = over_limit_route(call)
        if other is None:
            raise refusal
        call.route, targets = other
        call.order = self._chooser.order(call, targets)
        call.grant = await admit(call, self._admission)

    def _choose(self, call: Call, targets: list[TargetEntry]) -> None:
        """Puts the targets in order; those of a fallback route where the call's own may not be tried."""
        try:
            call.order = self._chooser.order(call, targets)
        except (NoHealthyUpstream, UpstreamRateLimited):
            call.available = 0
            if not detours.take(call, detours.ERROR, self._chooser):
                raise

    def _refused(self, call: Call, error: GatewayError) -> Refusal:
        call.error, call.status = error, error.status
        if type(error) is GatewayError:
            call.outcome = "failed"
        else:
            call.outcome = "upstream_failed" if isinstance(error, UpstreamError) else "refused"
        headers = self._headers.of_error(error, call)
        self.accounting.close(call)
        return Refusal(error.status, headers, error.body(call.request_id))
