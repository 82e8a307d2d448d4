"""`kill -9` before and after each step of a purge: the next worker ends it, and nobody was let in meanwhile."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import TenantSealedError
from control_plane.postgres.database import Isolation, PostgresSettings, TenantTransaction
from control_plane.purges.plan import STEPS
from control_plane.tenants.model import State
from tests.fixtures.keyring import Ring
from tests.fixtures.purges import LOG, PROOFS, Purges, delete, is_role, tables_of, tables_with_rows_of
from tests.fixtures.stored import fill
from tests.integration.ext_authz.limiter.valkey_servers import Server

_PURGER = Path(__file__).with_name("dying_purger.py")
_POINTS = [f"{when}:{step}" for step in STEPS for when in ("before", "after")]


async def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(subprocess.run, command, check=False, timeout=60, capture_output=True, text=True)


async def _nothing(_: TenantTransaction) -> None:
    """Not even that."""


@pytest.mark.behaviour("S4.12")
@pytest.mark.timeout(180)
async def test_a_purge_that_is_killed_is_ended_by_the_next_and_the_tenant_stays_shut(
    ring: Ring, purges: Purges, superuser: Any, valkey: Server, postgres_settings: PostgresSettings, tmp_path: Path
) -> None:
    tenant = await ring.cell.tenant("org_1", isolation="STRICT")
    await fill(ring.objects.of(tenant))
    await purges.means.cache_users.make(tenant)
    await delete(ring.cell.database, tenant)
    where = postgres_settings
    vault, key = ring.vault._keks.parent, valkey.valkey.secrets_dir / "valkey.key"
    arguments = [where.socket_dir, where.port, where.dbname, vault, tmp_path / "objects", valkey.socket, key]
    command = [sys.executable, str(_PURGER), *map(str, arguments)]
    for point in _POINTS:
        done = await _run([*command, point])
        assert done.returncode == -signal.SIGKILL, (point, done.stdout[-2000:], done.stderr[-2000:])
        with pytest.raises(TenantSealedError):
            await ring.other_process().encrypt(tenant, b"", object_name="a")
        if point != "after:verification":
            assert (await purges.tenant(tenant)).state is State.PURGING
        if await is_role(superuser, tenant) and point == _POINTS[0]:
            with pytest.raises(TenantSealedError):
                await ring.cell.database.tenant(tenant, isolation=Isolation.READ_COMMITTED).run(_nothing)
    done = await _run([*command, "never"])
    assert done.returncode == 0, done.stderr[-2000:]

    assert (await purges.tenant(tenant)).state is State.PURGED
    assert await tables_with_rows_of(superuser, tenant) <= PROOFS
    assert await tables_of(superuser, tenant) == LOG
    assert not await is_role(superuser, tenant)
    assert await ring.keks() == []
    assert valkey.tenants_known() == set()
