"""Real connections: opened when needed, never more than a limit, clean when they come back.

A pool serves many login roles. A connection that rests is closed to make room for another role's, oldest first, so that
10,000 tenants behind 50 login roles need no more connections than the limit says, and tenants with a login role of
their own have connections only while they use them.
"""

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from control_plane.errors import UnavailableError
from control_plane.postgres.admission import Admission, OverloadedError
from control_plane.postgres.placement import ConnectionPooling, Placement

Connection = psycopg.AsyncConnection[DictRow]

# Ends everything that a session can keep beyond its transaction. It drops prepared statements behind psycopg's back, so
# psycopg must not make any.
_RESET: Final = "DISCARD ALL"
# What it has become is asked after every so many tenants: the question costs a round trip, and walks what it counts.
_WEIGHED_EVERY: Final = 10
_MEMORY: Final = "SELECT csm_session.memory_bytes() AS bytes"
# A connection of one tenant alone is of use to nobody else.
_STRICT_RESTS: Final = timedelta(seconds=30)
_RESTS: Final = timedelta(minutes=5)
_SWEPT_EVERY: Final = timedelta(seconds=1)


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
    tenants_per_connection: int = 100
    """A connection that has served more is closed: a backend keeps what it learned about each one's tables."""
    memory_per_connection: int = 64 << 20
    """A connection whose backend has grown to more bytes is closed."""
    canary_key: bytes = field(default=b"", repr=False)
    """The cell's key of `control_plane.canary`."""


class Passwords(Protocol):
    """Knows with what a strict tenant's own role logs in."""

    async def __call__(self, placement: Placement, *, anew: bool = False) -> str:
        """MUST NOT answer from memory where it is asked anew. MAY raise UnavailableError."""


async def no_passwords(placement: Placement, *, anew: bool = False) -> str:
    """Know none, where there are no strict tenants."""
    raise UnavailableError(f"nobody knows {'anew' if anew else 'yet'} with what {placement.role} logs in")


@dataclass(slots=True, kw_only=True)
class _Session:
    """A connection and what the pool knows about it. Owned by whoever leases it, by the pool in between."""

    login: str
    connection: Connection
    rests: timedelta
    tenants: set[str] = field(default_factory=set)
    weighed_at: int = 0
    rested_at: float = 0.0

    def is_alive(self) -> bool:
        """Look whether the server has hung up, without asking it: costs a system call, not a round trip.

        To a session at rest a server says nothing but farewell.
        """
        if self.connection.closed:
            return False
        poll = select.poll()  # unlike select() it knows descriptors above 1,023
        poll.register(self.connection.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def clean(self, settings: PostgresSettings) -> bool:
        """End what is open and forget everything; False where that cannot be done, or the session has had its time."""
        if self.connection.closed or len(self.tenants) > settings.tenants_per_connection:
            return False
        try:
            if self.connection.info.transaction_status != TransactionStatus.IDLE:
                await self.connection.execute("ROLLBACK")
            await self.connection.execute(_RESET)
            if await self._weight() > settings.memory_per_connection:
                return False
        except psycopg.Error:
            return False
        return self.connection.info.transaction_status == TransactionStatus.IDLE

    async def _weight(self) -> int:
        """Say how many bytes its backend has, where it is time to ask; else 0."""
        if len(self.tenants) < self.weighed_at + _WEIGHED_EVERY:
            return 0
        self.weighed_at = len(self.tenants)
        cursor = await self.connection.execute(_MEMORY)
        row = await cursor.fetchone()
        return int(row["bytes"]) if row else 0


class Pool:
    """At most `limit` connections of any login roles, leased to one task at a time, by turns: see `admission`."""

    def __init__(
        self, settings: PostgresSettings, *, limit: int, passwords: Passwords = no_passwords, is_weighed: bool = False
    ) -> None:
        """Open nothing yet. Sessions that are weighed need the rights of `csm_login`."""
        self._settings = settings
        self._limit = limit
        self._passwords = passwords
        self._is_weighed = is_weighed
        # A permit is the right to hold a connection, so permits never exceed real connections.
        self._admission = Admission(limit)
        self._leased = 0
        self._resting: list[_Session] = []  # the longest at rest first
        self._is_closed = False

    @asynccontextmanager
    async def lease(self, login: str, placement: Placement | None = None) -> AsyncIterator[Connection]:
        """Lend a clean connection of `login`; what it did for the tenant leaves no trace.

        A tenant's own login waits its tenant's turn, a role of the platform its own.

        Raises:
            UnavailableError: when there is none within the time-out, or the server is away.
        """
        party, pooling = login, ConnectionPooling(min_connections=0, max_connections=self._limit)
        if placement is not None and placement.login == login:
            party, pooling = placement.schema, placement.pooling
        session = await self._obtain(login, placement, party=party, pooling=pooling)
        if placement is not None:
            session.tenants.add(placement.schema)
        is_clean = False
        try:
            try:
                yield session.connection
            except Exception:
                is_clean = await session.clean(self._settings)
                raise
            else:
                is_clean = await session.clean(self._settings)
        finally:
            # Not clean also after a cancellation: what a task was torn out of is closed, never mended.
            if is_clean and not self._is_closed:
                session.rested_at = asyncio.get_running_loop().time()
                self._resting.append(session)
            else:
                await _close(session)
            self._leased -= 1
            self._admission.leave(party)

    async def sweep(self) -> None:
        """Close what has rested for too long, until cancelled."""
        while True:
            await asyncio.sleep(_SWEPT_EVERY.total_seconds())
            self._admission.forget_idle()
            now = asyncio.get_running_loop().time()
            for session in [one for one in self._resting if now - one.rested_at > one.rests.total_seconds()]:
                # Somebody may have taken it while another one was closed.
                if session in self._resting:
                    self._resting.remove(session)
                    await _close(session)

    async def close(self) -> None:
        """Close what rests now, and what is leased when it comes back."""
        self._is_closed = True
        while self._resting:
            await _close(self._resting.pop())

    @property
    def size(self) -> int:
        """How many connections there are, at work or at rest."""
        return self._leased + len(self._resting)

    async def _obtain(
        self, login: str, placement: Placement | None, *, party: str, pooling: ConnectionPooling
    ) -> _Session:
        if self._is_closed:
            message = "the pool is closed"
            raise RuntimeError(message)
        is_admitted = False
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                await self._admission.enter(party, pooling)
                is_admitted = True
                self._leased += 1
                try:
                    return await self._wake(login) or await self._open(login, placement)
                except BaseException:
                    self._leased -= 1
                    self._admission.leave(party)
                    raise
        except OverloadedError:
            raise UnavailableError("too many calls wait for the database", reason="DATABASE_BUSY") from None
        except TimeoutError:
            if is_admitted:
                raise UnavailableError("the database does not take connections") from None
            raise UnavailableError("no connection to the database came free in time", reason="DATABASE_BUSY") from None

    async def _wake(self, login: str) -> _Session | None:
        """Take the one that rested the shortest: it is the likeliest to be alive, and its caches are warm."""
        for session in reversed([session for session in self._resting if session.login == login]):
            self._resting.remove(session)
            if session.is_alive():
                return session
            await _close(session)
        return None

    async def _open(self, login: str, placement: Placement | None) -> _Session:
        while self._resting and self.size > self._limit:
            await _close(self._resting.pop(0))
        strict = placement if placement is not None and placement.is_strict and placement.login == login else None
        try:
            connection = await self._connect(login, strict)
        except psycopg.OperationalError as error:
            raise UnavailableError("the database is away") from error
        weighed_at = 0 if self._is_weighed else self._settings.tenants_per_connection
        return _Session(
            login=login, connection=connection, rests=_STRICT_RESTS if strict else _RESTS, weighed_at=weighed_at
        )

    async def _connect(self, login: str, strict: Placement | None) -> Connection:
        if strict is None:
            return await _connect(self._settings, login, password=None)
        try:
            return await _connect(self._settings, login, password=await self._passwords(strict))
        except psycopg.OperationalError as error:
            if error.pgconn is None or not error.pgconn.used_password:
                raise
        # The key that it comes from may have been rotated since it was opened here.
        return await _connect(self._settings, login, password=await self._passwords(strict, anew=True))


async def _connect(settings: PostgresSettings, login: str, *, password: str | None) -> Connection:
    return await psycopg.AsyncConnection.connect(
        host=str(settings.socket_dir),
        port=settings.port,
        dbname=settings.dbname,
        user=login,
        password=password,
        application_name="bulkhead",
        autocommit=True,
        # A prepared statement would outlive its transaction, and be planned anew for each tenant anyway.
        prepare_threshold=None,
        row_factory=dict_row,
    )


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
