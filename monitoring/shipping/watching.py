"""Whether what works in the background works, as a web process can tell without the database."""

import time
from pathlib import Path

from django.conf import settings

from monitoring.background.restarts import restarted
from monitoring.shipping.state import read_state

SHIPPER_SECONDS = 10.0
STARTED = time.time()  # of this process, which starts the shipper


def stalled_parts() -> dict[str, str]:
    """component -> a sentence: what is silent, and what ended and was started again a moment ago."""
    return _silent() | restarted(Path(settings.PARTS_DIR), time.time())


def _silent() -> dict[str, str]:
    """The shipper tells of the others; where it is silent itself, only of it."""
    told = read_state(Path(settings.JOURNAL_DIR))
    if told is None:
        return {}  # it has never run here: another process ships, or none yet
    age = time.time() - told.at
    if told.at < STARTED and time.time() - STARTED <= settings.STALLED_SECONDS:
        return {}  # what it said was before this start, and it had no time to say more
    if age > SHIPPER_SECONDS:
        return {"shipper": f"the journal's shipper shows no sign of life for {age:.0f} s"}
    return told.stalled


def notice() -> str:
    """For the admin's pages."""
    return "; ".join(f"{text}." for text in stalled_parts().values())
