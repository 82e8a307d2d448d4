"""A worker of rotations that kills itself, as `kill -9` would, at the point that it is told.

Run as a process of its own: SOCKET_DIR PORT DBNAME VAULT_DIR OBJECTS_DIR TENANT POINT. A point is `before:STEP` or
`after:STEP`, `amid:destruction` (the old KEK is gone, and nobody has written it down), `amid:replacement` (an object is
being sealed anew), `amid:objects` (one was, and nobody has written it down), `amid:login` (a role has another password,
and the rotation has not ended), or `never`. It ends when no operation is running any more. Edges know all at once.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from control_plane.keyring.rotations.plan import Means
from control_plane.keyring.rotations.rotation import rotations
from control_plane.keys.model import KekRef
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.bucket import Rewriting
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.store import ObjectStore
from control_plane.operations.jobs import JobQueue
from control_plane.operations.model import Operation
from control_plane.operations.plan import Step
from control_plane.operations.service import OperationRunner
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import tenancy

_DEADLINE_S = 60.0
_CHANGE_LOGIN = tenancy.change_login


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingVault(SoftwareVault):
    """Destroys a KEK, and dies of it."""

    async def destroy_kek(self, kek: KekRef) -> None:  # type: ignore[explicit-override]  # for this process alone
        await super().destroy_kek(kek)
        die()


class DyingBucket(LocalBucket):
    """Replaces an object, and dies of it: when the new one is read, or when it is there."""

    def __init__(self, root: Path, *, point: str) -> None:
        super().__init__(root)
        self._point = point

    async def replace(self, key: str, rewritten: Rewriting) -> None:  # type: ignore[explicit-override]  # the same
        async def read(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
            async for part in rewritten(parts):
                yield part
            if self._point == "amid:replacement":
                die()

        await super().replace(key, read)
        die()


async def _change_login(database: Database, placement: Placement, login: tenancy.Login) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        await _CHANGE_LOGIN(database, placement, login)
    die()


def _step(step: Step, tenant: str, point: str) -> Step:
    async def run(operation: Operation) -> None:
        if operation.tenant_id == tenant and point == f"before:{step.name}":
            die()
        await step.run(operation)
        if operation.tenant_id == tenant and point == f"after:{step.name}":
            die()

    return Step(step.name, run)


async def _is_running(database: Database) -> bool:
    row = await database.system().run(
        lambda tx: tx.fetch_one("SELECT count(*) AS running FROM csm_system.operations WHERE state = 'RUNNING'")
    )
    return row is not None and row["running"] > 0


async def _no_edges(_: int) -> list[str]:
    return []


async def main() -> None:
    socket_dir, port, dbname, vault_dir, objects_dir, tenant, point = sys.argv[1:]
    settings = PostgresSettings(socket_dir=Path(socket_dir), port=int(port), dbname=dbname)
    async with Database.open(settings) as database:
        vault = await (DyingVault if point == "amid:destruction" else SoftwareVault).open(Path(vault_dir))
        keys = TenantKeys(vault, database)
        is_dying = point in {"amid:replacement", "amid:objects"}
        bucket = DyingBucket(Path(objects_dir), point=point) if is_dying else LocalBucket(Path(objects_dir))
        plans = rotations(
            Means(
                database=database,
                directory=Directory(database),
                keys=keys,
                objects=ObjectStore(bucket, keys, database.canaries),
                vault=vault,
                platform_keys=PlatformKeys(vault, database),
                lagging_edges=_no_edges,
                touched=lambda _: None,
            )
        )
        if point == "amid:login":
            tenancy.change_login = _change_login
        for plan in plans.values():
            plan.steps = [_step(step, tenant, point) for step in plan.steps]
        queue = JobQueue(database, settings)
        async with queue.open(), asyncio.timeout(_DEADLINE_S):
            work = asyncio.create_task(queue.work(OperationRunner(database, plans)))
            while await _is_running(database):  # noqa: ASYNC110 another process may end the operation
                await asyncio.sleep(0.1)
            work.cancel()


asyncio.run(main())
