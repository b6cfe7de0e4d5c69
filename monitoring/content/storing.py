"""From a record of the journal to a row: opened, read, redacted, encrypted again."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from django.db import DataError, transaction

from monitoring.content.models import RequestContent
from monitoring.content.reading import read
from monitoring.content.redacting import Redactor
from proxy.content.records import Content, unpack
from routing import credentials, secret_headers
from routing.models import GatewaySettings, Provider

logger = logging.getLogger(__name__)


def store(records: list[Content]) -> None:
    """A row that is there already stays. What can't be read is logged and left out."""
    if records:
        redactor = _redactor()
        rows = [row for record in records if (row := _row(record, redactor)) is not None]
        with transaction.atomic():
            RequestContent.objects.bulk_create(rows, batch_size=100, ignore_conflicts=True)


def _redactor() -> Redactor:
    secrets: list[str] = []
    for provider in Provider.objects.all():
        try:
            secrets += secret_headers.searched(provider.api_key, provider.headers)
        except credentials.CredentialUnreadable:
            logger.error("content: the credential of %s can't be read, nor looked for", provider.slug)
    return Redactor(GatewaySettings.load().content_patterns, secrets)


def _row(record: Content, redactor: Redactor) -> RequestContent | None:
    row = RequestContent(
        id=record.id,
        received_at=datetime.fromtimestamp(record.received_at_ns / 1e9, UTC),
        level=record.level,
        key_name=record.key_name,
        facts=record.facts,
        cut=record.cut,
    )
    try:
        row.encrypted = _redacted(record.token, redactor) if record.token else ""
    except (credentials.CredentialUnreadable, DataError) as error:
        logger.critical("the content of call %s is lost: %s", record.id, error)
        return None
    return row


def _redacted(token: str, redactor: Redactor) -> str:
    request, answer = unpack(credentials.decrypt_bytes(token))
    shown = {"request": redactor.tree(read(request)), "answer": redactor.tree(read(answer))}
    return credentials.encrypt_bytes(json.dumps(shown, ensure_ascii=False).encode(errors="replace"))


def opened(row: RequestContent) -> dict[str, Any] | None:
    """Request and answer in plain text; None where only metadata is kept. Raises CredentialUnreadable."""
    if not row.encrypted:
        return None
    found: dict[str, Any] = json.loads(credentials.decrypt_bytes(row.encrypted))
    return found
