"""One request's life, from authentication to accounting, in seven steps."""

import asyncio
import logging
import random

from proxy.accounting import Accounting, price_call
from proxy.admission.base import Admission, Claim, Grant
from proxy.answer_headers import AnswerHeaders
from proxy.ask import decode_chat
from proxy.attempts import Answer, Attempts
from proxy.call import Call, Incoming, given_request_id
from proxy.errors import GatewayError, UpstreamError
from proxy.identify import identify
from proxy.relay import Relay
from proxy.resolve import resolve
from proxy.shadows import Shadows
from proxy.targets.choosing import Chooser
from proxy.upstreams import Upstreams
from routing.live import TableKeeper

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
    ) -> None:
        self._keeper = keeper
        self._admission = admission
        self._accounting = accounting
        self._headers = AnswerHeaders(admission)
        self._attempts = Attempts(upstreams, admission, chooser)
        self.shadows = Shadows(self._attempts, accounting, chooser, random.Random())

    async def serve(self, incoming: Incoming) -> Relay:
        """The answer on its way. Raises Refusal; a cancelled caller is accounted for too."""
        call = Call(incoming, table=self._keeper.table)
        answer: Answer | None = None
        try:
            call.take_request_id()
            call.key, call.caller_credential = identify(incoming.headers, call.table)
            call.ask = decode_chat(incoming.body, incoming.text(b"x-litellm-model"))
            call.route, targets = resolve(call)
            call.grant = await self._admit(call)
            self._accounting.open(call)
            if call.route.route.shadows:
                self.shadows.start(call)
            answer = await self._attempts.first_answer(call, targets)
            call.usage = answer.usage
            if not answer.stream:
                price_call(call)
            headers = self._headers.of_answer(call, answer.content_type)
            return Relay(call, answer, headers, account=self._accounting.close)
        except GatewayError as error:
            raise self._refused(call, error) from error
        except asyncio.CancelledError:
            call.outcome = "client_gone"
            self._accounting.close(call)
            raise
        except Exception as error:
            logger.exception("call %s failed in the gateway", call.id)
            if answer is not None and answer.stream:
                await answer.aclose()
            raise self._refused(call, GatewayError()) from error

    def refuse(self, incoming: Incoming, error: GatewayError) -> Refusal:
        """For what a door must refuse before there is a body to serve; leaves a row as well."""
        call = Call(incoming, table=self._keeper.table)
        call.request_id = given_request_id(incoming.headers.get(b"x-request-id")) or call.request_id
        return self._refused(call, error)

    async def _admit(self, call: Call) -> Grant:
        key, ask = call.key, call.ask
        assert key is not None
        assert ask is not None
        if key.limits:
            call.claims.append(Claim("key", key.id or 0, key.name, key.limits))
        if key.team is not None and key.team.limits:
            call.claims.append(Claim("team", key.team.id, key.team.slug, key.team.limits))
        return await self._admission.admit(call.claims, ask.worst_tokens)

    def _refused(self, call: Call, error: GatewayError) -> Refusal:
        call.error, call.status = error, error.status
        if type(error) is GatewayError:
            call.outcome = "failed"
        else:
            call.outcome = "upstream_failed" if isinstance(error, UpstreamError) else "refused"
        headers = self._headers.of_error(error, call)
        self._accounting.close(call)
        return Refusal(error.status, headers, error.body(call.request_id))
