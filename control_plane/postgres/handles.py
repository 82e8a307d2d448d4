"""How code reaches rows: a handle bound to a tenant, or to the registry, runs a use case in one transaction.

A tenant's transaction begins with a pipeline that costs no round trip of its own: BEGIN, the search path, the tenant,
whether that is sealed, and the role last, since from there on nothing may be changed any more. All of it is LOCAL:
COMMIT and ROLLBACK undo it.
A strict tenant's session has logged in as the role, and there is no other that it could go back to.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final, TypeVar

import psycopg
from psycopg import errors, sql

from control_plane.errors import ConflictError, TenantSealedError, UnavailableError
from control_plane.postgres.effects import BeforeCommit
from control_plane.postgres.placement import Placement
from control_plane.postgres.pools import Connection, Pool
from control_plane.postgres.transactions import SystemTransaction, TenantTransaction
from control_plane.postgres.violations import is_worth_a_retry
from control_plane.postgres.watch import Watch

# What the database answers where it does not admit a transaction.
_SEALED: Final = "BH002"

T = TypeVar("T")
Tx = TypeVar("Tx", TenantTransaction, SystemTransaction)


class Isolation(Enum):
    """How far a transaction is kept apart from those at the same time."""

    READ_COMMITTED = "READ COMMITTED"
    """For single statements and for hot rows, where a lock on the row does what is needed."""
    SERIALIZABLE = "SERIALIZABLE"
    """As if one after the other; the work is repeated when that fails. The rule for a tenant's data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often work is repeated that lost against other transactions, and how long it pauses before."""

    attempts: int = 5
    """Under contention more attempts only add load."""
    first_pause_s: float = 0.02
    """At most; doubled each time."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
    """Pauses differ, or those who met once meet again."""

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each further attempt."""
        for attempt in range(self.attempts - 1):
            yield self.first_pause_s * 2**attempt * self.random()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """How a transaction begins: which login role connects, and what it says first."""

    login: str
    statements: tuple[bytes, ...]
    placement: Placement | None = None
    """Whose rows it reaches, where it reaches a tenant's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Runs work in transactions that begin in one way. What the handles have in common."""

    pool: Pool
    entrance: Entrance
    before_commit: BeforeCommit | None
    retries: Retries

    async def run(
        self,
        begin: Callable[[Connection, psycopg.AsyncPipeline], Tx],
        work: Callable[[Tx], Awaitable[T]],
    ) -> T:
        """Run `work` in a transaction, again where another one won, and commit it."""
        pauses = self.retries.pauses()
        while True:
            try:
                with unavailability_told():
                    return await self._attempt(begin, work)
            except psycopg.Error as error:
                if error.sqlstate == _SEALED and self.entrance.placement is not None:
                    raise TenantSealedError(f"tenants/{self.entrance.placement.tenant_id}") from error
                if not is_worth_a_retry(error):
                    raise
                pause = next(pauses, None)
                if pause is None:
                    raise ConflictError("concurrent changes won each time") from error
            await self.retries.sleep(pause)

    async def _attempt(
        self,
        begin: Callable[[Connection, psycopg.AsyncPipeline], Tx],
        work: Callable[[Tx], Awaitable[T]],
    ) -> T:
        async with self.pool.lease(self.entrance.login, self.entrance.placement) as connection:
            async with connection.pipeline() as pipeline:
                transaction = begin(connection, pipeline)
                try:
                    for statement in self.entrance.statements:
                        await connection.execute(statement)
                    result = await work(transaction)
                    transaction.check_sound()
                    await transaction.check_context()
                    if self.before_commit is not None and transaction.effects is not None:
                        await self.before_commit(transaction, transaction.effects)
                    transaction.check_sound()
                finally:
                    transaction.end()
                commit = await connection.execute("COMMIT")
            # The end of the pipeline has waited for the answer. PostgreSQL answers ROLLBACK after a failed statement.
            if commit.statusmessage != "COMMIT":
                raise errors.InFailedSqlTransaction("nothing was committed: a statement had failed before")
            return result


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantHandle:
    """Runs use cases in transactions of one tenant. Cannot be made without one."""

    placement: Placement
    # Not for others: it could reach other tenants' connections.
    _runner: Runner = field(repr=False)
    # Looks at every row; none for a role that cannot read markers.
    _watch: Watch | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no tenant also where nobody checks types."""
        _check_placement(self.placement)

    async def run(self, work: Callable[[TenantTransaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction and commit it; whatever it raises rolls it back and comes out.

        `work` is called again when its transaction lost against another, so it has no effects of its own.

        Raises:
            ConflictError: it lost each time; nothing was done.
            UnavailableError: the database is away. When it went between COMMIT and its answer, the work may be done.
            BreachError: another tenant's marker was among the rows; nothing was done.
            TenantSealedError: the tenant is sealed; nothing was done.
            psycopg.IntegrityError: a constraint refused; see `violations.domain_error`.
        """

        def begin(connection: Connection, pipeline: psycopg.AsyncPipeline) -> TenantTransaction:
            return TenantTransaction(connection, pipeline, placement=self.placement, watch=self._watch)

        return await self._runner.run(begin, work)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemHandle:
    """Runs use cases in transactions of the registry, at READ COMMITTED: its rows are locked one by one."""

    _runner: Runner = field(repr=False)

    async def run(self, work: Callable[[SystemTransaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction and commit it. Promises and errors are those of `TenantHandle.run`."""
        return await self._runner.run(SystemTransaction, work)


@lru_cache(maxsize=4096)
def tenant_entrance(placement: Placement, isolation: Isolation) -> Entrance:
    """Enter as the tenant's own role. Raises TypeError without a tenant, before anything is sent."""
    _check_placement(placement)
    level = Isolation.SERIALIZABLE if placement.pooling.is_serializable else isolation
    admit = f"SELECT csm_session.admit({placement.number})".encode()
    statements = (*_begin(placement, level), admit)
    if not placement.is_strict:
        statements += (sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(placement.role)).as_bytes(None),)
    return Entrance(login=placement.login, placement=placement, statements=statements)


def sealer_entrance(placement: Placement) -> Entrance:
    """Enter one tenant's schema as the sealer, which may read the audit log there and write its seals."""
    _check_placement(placement)
    statements = _begin(placement, Isolation.READ_COMMITTED)
    return Entrance(login="csm_sealer", placement=placement, statements=statements)


def system_entrance(role: str) -> Entrance:
    """Enter the registry as one of the platform's roles; each has its search path from the database."""
    return Entrance(login=role, statements=(b"BEGIN ISOLATION LEVEL READ COMMITTED",))


def snapshot_entrance(role: str) -> Entrance:
    """Enter the registry to read it as it is at one moment, however many queries that takes."""
    return Entrance(login=role, statements=(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",))


@contextmanager
def unavailability_told() -> Iterator[None]:
    """Turn the loss of the database, and its time-outs, into UnavailableError; leave what a retry may mend."""
    try:
        yield
    except (psycopg.OperationalError, errors.IdleInTransactionSessionTimeout) as error:
        # An aborted pipeline is no loss of the database, but the trace of an earlier error that somebody swallowed.
        if is_worth_a_retry(error) or isinstance(error, errors.PipelineAborted):
            raise
        is_lock = isinstance(error, errors.LockNotAvailable)
        raise UnavailableError("a lock did not come free in time" if is_lock else "the database is away") from error


def _begin(placement: Placement, isolation: Isolation) -> tuple[bytes, ...]:
    return (
        f"BEGIN ISOLATION LEVEL {isolation.value}".encode(),
        sql.SQL("SET LOCAL search_path = pg_catalog, {}, pg_temp").format(sql.Identifier(placement.schema)).as_bytes(),
        sql.SQL("SET LOCAL app.tenant_id = {}").format(sql.Literal(str(placement.uid))).as_bytes(),
    )


def _check_placement(placement: object) -> None:
    if not isinstance(placement, Placement):
        message = f"a tenant's placement is needed, not {placement!r}"
        raise TypeError(message)
