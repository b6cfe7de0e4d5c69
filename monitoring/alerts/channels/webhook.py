"""JSON to a URL, signed so that the receiver can tell that it is ours and fresh."""

import hashlib
import hmac
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import IO

import msgspec

from monitoring.alerts.channels.posting import post
from monitoring.alerts.message import File, Message

TIMESTAMP, SIGNATURE, DELIVERY = (
    "x-switchstand-timestamp",
    "x-switchstand-signature",
    "x-switchstand-delivery",
)
CHUNK = 64 * 1024


def send(url: str, secret: str, message: Message, seconds: float) -> None:
    """Raises ChannelFailed."""
    content = msgspec.json.encode(asdict(message))
    moment = str(int(time.time()))
    headers = {DELIVERY: message.id, TIMESTAMP: moment}
    if secret:
        headers[SIGNATURE] = signature(secret, moment, content)
    post(url, content, headers, seconds)


def send_file(url: str, secret: str, file: File, seconds: float) -> None:
    """The file is the body. Raises ChannelFailed."""
    moment = str(int(time.time()))
    headers = {
        DELIVERY: file.id,
        TIMESTAMP: moment,
        "content-type": file.content_type,
        "content-length": str(file.content.seek(0, os.SEEK_END)),
        "content-disposition": f'attachment; filename="{file.name}"',
    }
    file.content.seek(0)
    if secret:
        headers[SIGNATURE] = _signature_of(secret, moment, file.content)
    file.content.seek(0)
    post(url, _chunks(file.content), headers, seconds)


def _signature_of(secret: str, timestamp: str, content: IO[bytes]) -> str:
    digest = hmac.new(secret.encode(), timestamp.encode() + b".", hashlib.sha256)
    while part := content.read(CHUNK):
        digest.update(part)
    return f"sha256={digest.hexdigest()}"


async def _chunks(content: IO[bytes]) -> AsyncIterator[bytes]:
    while part := content.read(CHUNK):
        yield part


def signature(secret: str, timestamp: str, content: bytes) -> str:
    """Of the timestamp, a dot and the body."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + content, hashlib.sha256).hexdigest()
    return f"sha256={digest}"
