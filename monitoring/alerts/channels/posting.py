"""One POST with one bound for all of it, as webhooks of every kind need."""

import asyncio
from collections.abc import AsyncIterator

import httpx

from monitoring.alerts.message import ChannelFailed
from proxy.transports.connecting import checked, refusal
from routing.addresses import for_channels

Content = bytes | AsyncIterator[bytes]


def post(url: str, content: Content, headers: dict[str, str], seconds: float) -> None:
    """Raises ChannelFailed for anything but a 2xx within `seconds`."""
    status = asyncio.run(_post(url, content, {"content-type": "application/json", **headers}, seconds))
    if not 200 <= status < 300:
        raise ChannelFailed(f"status {status}")


async def _post(url: str, content: Content, headers: dict[str, str], seconds: float) -> int:
    try:
        # The time-outs of httpx are per step: a server that drips bytes would hold it for ever.
        client = checked(httpx.AsyncClient(timeout=seconds), for_channels())
        async with asyncio.timeout(seconds), client:
            request = client.build_request("POST", url, content=content, headers=headers)
            answer = await client.send(request, stream=True)
            await answer.aclose()
            return answer.status_code
    except TimeoutError:
        raise ChannelFailed(f"no answer within {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = refusal(error) or f"{type(error).__name__}: connection failed"
        raise ChannelFailed(str(why)) from None
