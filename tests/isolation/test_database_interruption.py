"""A transaction that ends at any point of its life, in any way, leaves a session that is nobody's, and no half work."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql

from control_plane.errors import UnavailableError
from control_plane.postgres.database import Database, Isolation, PostgresSettings, TenantTransaction
from control_plane.postgres.placement import Placement
from control_plane.postgres.pools import Pool
from tests.fixtures.canaries import RawConnection, rows_of
from tests.fixtures.postgres import MakeTenant, login_password

SESSION: Final = """
SELECT current_user, session_user, current_setting('search_path') AS path,
  coalesce(current_setting('app.tenant_id', true), '') AS tenant, current_setting('transaction_read_only') AS read_only
"""
ADD: Final = "INSERT INTO users (id, subject, role, state) VALUES (uuidv7(), %(subject)s, 'auditor', 'ACTIVE')"
Wait = Callable[..., Awaitable[Any]]


class InterruptedHereError(Exception):
    """Raised where a test wants the work to fail."""


@dataclass(slots=True, kw_only=True)
class Interruption:
    """Happens at one exchange with the server, of the sessions of one login: the one that has this number."""

    how: str
    login: str
    superuser: RawConnection
    point: int
    deadline: asyncio.Timeout | None = None
    seen: int = 0

    @property
    def has_happened(self) -> bool:
        return self.seen > self.point

    def around(self, real: Wait) -> Wait:
        async def wait(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if connection.info.user != self.login:
                return await real(connection, *args, **kwargs)
            self.seen += 1
            if self.seen - 1 != self.point:
                return await real(connection, *args, **kwargs)
            await self._begin(connection.info.backend_pid)
            answer = await real(connection, *args, **kwargs)
            if self.how == "raise after":
                raise InterruptedHereError
            return answer

        return wait

    async def _begin(self, pid: int) -> None:
        task = asyncio.current_task()
        if self.how == "raise before":
            raise InterruptedHereError
        if self.how == "cancel" and task is not None:
            task.cancel()
        if self.how == "time out" and self.deadline is not None:
            self.deadline.reschedule(asyncio.get_running_loop().time())
            await asyncio.sleep(0)
        if self.how == "kill":
            await self.superuser.execute("SELECT pg_terminate_backend(%s)", (pid,))
            await _is_gone(self.superuser, pid)


async def _is_gone(superuser: RawConnection, pid: int) -> None:
    running = sql.SQL("SELECT FROM pg_stat_activity WHERE pid = {}").format(pid)
    while await rows_of(superuser, running):  # noqa: ASYNC110 it tells nobody when
        await asyncio.sleep(0.001)


async def add_two(tx: TenantTransaction) -> None:
    await tx.execute(ADD, {"subject": "one"})
    await tx.execute(ADD, {"subject": "two"})


async def session_of(pool: Pool, placement: Placement) -> dict[str, Any]:
    async with pool.lease(placement.login, placement) as connection:
        (row,) = await rows_of(connection, sql.SQL(SESSION))
        return row


async def subjects(superuser: RawConnection, placement: Placement) -> list[str]:
    users = sql.Identifier(placement.schema, "users")
    found = await rows_of(superuser, sql.SQL("SELECT subject FROM {} ORDER BY subject").format(users))
    await superuser.execute(sql.SQL("DELETE FROM {}").format(users))
    return [row["subject"] for row in found]


@pytest.mark.behaviour("S1.3", "T-D2")
@pytest.mark.parametrize("isolation", ["POOLED", "STRICT"])
@pytest.mark.parametrize("how", ["raise before", "raise after", "cancel", "time out", "kill"])
async def test_an_interruption_at_any_point_leaves_a_session_that_is_nobodys(
    how: str,
    isolation: str,
    postgres_settings: PostgresSettings,
    make_tenant: MakeTenant,
    superuser: RawConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placement = await make_tenant(isolation=isolation)
    real: Wait = psycopg.AsyncConnection.wait
    is_done = False
    for point in itertools.count():
        async with Database.open(postgres_settings, passwords=login_password) as database:
            new = await session_of(database._tenants, placement)
            handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
            interruption = Interruption(how=how, login=placement.login, superuser=superuser, point=point)
            is_done = False
            with monkeypatch.context() as patch:
                patch.setattr(psycopg.AsyncConnection, "wait", interruption.around(real))
                with contextlib.suppress(
                    InterruptedHereError, UnavailableError, asyncio.CancelledError, TimeoutError, psycopg.Error
                ):
                    async with asyncio.timeout(60) as interruption.deadline:
                        # A task of its own is cancelled, and not the test's.
                        work = handle.run(add_two)
                        await (asyncio.create_task(work) if how == "cancel" else work)
                        is_done = True

            assert await session_of(database._tenants, placement) == new, point
            assert new["tenant"] == ""
            assert await subjects(superuser, placement) in ([["one", "two"]] if is_done else [[], ["one", "two"]]), (
                point
            )
        if not interruption.has_happened:
            break

    assert is_done
    # BEGIN with what follows it, both statements, COMMIT, and the putting in order of the session.
    assert point > 4
