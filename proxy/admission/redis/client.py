"""Keeps a connection to Redis, or knows that there is none: no request waits for a Redis that is away."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from proxy.admission.redis.connection import RedisAway, RedisConnection, RedisRefused, Word
from proxy.admission.redis.scripts import EPOCH, PREFIX, PackedScript, Script, run

logger = logging.getLogger(__name__)

PROBE_SECONDS = 0.25

OnUp = Callable[[RedisConnection, bool], Awaitable[None]]


class RedisClient:
    """`on_up(connection, lost_memory)` runs after each connect, before anyone else may use it."""

    def __init__(self, url: str, timeout: float, on_up: OnUp) -> None:
        self.connection: RedisConnection | None = None
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
        if self.connection is not None:
            self.connection.close("the gateway ends")
            self.connection = None

    async def run(self, script: Script, keys: list[str], *arguments: Word) -> Any:
        """Raises RedisAway where there is no connection, or it is lost on the way."""
        if self.connection is None:
            raise RedisAway(self.problem)
        connection = self.connection
        try:
            return await connection.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except RedisRefused:
            return await self._run_whole(connection, script, keys, *arguments)

    async def run_packed(self, script: PackedScript, last: bytes) -> Any:
        """As run()."""
        if self.connection is None:
            raise RedisAway(self.problem)
        connection = self.connection
        try:
            return await connection.send(script.by_sha(last))
        except RedisRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise self._useless(connection, error) from error
        try:
            return await connection.send(script.whole(last))
        except RedisRefused as error:
            raise self._useless(connection, error) from error

    async def _run_whole(
        self, connection: RedisConnection, script: Script, keys: list[str], *arguments: Word
    ) -> Any:
        try:
            return await run(connection, script, keys, *arguments)  # perhaps it only didn't know the script
        except RedisRefused as error:
            raise self._useless(connection, error) from error

    def _useless(self, connection: RedisConnection, error: RedisRefused) -> RedisAway:
        connection.close(f"it refused: {error}")  # full, or a replica: no better than away
        return RedisAway(str(error))

    async def _keep(self) -> None:
        while True:
            connection = None
            try:
                connection = await RedisConnection.open(self._url, self._timeout)
                await self._on_up(connection, await self._remembers_not(connection))
                self.connection = connection
                self._note("")
                self._tried.set()
                problem = await asyncio.shield(connection.lost)
            except (RedisAway, RedisRefused) as error:
                problem = str(error)
            finally:
                self.connection = None
                if connection is not None:
                    connection.close("given up")
            self._note(problem)
            self._tried.set()
            await asyncio.sleep(PROBE_SECONDS)

    async def _remembers_not(self, connection: RedisConnection) -> bool:
        """Whether Redis lost its memory since this process last saw it."""
        memory, age = await run(connection, EPOCH, [f"{PREFIX}:memory"], secrets.token_hex(8))
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
