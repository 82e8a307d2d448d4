"""RSA keys that are ready before anybody asks: finding one takes a quarter of a second, and sometimes seconds.

They are in this process's memory and nowhere else, belong to nobody until they are taken, and are taken once.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import Final

from control_plane.keys.algorithms import KeyAlgorithm, SigningKey, new_key
from control_plane.keys.material import MakeKey

READY: Final[Mapping[KeyAlgorithm, int]] = {KeyAlgorithm.RSA_3072: 4, KeyAlgorithm.RSA_4096: 4}
"""How many of each are kept ready."""
# The lowest priority that there is: whoever has something to do goes first.
_NICE: Final = 19


class RsaPool:
    """Keeps a few keys ready while `run` runs. Without it, or when there are none, one is made when it is asked for."""

    def __init__(self, *, ready: Mapping[KeyAlgorithm, int] = READY, make: MakeKey = new_key) -> None:
        """Keep so many of each ready, which `make` makes. Algorithms that are not named are made when asked for."""
        self._ready = ready
        self._make = make
        # Guards the keys, and tells the thread that one was taken, or that it is to end.
        self._changed = threading.Condition()
        self._keys: dict[KeyAlgorithm, deque[SigningKey]] = {algorithm: deque() for algorithm in ready}
        self._is_over = False

    def take(self, algorithm: KeyAlgorithm) -> SigningKey:
        """Return a key that nobody else is given. May take seconds where none is ready: not for an event loop."""
        with self._changed:
            keys = self._keys.get(algorithm)
            if keys:
                self._changed.notify_all()
                return keys.popleft()
        return self._make(algorithm)

    def ready(self, algorithm: KeyAlgorithm) -> int:
        """Say how many can be had at once."""
        with self._changed:
            return len(self._keys.get(algorithm, ()))

    async def run(self) -> None:
        """Keep the pool filled until cancelled, in a thread of the lowest priority; then drop what is in it."""
        self._is_over = False
        # A daemon: nobody waits for a key that is just being made when the process ends.
        threading.Thread(target=self._fill, name="rsa-pool", daemon=True).start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
                for keys in self._keys.values():
                    keys.clear()

    def _fill(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (algorithm := self._missing()) is not None:
            key = self._make(algorithm)
            with self._changed:
                if not self._is_over:
                    self._keys[algorithm].append(key)

    def _missing(self) -> KeyAlgorithm | None:
        """Wait until a key is missing and return which; None once it is over."""
        with self._changed:
            while not self._is_over:
                # The one that lacks the most comes first, so that neither waits for all of the other.
                lacking = max(self._ready, key=lambda one: self._ready[one] - len(self._keys[one]))
                if len(self._keys[lacking]) < self._ready[lacking]:
                    return lacking
                self._changed.wait()
            return None
