"""The count of what tenants use, in Valkey: one function call for each question.

The count is Valkey's alone, by its own clock, so that any number of workers and agents take exactly what there is.
Without Valkey nothing can be taken: a window that nobody counts has no limit.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from control_plane import cell_key
from ext_authz.budgets.connection import ConnectionGoneError, LineConnection, bulk, packed
from ext_authz.budgets.windows import Window

_LIBRARY: Final = Path(__file__).with_name("budget.lua")
_ANSWERS_WITHIN_S: Final = 0.1
_RETRY_S: Final = (0.05, 0.1)
_FUNCTION_UNKNOWN: Final = b"-ERR Function not found"
_USER: Final = "edge"
# Of whoever counts in this memory, the first one has named it.
_MEMORY: Final = "edge:memory"
_ADMITTED: Final = b"+OK"
_ELSEWHEN: Final = b"ELSEWHEN"
# A window changes each second at most, and few tenants ask at once.
_MOST_QUESTIONS: Final = 4096

_log: Final = structlog.get_logger("budgets")


class BudgetUnavailableError(Exception):
    """Nobody can tell what is left. What was asked for may have been counted in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What Valkey says."""

    calls: int
    """How many were taken."""
    now_ms: int
    """Its own time, since 1970, a moment before it answered."""
    windows: tuple[Window, ...]
    """As they were asked about: each the one that is the current one."""
    remaining: tuple[int, ...]
    """Of each window's limit, in its own unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhen:
    """Nothing was taken: Valkey's time is in none of the windows."""

    now_ms: int


class Counter:
    """Takes tenants' calls, and gives them back. While Valkey is away it says so at once, and looks out for it."""

    def __init__(self, valkey_socket: Path, key: bytes) -> None:
        """Count in the Valkey behind `valkey_socket`, as the edge's user, whose password `key` gives; see `open`."""
        self._socket = str(valkey_socket)
        self._password = cell_key.password(key, _USER)
        self._connection: LineConnection | None = None
        self._memory = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, valkey_socket: Path, key: bytes) -> AsyncIterator[Self]:
        """Open the counter, whether or not Valkey is there yet."""
        counter = cls(valkey_socket, key)
        await counter._connect()
        keeping = asyncio.create_task(counter._keep_connected())
        try:
            yield counter
        finally:
            # The client library may take a cancellation for the end of its own time, and pass it over.
            while not keeping.done():
                keeping.cancel()
                await asyncio.wait([keeping], timeout=_ANSWERS_WITHIN_S)
            if counter._connection is not None:
                counter._connection.close()

    @property
    def memory(self) -> str | None:
        """The name of what Valkey remembers, the same for all who count there; None while it is away.

        Another one, or the same after it has lost everything, has another name.
        """
        return self._memory if self._connection is not None else None

    async def take(
        self, tenant_uid: UUID, windows: tuple[Window, ...], *, wanted: int, parts: int = 1, request_id: str = ""
    ) -> Counted | Elsewhen:
        """Take `wanted` calls out of all windows, or as many as they allow: `parts` times as many must be left in each.

        Where `parts` is more than 1, fewer than four are none.

        A request that has taken its call, told by an id that nobody but Envoy can choose, does not take it again
        within a second: Envoy asks another worker when one does not answer in time.

        Raises:
            BudgetUnavailableError: when it cannot be told: Valkey is away, or has been silent for 150 ms.
        """
        question = _question(tenant_uid, windows)
        line = await self._heard(self._sent(question.asked(wanted=wanted, parts=parts, request_id=request_id)))
        first, *others = line[1:].split(b" ")
        numbers = [int(each) for each in others]
        if first == _ELSEWHEN:
            return Elsewhen(now_ms=numbers[0])
        return Counted(
            calls=int(first),
            now_ms=numbers[0],
            windows=tuple(
                _as_answered(window, begin_ms, end_ms)
                for window, begin_ms, end_ms in zip(windows, numbers[1::3], numbers[2::3], strict=True)
            ),
            remaining=tuple(numbers[3::3]),
        )

    def give_back(
        self, tenant_uid: UUID, windows: Sequence[Window], calls: int, *, lease: str = "", until_ms: int = 0
    ) -> Coroutine[Any, Any, object]:
        """Give calls back to those of the windows that still last. MUST be done once at most for each call.

        What is left of a lease is given back once, by whoever is the first to name it, and not after `until_ms` of
        Valkey's clock. MUST NOT be asked for later than 10 s after it was asked for first.

        Asked at once, and before whatever is taken afterwards; what is returned waits for the answer.

        Raises:
            BudgetUnavailableError: from what is returned: it may have been done, or not. It is not to be tried again.
        """
        words = [word for window in windows for word in (b"%d" % window.price, b"%d" % window.begin_ms)]
        keys = [_key(tenant_uid, b"lease:" + lease.encode()), *_keys(tenant_uid, windows)]
        named = (lease.encode(), b"%d" % until_ms, b"%d" % calls)
        return self._heard(self._sent(packed(b"FCALL", b"give_back_calls", b"%d" % len(keys), *keys, *named, *words)))

    def _sent(self, command: bytes) -> asyncio.Future[bytes] | None:
        with suppress(ConnectionGoneError):
            return self._connection.send(command) if self._connection is not None else None
        return None

    async def _heard(self, sent: asyncio.Future[bytes] | None) -> bytes:
        if sent is None:
            raise BudgetUnavailableError("Valkey is away")
        try:
            line = await sent
        except ConnectionGoneError:
            raise BudgetUnavailableError("Valkey does not answer") from None
        if not line.startswith(b"+"):
            raise self._failure(line)
        return line

    def _failure(self, line: bytes) -> BudgetUnavailableError:
        if line.startswith(_FUNCTION_UNKNOWN) and self._connection is not None:
            # Somebody has emptied it. The functions are brought along with the next connection.
            self._connection.close()
        text = line.decode(errors="replace")
        _log.error("valkey_refused", answer=text)
        return BudgetUnavailableError(f"Valkey answers {text!r}")

    async def _keep_connected(self) -> None:
        while True:
            if self._connection is not None:
                await self._connection.gone
                self._connection = None
                _log.warning("valkey_lost")
            if await self._connect():
                _log.info("valkey_found")
            else:
                await asyncio.sleep(random.uniform(*_RETRY_S))  # noqa: S311 workers are to come one by one, no secret

    async def _connect(self) -> bool:
        """Bring the functions, and connect. Never raises for what a Valkey that is away, or just starting, does."""
        try:
            self._memory = await self._prepared()
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                self._connection = await self._admitted()
        except (RedisError, OSError, ConnectionGoneError):
            return False
        return True

    async def _prepared(self) -> str:
        """Bring the functions; return the memory's name."""
        async with Redis(
            unix_socket_path=self._socket,
            username=_USER,
            password=self._password,
            socket_timeout=_ANSWERS_WITHIN_S,
            socket_connect_timeout=_ANSWERS_WITHIN_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        ) as client:
            try:
                await client.function_load(_LIBRARY.read_text(), replace=True)
            except OutOfMemoryError:
                # Counting goes on where memory is short, by the functions that are there.
                _log.warning("valkey_is_full")
            name = secrets.token_hex(8)
            with suppress(OutOfMemoryError):
                return str(await client.set(_MEMORY, name, nx=True, get=True) or name)
            return str(await client.get(_MEMORY) or name)

    async def _admitted(self) -> LineConnection:
        """Connect as the edge. Raises ConnectionGoneError where Valkey does not let it in."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(LineConnection, self._socket)
        is_admitted = False
        try:
            line = await connection.send(packed(b"AUTH", _USER.encode(), self._password.encode()))
            is_admitted = line == _ADMITTED
        finally:
            if not is_admitted:
                connection.close()
        if not is_admitted:
            raise ConnectionGoneError
        return connection


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What stays the same of a command as long as its windows do, as it is sent."""

    begin: bytes
    request: bytes
    keys: bytes
    windows: bytes

    def asked(self, *, wanted: int, parts: int, request_id: str) -> bytes:
        """Return the command."""
        asked = request_id.encode()
        return b"%b%b%b%b%b" % (
            self.begin,
            bulk(self.request + asked),
            self.keys,
            bulk(asked, b"%d" % wanted, b"%d" % parts),
            self.windows,
        )


@lru_cache(maxsize=_MOST_QUESTIONS)
def _question(tenant_uid: UUID, windows: tuple[Window, ...]) -> _Question:
    words = []
    for window in windows:
        bounds = (window.limit, window.price, window.begin_ms, window.end_ms, window.next_end_ms)
        words += [b"%d" % number for number in bounds]
    keys = _keys(tenant_uid, windows)
    begin = (b"FCALL", b"take_calls", b"%d" % (len(keys) + 1))
    return _Question(
        begin=b"*%d\r\n%b" % (len(begin) + 1 + len(keys) + 3 + len(words), bulk(*begin)),
        request=_key(tenant_uid, b"request:"),
        keys=bulk(*keys),
        windows=bulk(*words),
    )


def _as_answered(window: Window, begin_ms: int, end_ms: int) -> Window:
    if (begin_ms, end_ms) == (window.begin_ms, window.end_ms):
        return window
    return replace(window, begin_ms=begin_ms, end_ms=end_ms)


def _keys(tenant_uid: UUID, windows: Sequence[Window]) -> list[bytes]:
    return [_key(tenant_uid, b"count:" + window.name.encode()) for window in windows]


def _key(tenant_uid: UUID, name: bytes) -> bytes:
    # The uid, since an id can be another tenant's one day. The braces keep all keys of a tenant on one node.
    return b"edge:{%b}:%b" % (str(tenant_uid).encode(), name)
