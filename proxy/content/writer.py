"""Writes content to its journal, encrypted: nothing readable ever reaches the disk."""

import logging
from pathlib import Path

from proxy.calls.call import Call
from proxy.calls.capture import Capture, level_of
from proxy.content.records import Content, pack, to_line
from proxy.journal.writer import JournalWriter
from routing import credentials
from routing.table import CONTENT_FULL

logger = logging.getLogger(__name__)


class ContentWriter:
    """Opens its files with the first content that is kept. What a full disk refuses is lost and counted."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.lost = 0
        self._directory = directory
        self._limit = limit
        self._journal: JournalWriter | None = None

    def begin(self, call: Call) -> Capture | None:
        """None where its content is not kept."""
        return Capture(self._limit) if level_of(call) else None

    def write(self, call: Call) -> None:
        """Once, when the call is over."""
        level = level_of(call)  # again: another route may have served it
        if call.content is None or not level:
            return
        try:
            written = self._open().write_line(to_line(_record(call, call.content, level)))
        except Exception:
            logger.exception("the content of call %s is not kept", call.id)
            written = False
        self.lost += not written

    def _open(self) -> JournalWriter:
        if self._journal is None:
            self._journal = JournalWriter(self._directory)
        return self._journal

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()


def _record(call: Call, capture: Capture, level: int) -> Content:
    record = Content(
        id=call.id,
        received_at_ns=call.received_at_ns,
        level=level,
        key_name=call.key.name if call.key else "",
        facts=capture.facts(call),
    )
    if level == CONTENT_FULL:
        request, answer, record.cut = capture.texts(call)
        record.token = credentials.encrypt_bytes(pack(request, answer))
    return record
