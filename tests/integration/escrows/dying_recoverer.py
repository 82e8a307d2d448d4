"""A worker of recoveries that kills itself, as `kill -9` would, at the point that it is told.

Run as a process of its own: SOCKET_DIR PORT DBNAME VAULT_DIR TENANT POINT. A point is `before:STEP` or `after:STEP`, or
`never`. It ends when no operation is running any more.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from control_plane.escrows.recovering import KeyRecovery, Means
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.keys.wrapping import Wrapping
from control_plane.operations.jobs import JobQueue
from control_plane.operations.model import Operation
from control_plane.operations.plan import Step
from control_plane.operations.service import OperationRunner
from control_plane.postgres.database import Database, PostgresSettings

_DEADLINE_S = 60.0


def _step(step: Step, tenant: str, point: str) -> Step:
    async def run(operation: Operation) -> None:
        if operation.tenant_id == tenant and point == f"before:{step.name}":
            os.kill(os.getpid(), signal.SIGKILL)
        await step.run(operation)
        if operation.tenant_id == tenant and point == f"after:{step.name}":
            os.kill(os.getpid(), signal.SIGKILL)

    return Step(step.name, run)


async def _is_running(database: Database) -> bool:
    row = await database.system().run(
        lambda tx: tx.fetch_one("SELECT count(*) AS running FROM csm_system.operations WHERE state = 'RUNNING'")
    )
    return row is not None and row["running"] > 0


async def main() -> None:
    socket_dir, port, dbname, vault_dir, tenant, point = sys.argv[1:]
    settings = PostgresSettings(socket_dir=Path(socket_dir), port=int(port), dbname=dbname)
    async with Database.open(settings) as database:
        vault = await SoftwareVault.open(Path(vault_dir))
        plan = KeyRecovery(
            Means(
                database=database,
                keys=TenantKeys(vault, database),
                wrapping=Wrapping(vault),
                platform_keys=PlatformKeys(vault, database),
                touched=lambda _: None,
            )
        )
        plan.steps = [_step(step, tenant, point) for step in plan.steps]
        queue = JobQueue(database, settings)
        async with queue.open(), asyncio.timeout(_DEADLINE_S):
            work = asyncio.create_task(queue.work(OperationRunner(database, {plan.kind: plan})))
            while await _is_running(database):  # noqa: ASYNC110 another process may end the operation
                await asyncio.sleep(0.1)
            work.cancel()


asyncio.run(main())
