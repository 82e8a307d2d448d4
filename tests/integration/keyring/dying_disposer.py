"""A process that ends keys which are due, and kills itself, as `kill -9` would, at the point that it is told.

Run as a process of its own: SOCKET_DIR PORT DBNAME VAULT_DIR POINT. A point is `before:delete`, `amid:delete` (the
material is deleted, and nothing committed), `after:delete` (committed, and no rotation begun), `before:rotate`,
`amid:rotate` (a rotation is noted, and nothing committed), `after:rotate`, or `never`: then it ends when nothing is
left to do. Its clock is eight days ahead.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from control_plane.keyring import store
from control_plane.keyring.disposal import Disposal
from control_plane.keyring.rotations.named import all_rotations
from control_plane.keyring.rotations.plan import Means
from control_plane.keys.named import store as named_store
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.store import ObjectStore
from control_plane.operations.jobs import JobQueue
from control_plane.operations.service import OperationRunner
from control_plane.postgres.database import Database, PostgresSettings, SystemTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement

_AHEAD = timedelta(days=8)
_DEADLINE_S = 60.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingDisposal(Disposal):
    """Dies before or after what it does for a tenant."""

    point = "never"

    async def _delete(self, placement: Placement, now: datetime) -> None:  # type: ignore[explicit-override]  # here alone
        await self._watched("delete", super()._delete, placement, now)

    async def _rotate(self, placement: Placement, now: datetime) -> None:  # type: ignore[explicit-override]  # likewise
        await self._watched("rotate", super()._rotate, placement, now)

    async def _watched(self, step: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        if self.point == f"before:{step}":
            die()
        await work(*arguments)
        if self.point == f"after:{step}":
            die()


def _dying_after(own: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def run(*arguments: Any, **more: Any) -> Any:
        await own(*arguments, **more)
        die()

    return run


async def _no_edges(_: int) -> list[str]:
    return []


async def _is_left(database: Database) -> bool:
    row = await database.system().run(
        lambda tx: tx.fetch_one(
            """
            SELECT EXISTS (SELECT 1 FROM csm_system.operations WHERE state = 'RUNNING')
                OR EXISTS (SELECT 1 FROM csm_system.named_keys WHERE state = 'DESTROY_SCHEDULED') AS is_left
            """
        )
    )
    return row is not None and (row["is_left"] or bool(await database.system().run(store.tenants_with_doomed_keks)))


async def main() -> None:
    socket_dir, port, dbname, vault_dir, point = sys.argv[1:]
    settings = PostgresSettings(socket_dir=Path(socket_dir), port=int(port), dbname=dbname)
    if point == "amid:delete":
        named_store.delete_versions = _dying_after(named_store.delete_versions)  # type: ignore[assignment]  # to die
    if point == "amid:rotate":
        store.begin_rotation = _dying_after(store.begin_rotation)  # type: ignore[assignment]  # to die
    async with Database.open(settings) as database:
        vault = await SoftwareVault.open(Path(vault_dir))
        keys = TenantKeys(vault, database)
        means = Means(
            database=database,
            directory=Directory(database),
            keys=keys,
            # No storage key is rotated here.
            objects=ObjectStore(LocalBucket(Path(vault_dir) / "objects"), keys, database.canaries),
            vault=vault,
            platform_keys=PlatformKeys(vault, database),
            lagging_edges=_no_edges,
            touched=lambda _: None,
        )
        queue = JobQueue(database, settings)

        async def defer(operation_id: UUID, tx: SystemTransaction) -> None:
            await queue.defer(operation_id, within=tx)

        disposal = DyingDisposal(means, defer=defer, clock=lambda: datetime.now(UTC) + _AHEAD)
        disposal.point = point
        async with queue.open(), asyncio.timeout(_DEADLINE_S):
            work = asyncio.create_task(queue.work(OperationRunner(database, all_rotations(means))))
            while await _is_left(database):
                await disposal.look()
                await asyncio.sleep(0.1)
            work.cancel()


asyncio.run(main())
