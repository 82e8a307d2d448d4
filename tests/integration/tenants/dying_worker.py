"""A worker of operations that kills itself, as `kill -9` would, at the point of a creation that it is told.

Run as a process of its own: SOCKET_DIR PORT DBNAME VAULT_DIR VALKEY_SOCKET VALKEY_KEY TENANT POINT. A point is
`before:STEP`, `after:STEP`, `undo:destroy`, `undo:drop`, `undo:remove` (each after that part of taking back), or
`never`. Tenants named `doomed…` fail their verification. Without a point the worker ends when no operation is running
any more.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from control_plane import cell_key
from control_plane.cache.users import CacheUsers
from control_plane.errors import PreconditionError
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.operations.jobs import JobQueue
from control_plane.operations.model import Operation
from control_plane.operations.plan import Step
from control_plane.operations.service import OperationRunner
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.postgres.schemas.tenancy import drop_tenant_schema
from control_plane.tenants import provisioning
from control_plane.tenants.provisioning import TenantCreation

_DEADLINE_S = 60.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _step(step: Step, tenant: str, point: str) -> Step:
    async def run(operation: Operation) -> None:
        if operation.tenant_id == tenant and point == f"before:{step.name}":
            die()
        await step.run(operation)
        if step.name == "verification" and operation.tenant_id.startswith("doomed"):
            raise PreconditionError(operation.name, "doomed", reason="VERIFICATION_FAILED")
        if operation.tenant_id == tenant and point == f"after:{step.name}":
            die()

    return Step(step.name, run)


def _then_die(part: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def run(*args: Any) -> None:
        await part(*args)
        die()

    return run


async def _is_running(database: Database) -> bool:
    row = await database.system().run(
        lambda tx: tx.fetch_one("SELECT count(*) AS running FROM csm_system.operations WHERE state = 'RUNNING'")
    )
    return row is not None and row["running"] > 0


async def main() -> None:
    socket_dir, port, dbname, vault, valkey, valkey_key, tenant, point = sys.argv[1:]
    settings = PostgresSettings(socket_dir=Path(socket_dir), port=int(port), dbname=dbname)
    secret = cell_key.load_or_create(Path(valkey_key))
    async with Database.open(settings) as database, CacheUsers.open(Path(valkey), secret) as cache_users:
        keys = TenantKeys(await SoftwareVault.open(Path(vault)), database)
        if point == "undo:destroy":
            setattr(keys, "destroy", _then_die(keys.destroy))  # noqa: B010 this process is made to die here
        if point == "undo:drop":
            setattr(provisioning, "drop_tenant_schema", _then_die(drop_tenant_schema))  # noqa: B010 as above
        if point == "undo:remove":
            setattr(cache_users, "remove", _then_die(cache_users.remove))  # noqa: B010 as above
        plan = TenantCreation(
            database,
            Directory(database),
            keys,
            cache_users=cache_users,
            touched=lambda _: None,
            cache_doubted=lambda: None,
        )
        plan.steps = [_step(step, tenant, point) for step in plan.steps]
        queue = JobQueue(database, settings)
        async with queue.open(), asyncio.timeout(_DEADLINE_S):
            work = asyncio.create_task(queue.work(OperationRunner(database, {plan.kind: plan})))
            while await _is_running(database):  # noqa: ASYNC110 another process may end the operation
                await asyncio.sleep(0.1)
            work.cancel()


asyncio.run(main())
