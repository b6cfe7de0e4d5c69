"""Deadlines, by a timer of their own and by the clock that long ones share."""

import asyncio
import time

import pytest

from proxy.upstreams import deadline
from proxy.upstreams.deadline import Deadline, DeadlinePassed

SECONDS = 0.3


@pytest.fixture(params=["short", "long"], autouse=True)
def kind(request, monkeypatch):
    if request.param == "long":
        monkeypatch.setattr(deadline, "LONG", SECONDS)


async def test_it_ends_a_wait_after_its_seconds():
    begun = time.monotonic()
    with pytest.raises(DeadlinePassed), Deadline(SECONDS):
        await asyncio.sleep(10)
    assert SECONDS <= time.monotonic() - begun < 5


async def test_a_wait_that_is_over_in_time_is_left_alone():
    with Deadline(SECONDS):
        await asyncio.sleep(0)
    await asyncio.sleep(2 * SECONDS)


async def test_it_begins_anew_each_time_it_is_renewed():
    renewed = 0.0

    async def renew_for_a_while(limit):
        nonlocal renewed
        for _ in range(8):
            await asyncio.sleep(SECONDS / 4)
            limit.renew(SECONDS)
        renewed = time.monotonic()

    limit = Deadline(SECONDS)
    renewing = asyncio.create_task(renew_for_a_while(limit))
    with pytest.raises(DeadlinePassed), limit:
        await asyncio.sleep(60)
    assert renewing.done()
    assert time.monotonic() - renewed >= SECONDS - deadline.CLOCK_STEP
