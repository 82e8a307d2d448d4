"""How keys end whose time has come: their material is deleted, then the KEK is rotated that it was wrapped under.

Nothing is remembered between two looks: each takes what the database says, so it does not matter which replica looks,
how many do at once, or where one was killed. What is deleted is deleted in one transaction, which says so in the
tenant's log; that its KEK has to go is seen from the versions that are kept of it, until it is gone. A sealed tenant's
keys wait.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from control_plane.audit.recorder import operation_recorder
from control_plane.errors import DomainError
from control_plane.ids import TenantId, new_uuid
from control_plane.keyring import service, store
from control_plane.keyring.rotations.plan import Means
from control_plane.keyring.service import Request
from control_plane.keys import store as keys_store
from control_plane.keys.model import KEK
from control_plane.keys.named import store as named_store
from control_plane.operations.periodic import run_every
from control_plane.operations.plan import DeferJob
from control_plane.postgres.database import SystemHandle, SystemTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.tenants.store import find_placement

_EVERY: Final = timedelta(seconds=10)
_ACTOR: Final = "platform:key-disposal"
_DESTROY_METHOD: Final = "/bulkhead.v1.KeyService/ScheduleKeyDestruction"
_ROTATE_METHOD: Final = "/bulkhead.v1.KeyService/RotateKey"

_log: Final = structlog.get_logger("keyring.disposal")


def _now() -> datetime:
    return datetime.now(UTC)


class Disposal:
    """Ends keys that are due, while `run` runs."""

    def __init__(self, means: Means, *, defer: DeferJob, clock: Callable[[], datetime] = _now) -> None:
        """Begin rotations with `defer`; `clock` says what time it is."""
        self._database = means.database
        self._keys = means.keys
        self._touched = means.touched
        self._defer = defer
        self._clock = clock

    async def run(self) -> None:
        """Look every ten seconds until cancelled."""
        await run_every(_EVERY, self.look, log=_log, postponed="disposal_postponed")

    async def look(self) -> None:
        """Delete what is due, and begin the rotations that this takes. Safe at any time, in any number of places."""
        now, system = self._clock(), self._database.system()
        await system.run(lambda tx: named_store.delete_late_imports(tx, now=now))
        for tenant_id, uid in await system.run(lambda tx: store.tenants_with_due_keys(tx, now=now)):
            await self._for_one(tenant_id, uid, self._delete)
        for tenant_id, uid in await system.run(store.tenants_with_doomed_keks):
            await self._for_one(tenant_id, uid, self._rotate)

    async def _for_one(
        self, tenant_id: TenantId, uid: UUID, work: Callable[[Placement, datetime], Awaitable[None]]
    ) -> None:
        """Do it for one tenant; whatever is wrong there does not concern the others."""
        placement = await self._database.system().run(lambda tx: find_placement(tx, tenant_id))
        if placement is None or placement.uid != uid:
            return
        try:
            await work(placement, self._clock())
        except DomainError as error:
            # Another rotation runs, the tenant was just sealed, or others were faster: the next look finds it as it is.
            _log.info("disposal_waits", tenant=tenant_id, reason=error.code)
        except Exception:  # noqa: BLE001 a tenant that is broken must not keep others' keys alive
            _log.exception("disposal_failed", tenant=tenant_id)

    async def _delete(self, placement: Placement, now: datetime) -> None:
        async def work(tx: SystemTransaction) -> None:
            await keys_store.check_unsealed(tx, placement.uid)
            is_changed = False
            for key_id in await store.due_keys(tx, placement.uid, now=now):
                key = await named_store.hold(tx, placement.uid, key_id)
                # It may have been restored, or deleted elsewhere, while this waited for it.
                if key is None or not key.is_due(now):
                    continue
                gone = key.destroyed(now)
                await named_store.change(tx, gone)
                versions: list[JsonValue] = [*await named_store.delete_versions(tx, gone)]
                details = {"state": gone.state.value, "versions": versions}
                name = f"tenants/{placement.tenant_id}/keys/{key_id}"
                tx.record(Effect(resource=name, placement=placement, details=details))
                is_changed = True
            if not is_changed:
                tx.unchanged()

        await self._recorded(_DESTROY_METHOD).run(work)
        self._keys.forget(placement.uid)

    async def _rotate(self, placement: Placement, now: datetime) -> None:
        request = Request(
            placement=placement,
            key_id=KEK,
            etag="",
            actor=_ACTOR,
            call_request_id=new_uuid().hex,
            request_id=None,
            request_hash=b"",
        )
        await service.rotate_key(self._recorded(_ROTATE_METHOD), request, defer=self._defer, now=now)

    def _recorded(self, method: str) -> SystemHandle:
        recorder = operation_recorder(actor=_ACTOR, request_id=new_uuid().hex, method=method, touched=self._touched)
        return self._database.system(before_commit=recorder)
