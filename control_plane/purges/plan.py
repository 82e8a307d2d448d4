"""How a tenant is purged: the plan of the operation that begins when the waiting period is over.

The keys go first: what a step after that is killed before, opens for nobody. Each step may be killed at any instruction
and is run again from its beginning, so each is idempotent. The tenant is sealed all the while, and stays so: there is
no moment at which anybody is let in. Nothing is taken back: a purge that fails is begun anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from bulkhead.v1 import deletions_pb2, tenants_pb2
from control_plane.audit.recorder import Touched, operation_recorder
from control_plane.cache.users import CacheUsers
from control_plane.errors import PreconditionError
from control_plane.keyring.destruction import Destroyer
from control_plane.keys.service import TenantKeys
from control_plane.keys.wrapping import Wrapping
from control_plane.objects.store import ObjectStore
from control_plane.operations import store as operations_store
from control_plane.operations.model import Operation
from control_plane.operations.plan import Step, StepPausedError
from control_plane.operations.servicer import steps_to_proto
from control_plane.postgres.database import Database, SystemHandle, SystemTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas.tenancy import purge_tenant_schema
from control_plane.purges import store
from control_plane.tenants import store as tenants_store
from control_plane.tenants.model import State
from control_plane.tenants.servicer import to_proto

STEPS: Final = ("keys", "objects", "cache", "schema", "rows", "verification")
METHOD: Final = "/bulkhead.v1.TenantService/DeleteTenant"
# So many at once are deleted in a second or two; then others have their turn.
_OBJECTS: Final = 1_000
_RECEIPT: Final = "receipt"
_DELETED: Final = "deleted_objects"


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What tenants are purged with."""

    database: Database
    directory: Directory
    keys: TenantKeys
    wrapping: Wrapping
    destroyer: Destroyer
    objects: ObjectStore
    cache_users: CacheUsers
    cache_doubted: Callable[[], None]
    """Told that there may be a user in the cache whose tenant is gone."""
    touched: Touched
    """Told whose audit log grows."""


class TenantPurge:
    """The plan; see `operations.plan.Plan`."""

    kind = store.KIND

    def __init__(self, means: Means) -> None:
        """Purge with these."""
        self._means = means
        self._database = means.database
        runs = (
            self._destroy_keys,
            self._delete_objects,
            self._remove_cache,
            self._drop_schema,
            self._delete_rows,
            self._verify,
        )
        self.steps: Sequence[Step] = [Step(name, run) for name, run in zip(STEPS, runs, strict=True)]

    async def undo(self, operation: Operation) -> None:
        """Nothing comes back, and nothing that is left is let in: the schedule begins another purge."""

    def metadata(self, operation: Operation) -> deletions_pb2.PurgeTenantMetadata:
        """Show the steps."""
        message = deletions_pb2.PurgeTenantMetadata(
            tenant=f"tenants/{operation.tenant_id}",
            steps=steps_to_proto(operation),
            deleted_objects=_deleted(operation.progress.get(_DELETED)),
        )
        message.create_time.FromDatetime(operation.create_time)
        return message

    async def response(self, operation: Operation) -> tenants_pb2.Tenant:
        """Show what is left of the tenant."""
        tenant = await self._database.system().run(lambda tx: tenants_store.find(tx, operation.tenant_id))
        if tenant is None or tenant.uid != operation.tenant_uid:
            return tenants_pb2.Tenant(name=f"tenants/{operation.tenant_id}", uid=str(operation.tenant_uid))
        return to_proto(tenant, hsm_backed=self._means.keys.hsm_backed)

    async def _destroy_keys(self, operation: Operation) -> None:
        placement = await self._placement(operation)
        receipt = await self._means.destroyer.shred(placement)
        self._means.keys.forget(placement.uid)

        async def work(tx: SystemTransaction) -> None:
            noted = await operations_store.progress(tx, operation.id)
            if _RECEIPT in noted:
                tx.unchanged()
                return
            await operations_store.note_progress(tx, operation.id, {**noted, _RECEIPT: str(receipt.id)})
            details: dict[str, JsonValue] = {"keys": "DESTROYED", _RECEIPT: str(receipt.id)}
            tx.record(Effect(resource=f"tenants/{placement.tenant_id}", placement=placement, details=details))

        await self._recorded(operation).run(work)

    async def _delete_objects(self, operation: Operation) -> None:
        placement = await self._placement(operation)
        deleted = await self._means.objects.of(placement).clear(most=_OBJECTS)

        async def note(tx: SystemTransaction) -> None:
            tx.unchanged()
            noted = await operations_store.progress(tx, operation.id)
            count = _deleted(noted.get(_DELETED)) + deleted
            await operations_store.note_progress(tx, operation.id, {**noted, _DELETED: count})

        await self._database.system().run(note)
        if deleted == _OBJECTS:
            raise StepPausedError

    async def _remove_cache(self, operation: Operation) -> None:
        await self._means.cache_users.remove(await self._placement(operation))
        # Whoever read the registry a moment ago may have made the user once more.
        self._means.cache_doubted()

    async def _drop_schema(self, operation: Operation) -> None:
        await purge_tenant_schema(self._database, await self._placement(operation))

    async def _delete_rows(self, operation: Operation) -> None:
        placement = await self._placement(operation)
        await self._database.system().run(lambda tx: store.purge_rows(tx, placement.uid))

    async def _verify(self, operation: Operation) -> None:
        """Look for the tenant wherever there was anything of it, and say that it is purged."""
        placement = await self._placement(operation)
        found = await self._residue(placement)
        if found:
            message = f"the purge of {placement.tenant_id} has left {', '.join(found)}"
            raise RuntimeError(message)

        async def work(tx: SystemTransaction) -> None:
            before = await tenants_store.find_for_update(tx, operation.tenant_id)
            if before is None or before.state is not State.PURGING:
                tx.unchanged()
                return
            after = before.purged(datetime.now(UTC))
            await tenants_store.update(tx, after)
            noted = await operations_store.progress(tx, operation.id)
            details: dict[str, JsonValue] = {**noted, "state": after.state.value}
            tx.record(Effect(resource=after.name, placement=placement, details=details))

        await self._recorded(operation).run(work)
        self._means.directory.forget(operation.tenant_id)

    async def _residue(self, placement: Placement) -> list[str]:
        found = await self._database.system().run(lambda tx: store.residue(tx, placement.uid))
        found += [kek.title for kek in await self._means.wrapping.keks_of(placement.uid)]
        if not await self._means.objects.of(placement).is_empty():
            found.append("objects")
        if await self._means.cache_users.knows(placement):
            found.append("its user in the cache")
        return found

    async def _placement(self, operation: Operation) -> Placement:
        """Find the tenant; raise PreconditionError unless it is one that is being purged."""

        async def find(tx: SystemTransaction) -> Placement | None:
            tenant = await tenants_store.find(tx, operation.tenant_id)
            is_it = tenant is not None and tenant.uid == operation.tenant_uid and tenant.state is State.PURGING
            return await tenants_store.find_placement(tx, operation.tenant_id) if is_it else None

        placement = await self._database.system().run(find)
        if placement is None:
            name = f"tenants/{operation.tenant_id}"
            raise PreconditionError(name, f"{name} is not being purged", reason="TENANT_NOT_PURGING")
        return placement

    def _recorded(self, operation: Operation) -> SystemHandle:
        recorder = operation_recorder(
            actor=operation.actor,
            request_id=operation.call_request_id,
            method=METHOD,
            touched=self._means.touched,
        )
        return self._database.system(before_commit=recorder)


def _deleted(noted: JsonValue) -> int:
    return noted if isinstance(noted, int) else 0
