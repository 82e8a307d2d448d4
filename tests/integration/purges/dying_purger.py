"""A worker that purges and kills itself, as `kill -9` would, at the point that it is told.

Run as a process of its own: SOCKET_DIR PORT DBNAME VAULT_DIR OBJECTS VALKEY_SOCKET VALKEY_KEY POINT. A point is
`before:STEP`, `after:STEP` (done, and not noted), or `never`: then it ends when no purge is running any more. Its clock
is far enough ahead for all that are deleted.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from control_plane import cell_key
from control_plane.cache.users import CacheUsers
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.store import ObjectStore
from control_plane.operations.model import Operation
from control_plane.operations.plan import Step
from control_plane.operations.service import AttemptFailedError, OperationRunner
from control_plane.postgres.database import Database, PostgresSettings, SystemTransaction
from control_plane.purges.plan import TenantPurge
from control_plane.purges.schedule import PurgeSchedule
from control_plane.tenants.model import DEFAULT_WAITING
from tests.fixtures.purges import means

_AHEAD = DEFAULT_WAITING + timedelta(days=1)
_DEADLINE_S = 60.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _step(step: Step, point: str) -> Step:
    async def run(operation: Operation) -> None:
        if point == f"before:{step.name}":
            die()
        await step.run(operation)
        if point == f"after:{step.name}":
            die()

    return Step(step.name, run)


async def _looked_for(_: UUID, _tx: SystemTransaction) -> None:
    """Leave it to whoever looks for what runs: a queue would wait until the one before is known to be dead."""


async def _running(tx: SystemTransaction) -> list[UUID]:
    rows = await tx.fetch_all("SELECT id FROM csm_system.operations WHERE state = 'RUNNING'")
    return [row["id"] for row in rows]


async def main() -> None:
    socket_dir, port, dbname, vault_dir, objects, valkey, valkey_key, point = sys.argv[1:]
    settings = PostgresSettings(socket_dir=Path(socket_dir), port=int(port), dbname=dbname)
    secret = cell_key.load_or_create(Path(valkey_key))
    async with Database.open(settings) as database, CacheUsers.open(Path(valkey), secret) as cache_users:
        vault = await SoftwareVault.open(Path(vault_dir))
        keys = TenantKeys(vault, database)
        bucket = ObjectStore(LocalBucket(Path(objects)), keys, database.canaries)
        plan = TenantPurge(means(database, keys, vault, objects=bucket, cache_users=cache_users))
        plan.steps = [_step(step, point) for step in plan.steps]
        schedule = PurgeSchedule(
            database, defer=_looked_for, touched=lambda _: None, clock=lambda: datetime.now(UTC) + _AHEAD
        )
        runner = OperationRunner(database, {plan.kind: plan})
        async with asyncio.timeout(_DEADLINE_S):
            await schedule.look()
            while running := await database.system().run(_running):
                for operation_id in running:
                    with suppress(AttemptFailedError):
                        await runner.run(operation_id)


asyncio.run(main())
