"""Hashes passwords one at a time, in a thread that yields to requests."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from django.contrib.auth.hashers import PBKDF2PasswordHasher

NICENESS = 10  # about a tenth of what a thread that serves requests gets, where both want all


class Hasher(PBKDF2PasswordHasher):
    """Django's own hash. It takes a core for half a second, so many at once would leave none to requests.

    The interpreter lock is free meanwhile: OpenSSL does the work.
    """

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        hash_it = partial(super().encode, password, salt, iterations)
        return _Thread.get().submit(hash_it).result()


class _Thread:
    _executor: ThreadPoolExecutor | None = None
    _lock = threading.Lock()

    @classmethod
    def get(cls) -> ThreadPoolExecutor:
        with cls._lock:
            if cls._executor is None:
                cls._executor = ThreadPoolExecutor(1, "password-hash", initializer=_yield_to_others)
            return cls._executor

    @classmethod
    def forget(cls) -> None:
        """A fork copies the executor, but not its thread."""
        cls._executor, cls._lock = None, threading.Lock()


def _yield_to_others() -> None:
    with contextlib.suppress(OSError):  # only Linux has a priority for each thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


os.register_at_fork(after_in_child=_Thread.forget)
