"""Real connections: opened when needed, never more than a limit, clean when they come back.

A pool serves many login roles. A connection that rests is closed to make room for another role's, oldest first, so that
10,000 tenants behind 50 login roles need no more connections than the limit says.
"""

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from control_plane.errors import UnavailableError

Connection = psycopg.AsyncConnection[DictRow]

# Ends everything that a session can keep beyond its transaction. It drops prepared statements behind psycopg's back, so
# psycopg must not make any.
_RESET: Final = "DISCARD ALL"
# A backend keeps what it learned about each tenant's tables, some 200 KB a tenant, until it ends.
_MOST_TENANTS_OF_A_CONNECTION: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """Where the database is, and how much of it this process may use."""

    socket_dir: Path
    """The directory of the server's unix socket."""
    port: int
    """The number in the socket's name."""
    dbname: str = "bulkhead"
    """The database of this cell."""
    system_role: str = "csm_control"
    """As whom this process reads and writes the registry."""
    tenant_pool_size: int = 8
    """Connections for tenants' transactions, all tenants together."""
    system_pool_size: int = 4
    """Connections for the platform's own roles, all together; apart, so that no tenant can use them up."""
    timeout: timedelta = timedelta(seconds=5)
    """How long a caller waits for a connection before it is told that the database is away."""


@dataclass(slots=True, kw_only=True)
class _Session:
    """A connection and what the pool knows about it. Owned by whoever leases it, by the pool in between."""

    login: str
    connection: Connection
    tenants: set[str] = field(default_factory=set)

    def is_alive(self) -> bool:
        """Look whether the server has hung up, without asking it: costs a system call, not a round trip.

        To a session at rest a server says nothing but farewell.
        """
        if self.connection.closed:
            return False
        poll = select.poll()  # unlike select() it knows descriptors above 1,023
        poll.register(self.connection.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def clean(self) -> bool:
        """End what is open and forget everything; False where that cannot be done."""
        if self.connection.closed or len(self.tenants) > _MOST_TENANTS_OF_A_CONNECTION:
            return False
        try:
            if self.connection.info.transaction_status != TransactionStatus.IDLE:
                await self.connection.execute("ROLLBACK")
            await self.connection.execute(_RESET)
        except psycopg.Error:
            return False
        return self.connection.info.transaction_status == TransactionStatus.IDLE


class Pool:
    """At most `limit` connections of any login roles, leased to one task at a time, first come, first served."""

    def __init__(self, settings: PostgresSettings, *, limit: int) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._limit = limit
        # A permit is the right to hold a connection, so permits never exceed real connections.
        self._permits = asyncio.Semaphore(limit)
        self._leased = 0
        self._resting: list[_Session] = []  # the longest at rest first
        self._is_closed = False

    @asynccontextmanager
    async def lease(self, login: str, *, tenant: str = "") -> AsyncIterator[Connection]:
        """Lend a clean connection of `login`; what it did for `tenant` leaves no trace.

        Raises:
            UnavailableError: when there is none within the time-out, or the server is away.
        """
        session = await self._obtain(login)
        session.tenants.add(tenant)
        is_clean = False
        try:
            try:
                yield session.connection
            except Exception:
                is_clean = await session.clean()
                raise
            else:
                is_clean = await session.clean()
        finally:
            # Not clean also after a cancellation: what a task was torn out of is closed, never mended.
            if is_clean and not self._is_closed:
                self._resting.append(session)
            else:
                await _close(session)
            self._leased -= 1
            self._permits.release()

    async def close(self) -> None:
        """Close what rests now, and what is leased when it comes back."""
        self._is_closed = True
        while self._resting:
            await _close(self._resting.pop())

    @property
    def size(self) -> int:
        """How many connections there are, at work or at rest."""
        return self._leased + len(self._resting)

    async def _obtain(self, login: str) -> _Session:
        if self._is_closed:
            message = "the pool is closed"
            raise RuntimeError(message)
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                await self._permits.acquire()
                self._leased += 1
                try:
                    return await self._wake(login) or await self._open(login)
                except BaseException:
                    self._leased -= 1
                    self._permits.release()
                    raise
        except TimeoutError:
            raise UnavailableError("no connection to the database came free in time") from None

    async def _wake(self, login: str) -> _Session | None:
        """Take the one that rested the shortest: it is the likeliest to be alive, and its caches are warm."""
        for session in reversed([session for session in self._resting if session.login == login]):
            self._resting.remove(session)
            if session.is_alive():
                return session
            await _close(session)
        return None

    async def _open(self, login: str) -> _Session:
        while self._resting and self.size > self._limit:
            await _close(self._resting.pop(0))
        try:
            connection = await psycopg.AsyncConnection.connect(
                host=str(self._settings.socket_dir),
                port=self._settings.port,
                dbname=self._settings.dbname,
                user=login,
                application_name="bulkhead",
                autocommit=True,
                # A prepared statement would outlive its transaction, and be planned anew for each tenant anyway.
                prepare_threshold=None,
                row_factory=dict_row,
            )
        except psycopg.OperationalError as error:
            raise UnavailableError("the database is away") from error
        return _Session(login=login, connection=connection)


async def _close(session: _Session) -> None:
    await session.connection.close()


def connection_arguments(settings: PostgresSettings) -> dict[str, Any]:
    """Say how to connect as the process's own role, for a library that opens its own connections."""
    return {
        "host": str(settings.socket_dir),
        "port": settings.port,
        "dbname": settings.dbname,
        "user": settings.system_role,
    }
