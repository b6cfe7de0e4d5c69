"""Builds the engine and all that it runs on; one per web process."""

import random
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from proxy.accounting import Accounting
from proxy.admission.memory import MemoryAdmission
from proxy.engine import Engine
from proxy.journal.writer import JournalWriter
from proxy.targets.board import Board
from proxy.targets.choosing import Chooser
from proxy.targets.exchange import make_exchange
from proxy.targets.sharing import Sharing
from proxy.upstreams import Upstreams
from routing.live import TableKeeper


@dataclass(slots=True)
class Gateway:
    keeper: TableKeeper
    engine: Engine
    upstreams: Upstreams
    admission: MemoryAdmission
    journal: JournalWriter
    chooser: Chooser
    sharing: Sharing
    draining: bool = False

    def drain(self) -> None:
        """Told to stop: readiness says so from now on, while open calls are served to their end."""
        self.draining = True

    async def aclose(self) -> None:
        self.drain()
        self.keeper.stop()
        self.sharing.stop()
        await self.engine.shadows.aclose()
        await self.upstreams.aclose()
        self.journal.close()


def build_gateway() -> Gateway:
    keeper = TableKeeper()
    upstreams = Upstreams(settings.UPSTREAM_TRANSPORT)
    admission = MemoryAdmission()
    journal = JournalWriter(Path(settings.JOURNAL_DIR))
    chooser = Chooser(Board(), random.Random())
    engine = Engine(keeper, upstreams, admission, Accounting(journal), chooser)
    return Gateway(
        keeper=keeper,
        engine=engine,
        upstreams=upstreams,
        admission=admission,
        journal=journal,
        chooser=chooser,
        sharing=Sharing(chooser.board, make_exchange(), keeper),
    )


class _Running:
    """Where the views find the gateway of their process."""

    gateway: Gateway | None = None


def running_gateway() -> Gateway:
    """The gateway of this process, started on first use where no ASGI lifespan did."""
    if _Running.gateway is None:
        _Running.gateway = build_gateway()
        _Running.gateway.keeper.start()
        _Running.gateway.sharing.start()
    return _Running.gateway


def current_gateway() -> Gateway | None:
    """The gateway of this process, None where none was started."""
    return _Running.gateway


def stop_gateway() -> None:
    """Forget the gateway; the next running_gateway() builds a new one."""
    _Running.gateway = None
