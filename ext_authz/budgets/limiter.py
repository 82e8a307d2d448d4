"""How many requests of this minute a tenant has left: one function call in Valkey for each request.

The count is Valkey's alone, by its own clock, so that any number of workers and agents admit exactly the limit. Without
Valkey nothing is admitted: a window that nobody counts has no limit.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from control_plane import cell_key
from ext_authz.budgets.connection import ConnectionGoneError, LineConnection, packed

_LIBRARY: Final = Path(__file__).with_name("minute.lua")
_ANSWERS_WITHIN_S: Final = 0.1
_RETRY_S: Final = (0.05, 0.1)
_FUNCTION_UNKNOWN: Final = b"-ERR Function not found"
_USER: Final = "edge"
_ADMITTED: Final = b"+OK"

_log: Final = structlog.get_logger("budgets")


class LimiterUnavailableError(Exception):
    """Nobody can tell what is left. At most one request's cost was taken in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of it."""

    allowed: bool
    remaining: int
    """Of the limit, in this minute."""
    reset_s: float
    """For how long this minute goes on."""


class MinuteLimiter:
    """Counts what each tenant takes in a minute. While Valkey is away it says so at once, and looks out for it."""

    def __init__(self, valkey_socket: Path, key: bytes) -> None:
        """Count in the Valkey behind `valkey_socket`, as the edge's user, whose password `key` gives; see `open`."""
        self._socket = str(valkey_socket)
        self._password = cell_key.password(key, _USER)
        self._connection: LineConnection | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, valkey_socket: Path, key: bytes) -> AsyncIterator[Self]:
        """Open the limiter, whether or not Valkey is there yet."""
        limiter = cls(valkey_socket, key)
        await limiter._connect()
        keeping = asyncio.create_task(limiter._keep_connected())
        try:
            yield limiter
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            if limiter._connection is not None:
                limiter._connection.close()

    async def take(self, tenant_uid: UUID, *, limit: int, cost: int, request_id: str = "") -> Taken:
        """Take `cost` out of the tenant's `limit` for this minute, or nothing where less than that remains.

        A request that has taken it, told by an id that nobody but Envoy can choose, does not take it again within a
        second: Envoy asks another worker when one does not answer in time.

        Raises:
            LimiterUnavailableError: when it cannot be told, within 150 ms; at once where Valkey is known to be away.
        """
        if self._connection is None:
            raise LimiterUnavailableError("Valkey is away")
        try:
            line = await self._connection.send(_take_minute(tenant_uid, limit, cost, request_id))
        except ConnectionGoneError:
            raise LimiterUnavailableError("Valkey does not answer") from None
        if not line.startswith(b"+"):
            raise self._failure(line)
        allowed, remaining, reset_ms = line[1:].split(b" ")
        return Taken(allowed=allowed == b"1", remaining=int(remaining), reset_s=int(reset_ms) / 1000)

    def _failure(self, line: bytes) -> LimiterUnavailableError:
        if line.startswith(_FUNCTION_UNKNOWN) and self._connection is not None:
            # Somebody has emptied it. The function is brought along with the next connection.
            self._connection.close()
        text = line.decode(errors="replace")
        _log.error("valkey_refused", answer=text)
        return LimiterUnavailableError(f"Valkey answers {text!r}")

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
        """Bring the function, and connect. Never raises for what a Valkey that is away, or just starting, does."""
        try:
            await self._bring_function()
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                self._connection = await self._admitted()
        except (RedisError, OSError, ConnectionGoneError):
            return False
        return True

    async def _bring_function(self) -> None:
        async with Redis(
            unix_socket_path=self._socket,
            username=_USER,
            password=self._password,
            socket_timeout=_ANSWERS_WITHIN_S,
            socket_connect_timeout=_ANSWERS_WITHIN_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            try:
                await client.function_load(_LIBRARY.read_text(), replace=True)
            except OutOfMemoryError:
                # Counting goes on where memory is short, by the function that is there.
                _log.warning("valkey_is_full")

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


def _take_minute(tenant_uid: UUID, limit: int, cost: int, request_id: str) -> bytes:
    # The uid, since an id can be another tenant's one day. The braces keep all keys of a tenant on one node.
    uid, asked = str(tenant_uid).encode(), request_id.encode()
    minute, request = b"edge:{%b}:minute" % uid, b"edge:{%b}:request:%b" % (uid, asked)
    return packed(b"FCALL", b"take_minute", b"2", minute, request, b"%d" % limit, b"%d" % cost, asked)
