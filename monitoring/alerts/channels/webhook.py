"""JSON to a URL, signed so that the receiver can tell that it is ours and fresh."""

import hashlib
import hmac
import time
from dataclasses import asdict

import msgspec

from monitoring.alerts.channels.posting import post
from monitoring.alerts.message import Message

TIMESTAMP, SIGNATURE, DELIVERY = (
    "x-switchstand-timestamp",
    "x-switchstand-signature",
    "x-switchstand-delivery",
)


def send(url: str, secret: str, message: Message, seconds: float) -> None:
    """Raises ChannelFailed."""
    content = msgspec.json.encode(asdict(message))
    moment = str(int(time.time()))
    headers = {DELIVERY: message.id, TIMESTAMP: moment}
    if secret:
        headers[SIGNATURE] = signature(secret, moment, content)
    post(url, content, headers, seconds)


def signature(secret: str, timestamp: str, content: bytes) -> str:
    """Of the timestamp, a dot and the body."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + content, hashlib.sha256).hexdigest()
    return f"sha256={digest}"
