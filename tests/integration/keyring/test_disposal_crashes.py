"""`kill -9` at each step of a key's end: whoever comes next ends it, once, and nobody else's keys go with it."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

from control_plane.keys import store as keys_store
from control_plane.keys.model import KekRef, MissingKeyError
from control_plane.operations.jobs import JobQueue
from control_plane.postgres.database import PostgresSettings
from tests.fixtures.keyring import Ring
from tests.integration.keyring.test_disposal import receipts

_DISPOSER: Final = Path(__file__).with_name("dying_disposer.py")
_POINTS: Final = ("before:delete", "amid:delete", "after:delete", "before:rotate", "amid:rotate", "after:rotate")


async def _run(ring: Ring, where: PostgresSettings, point: str, *, log: Path) -> int | None:
    vault = ring.vault._keks.parent
    arguments = [str(part) for part in (where.socket_dir, where.port, where.dbname, vault, point)]
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(_DISPOSER), *arguments, stdout=file, stderr=file
        )
        return await process.wait()


@pytest.mark.behaviour("S2.15", "S2.16")
@pytest.mark.parametrize("point", _POINTS)
@pytest.mark.timeout(120)
async def test_a_killed_disposal_is_completed_by_the_next_and_ends_each_key_once(
    point: str, ring: Ring, postgres_settings: PostgresSettings, tmp_path: Path
) -> None:
    log = tmp_path / "disposers.log"
    tenant, neighbour = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    for each in (tenant, neighbour):
        await ring.create(each, "stays", "ENCRYPTION")
    for key_id in ("first", "second"):
        await ring.create(tenant, key_id, "ENCRYPTION")
        await ring.schedule(tenant, key_id)
    kept = (await ring.cell.keys.named_key(tenant, "stays")).private
    backup = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))
    async with JobQueue(ring.cell.database, postgres_settings).open():
        died = await _run(ring, postgres_settings, point, log=log)
        came_next = await _run(ring, postgres_settings, "never", log=log)
    (receipt,) = await receipts(ring, tenant)
    said = [(each["key"], each["version"]) for each in json.loads(receipt.payload)["destroyed"]]

    assert (died, came_next) == (-signal.SIGKILL, 0), log.read_text()
    assert said == [("kek", 1), ("first", 1), ("second", 1)]
    assert {kek for kek in await ring.keks() if kek.tenant_uid == tenant.uid} == {
        KekRef(tenant_uid=tenant.uid, version=2)
    }
    for row in backup:
        with pytest.raises(MissingKeyError):
            await ring.vault.unwrap(row.kek, row.wrapped, aad=row.binding.aad())
    assert (await ring.other_process().named_key(tenant, "stays")).private == kept
    assert (await ring.other_process().named_key(neighbour, "stays")).version == 1
    assert await receipts(ring, neighbour) == []
    ends = [resource for resource, details in await ring.log(tenant) if details.get("versions")]
    assert ends == ["tenants/org_1/keys/first", "tenants/org_1/keys/second"]
