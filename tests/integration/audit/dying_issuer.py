"""Issues tokens until it is killed; prints each once it is answered. For `test_completeness.py`."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from control_plane.audit.recorder import operation_recorder
from control_plane.ids import TenantId
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.postgres.database import Database, Isolation, PostgresSettings
from control_plane.postgres.placement import Placement
from control_plane.tokens import service
from control_plane.tokens.model import Grant


async def main(socket_dir: str, port: str, dbname: str, vault: str, *placement: str) -> None:
    tenant_id, uid, schema, role, login = placement
    tenant = Placement(tenant_id=TenantId(tenant_id), uid=UUID(uid), schema=schema, role=role, login=login)
    settings = PostgresSettings(socket_dir=Path(socket_dir), port=int(port), dbname=dbname)
    recorder = operation_recorder(actor="test", method="test", request_id="")
    async with Database.open(settings) as database:
        keys = TenantKeys(await SoftwareVault.open(Path(vault)), database)
        handle = database.tenant(tenant, isolation=Isolation.SERIALIZABLE, before_commit=recorder)
        grant = Grant(subject="bob", role="auditor", scopes=(), lifetime=timedelta(hours=1))
        request = service.Request(grant=grant, actor="test", request_id=None)

        async def issue() -> None:
            while True:
                issued = await service.issue_token(handle, request, keys=keys, now=datetime.now(UTC))
                print(issued.token.id, flush=True)  # noqa: T201 the answer that the test waits for

        await asyncio.gather(*(issue() for _ in range(4)))


asyncio.run(main(*sys.argv[1:]))
