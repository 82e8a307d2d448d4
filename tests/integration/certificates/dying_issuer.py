"""Issues a certificate for each point that it is told, in a process of its own that kills itself there, by `kill -9`.

Run with one argument, a JSON object: where the database, the vault and the bucket are, the tenant, the signing request,
and for each point the request id to issue under.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from control_plane.cache.handles import Caches
from control_plane.certificates import store
from control_plane.certificates.model import Asked
from control_plane.certificates.service import Certificates
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.store import ObjectStore, TenantObjects, open_bucket
from control_plane.postgres.database import Database, Isolation, PostgresSettings
from control_plane.postgres.placement import ConnectionPooling, Placement

POINTS: Final = [
    "before the claim",
    "in the claim",
    "after the claim",
    "before the object",
    "after the object",
    "in the activation",
    "after the activation",
]


def _dies(work: Callable[..., Awaitable[Any]], *, before: bool) -> Callable[..., Awaitable[Any]]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        if not before:
            await work(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    return run


async def issue(where: dict[str, Any], point: str) -> None:
    settings = PostgresSettings(socket_dir=Path(where["socket_dir"]), port=where["port"], dbname=where["dbname"])
    named = where["tenant"]
    tenant = Placement(**named | {"uid": UUID(named["uid"]), "pooling": ConnectionPooling(**named["pooling"])})
    async with Database.open(settings) as database:
        keys = TenantKeys(await SoftwareVault.open(Path(where["vault"])), database)
        objects = ObjectStore(open_bucket(where["bucket"]), keys, database.canaries)
        drafts = database.tenant(tenant, isolation=Isolation.READ_COMMITTED)
        effects = database.tenant(tenant, isolation=Isolation.SERIALIZABLE)
        spots: dict[str, tuple[Any, str, bool]] = {
            "before the claim": (store, "insert_pending", True),
            "in the claim": (store, "insert_pending", False),
            "after the claim": (TenantObjects, "put", True),
            "before the object": (objects.bucket, "put", True),
            "after the object": (TenantObjects, "put", False),
            "in the activation": (store, "activate", False),
        }
        if point in spots:
            owner, name, before = spots[point]
            setattr(owner, name, _dies(getattr(owner, name), before=before))
        request = Asked(csr_pem=where["csr_pem"], request_id=where["requests"][point])
        async with Caches.open(Path("none.sock"), keys.derive, bytes(32)) as caches:
            await Certificates(keys, objects, caches).issue(request, drafts=drafts, effects=effects)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    where = json.loads(sys.argv[1])
    for point in POINTS:
        child = os.fork()
        if not child:
            asyncio.run(issue(where, point))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == -signal.SIGKILL, (point, status)


if __name__ == "__main__":
    main()
