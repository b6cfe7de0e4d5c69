"""Keeps a link to Redis, or knows that there is none: no request waits for a Redis that is away."""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.admission.redis_link import RedisAway, RedisLink, RedisRefused, Word

if TYPE_CHECKING:
    from proxy.admission.redis_ask import PackedScript

logger = logging.getLogger(__name__)

PROBE_SECONDS = 0.25
GRANTED, UNSEEDED = 1, -1
"""How an answer of scripts/admit.lua begins."""
PREFIX = "{switchstand}"
"""One hash tag for all keys: a script may touch only keys of one slot."""

_FOLDER = Path(__file__).parent / "scripts"


class Script:
    def __init__(self, name: str) -> None:
        self.text = (_FOLDER / "common.lua").read_text() + (_FOLDER / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode()).hexdigest()


ADMIT, SETTLE, SEED, HELLO, FAILED = (Script(name) for name in ("admit", "settle", "seed", "hello", "failed"))


class RedisLine:
    """`on_up(link, lost_memory)` runs after each connect, before anyone else may use the link."""

    def __init__(self, url: str, timeout: float, on_up: Callable[[RedisLink, bool], Awaitable[None]]) -> None:
        self.link: RedisLink | None = None
        self.problem = "not connected yet"
        self.changed_at = time.time()
        self._url = url
        self._timeout = timeout
        self._on_up = on_up
        self._memory: bytes | None = None
        self._memory_began = 0.0
        self._found_again = float("-inf")
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def steady_for(self) -> float:
        """Seconds since this Redis began to remember, or since this process found it again."""
        return time.monotonic() - max(self._memory_began, self._found_again)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """None before it was started."""
        return self._task.get_loop() if self._task is not None else None

    async def start(self) -> None:
        """Returns after the first try, whether it worked or not."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
        await self._tried.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.link is not None:
            self.link.close("the gateway ends")
            self.link = None

    async def run(self, script: Script, keys: list[str], *arguments: Word) -> Any:
        """Raises RedisAway where there is no link, or it is lost on the way."""
        if self.link is None:
            raise RedisAway(self.problem)
        link = self.link
        try:
            return await link.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except RedisRefused:
            return await self._run_whole(link, script, keys, *arguments)

    async def run_packed(self, script: "PackedScript", last: bytes) -> Any:
        """As run()."""
        if self.link is None:
            raise RedisAway(self.problem)
        link = self.link
        try:
            return await link.send(script.by_sha(last))
        except RedisRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise self._useless(link, error) from error
        try:
            return await link.send(script.whole(last))
        except RedisRefused as error:
            raise self._useless(link, error) from error

    async def _run_whole(self, link: RedisLink, script: Script, keys: list[str], *arguments: Word) -> Any:
        try:
            return await run(link, script, keys, *arguments)  # perhaps it only didn't know the script
        except RedisRefused as error:
            raise self._useless(link, error) from error

    def _useless(self, link: RedisLink, error: RedisRefused) -> RedisAway:
        link.close(f"it refused: {error}")  # full, or a replica: no better than away
        return RedisAway(str(error))

    async def _keep(self) -> None:
        while True:
            link = None
            try:
                link = await RedisLink.open(self._url, self._timeout)
                await self._on_up(link, await self._remembers_not(link))
                self.link = link
                self._note("")
                self._tried.set()
                problem = await asyncio.shield(link.lost)
            except (RedisAway, RedisRefused) as error:
                problem = str(error)
            finally:
                self.link = None
                if link is not None:
                    link.close("given up")
            self._note(problem)
            self._tried.set()
            await asyncio.sleep(PROBE_SECONDS)

    async def _remembers_not(self, link: RedisLink) -> bool:
        """Whether Redis lost its memory since this process last saw it."""
        memory, age = await run(link, HELLO, [f"{PREFIX}:memory"], secrets.token_hex(8))
        lost = self._memory is not None and memory != self._memory
        if self._memory is not None:
            self._found_again = time.monotonic()
        self._memory, self._memory_began = memory, time.monotonic() - age / 1000
        return lost

    def _note(self, problem: str) -> None:
        if bool(problem) != bool(self.problem) or self.problem == "not connected yet":
            self.changed_at = time.time()
            if problem:
                logger.error("Redis is away, limits can't be shared: %s", problem)
            else:
                logger.info("Redis counts the limits")
        self.problem = problem


async def run(link: RedisLink, script: Script, keys: list[str], *arguments: Word) -> Any:
    try:
        return await link.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
    except RedisRefused as error:
        if not str(error).startswith("NOSCRIPT"):
            raise
        return await link.call("EVAL", script.text, len(keys), *keys, *arguments)
