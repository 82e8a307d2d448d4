"""Every tenant is verified each day, a new one at once, by one replica; whoever did not pass comes again soon."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from psycopg import sql

from control_plane.errors import UnavailableError
from control_plane.isolation.schedule import Schedule
from control_plane.isolation.service import Verifier
from tests.fixtures.canaries import RawConnection, rows_of
from tests.integration.isolation.conftest import Tower, begin_tenant


async def verified(superuser: RawConnection) -> dict[str, int]:
    rows = await rows_of(
        superuser,
        sql.SQL(
            "SELECT t.id, count(a.id) AS count FROM csm_system.tenants AS t"
            " LEFT JOIN csm_system.attestations AS a ON a.tenant_uid = t.uid GROUP BY t.id"
        ),
    )
    return {row["id"]: row["count"] for row in rows}


async def waits(superuser: RawConnection) -> list[timedelta]:
    rows = await rows_of(superuser, sql.SQL("SELECT due_time - now() AS wait FROM csm_system.verifications"))
    return [row["wait"] for row in rows]


@pytest.mark.behaviour("S1.18")
async def test_each_tenant_is_verified_once_a_day(tower: Tower, superuser: RawConnection) -> None:
    for name in ("org_1", "org_2"):
        await tower.cell.tenant(name)
    await begin_tenant(superuser, "org_3")

    assert [await tower.schedule.verify_next() for _ in range(3)] == [True, True, False]
    assert await verified(superuser) == {"org_1": 1, "org_2": 1, "org_3": 0}
    assert all(timedelta(hours=22) < wait < timedelta(hours=24) for wait in await waits(superuser))

    await superuser.execute("UPDATE csm_system.verifications SET due_time = due_time - interval '1 day'")

    assert [await tower.schedule.verify_next() for _ in range(3)] == [True, True, False]
    assert await verified(superuser) == {"org_1": 2, "org_2": 2, "org_3": 0}


async def test_replicas_share_the_work(tower: Tower, superuser: RawConnection) -> None:
    for number in range(6):
        await tower.cell.tenant(f"org_{number}")
    await tower.schedule.verify_next()
    cell = tower.cell
    other = Schedule(cell.database, cell.directory, verifier=tower.verifier, keys=tower.keys, random=lambda: 0.5)
    while any(await asyncio.gather(tower.schedule.verify_next(), other.verify_next())):
        pass

    assert await verified(superuser) == {f"org_{number}": 1 for number in range(6)}


async def test_a_tenant_that_did_not_pass_comes_again_soon(tower: Tower, superuser: RawConnection) -> None:
    await tower.cell.tenant()
    await tower.certificates.stop(None)
    await tower.schedule.verify_next()
    (wait,) = await waits(superuser)

    assert timedelta(minutes=9) < wait <= timedelta(minutes=10)


async def test_whoever_dies_at_work_is_replaced(
    tower: Tower, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tower.cell.tenant()

    async def die(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(Verifier, "verify_tenant", die)
        with pytest.raises(asyncio.CancelledError):
            await tower.schedule.verify_next()
    assert not await tower.schedule.verify_next()
    await superuser.execute("UPDATE csm_system.verifications SET due_time = due_time - interval '10 minutes'")

    assert await tower.schedule.verify_next()
    assert await verified(superuser) == {"org_1": 1}


async def test_a_failure_of_one_look_does_not_end_the_schedule(
    tower: Tower, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tower.cell.tenant()
    monkeypatch.setattr("control_plane.isolation.schedule._EVERY", timedelta(milliseconds=10))
    real, asked = Verifier.verify_tenant, []

    async def fail_once(self: Verifier, *args: Any) -> Any:
        asked.append(args)
        if len(asked) == 1:
            await superuser.execute("UPDATE csm_system.verifications SET due_time = now()")
            raise UnavailableError("away")
        return await real(self, *args)

    monkeypatch.setattr(Verifier, "verify_tenant", fail_once)
    running = asyncio.create_task(tower.schedule.run())
    async with asyncio.timeout(10):
        while await verified(superuser) != {"org_1": 1}:  # noqa: ASYNC110 it tells nobody when
            await asyncio.sleep(0.01)
    running.cancel()

    assert len(asked) == 2
