"""When tenants are purged: as soon as their waiting period is over, a few at once.

Nothing is remembered between two looks: each takes what the database says, so it does not matter which replica looks,
how many do at once, or where one was killed.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from control_plane.audit.recorder import Touched, operation_recorder
from control_plane.ids import TenantId, new_uuid
from control_plane.operations import service as operations
from control_plane.operations.model import Operation, OperationState, StepRecord, StepState
from control_plane.operations.periodic import run_every
from control_plane.operations.plan import DeferJob
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.purges import store
from control_plane.purges.plan import METHOD, STEPS
from control_plane.tenants import store as tenants_store
from control_plane.tenants.model import Action, State, Tenant

_EVERY: Final = timedelta(seconds=10)
# Purges are for nobody to wait for, and are to leave the tenants who are there their database.
_MOST_AT_ONCE: Final = 2
# After one that failed: somebody has to see to what is wrong.
_AGAIN_AFTER: Final = timedelta(minutes=10)
_ACTOR: Final = "platform:purge"

_log: Final = structlog.get_logger("purges")


def _now() -> datetime:
    return datetime.now(UTC)


class PurgeSchedule:
    """Begins purges that are due, while `run` runs."""

    def __init__(
        self, database: Database, *, defer: DeferJob, touched: Touched, clock: Callable[[], datetime] = _now
    ) -> None:
        """Begin operations with `defer`; tell `touched` whose audit log grows; `clock` says what time it is."""
        self._database = database
        self._defer = defer
        self._touched = touched
        self._clock = clock

    async def run(self) -> None:
        """Look every ten seconds until cancelled."""
        await run_every(_EVERY, self.look, log=_log, postponed="purges_postponed")

    async def look(self) -> None:
        """Begin what is due, as far as there is room. Safe at any time, in any number of places."""

        async def due(tx: SystemTransaction) -> list[TenantId]:
            room = max(0, _MOST_AT_ONCE - await store.running(tx))
            return await store.due(tx, now=self._clock(), again_after=_AGAIN_AFTER, limit=room)

        for tenant_id in await self._database.system().run(due):
            await self._begin(tenant_id)

    async def _begin(self, tenant_id: TenantId) -> None:
        now = self._clock()
        recorder = operation_recorder(actor=_ACTOR, request_id=new_uuid().hex, method=METHOD, touched=self._touched)

        async def work(tx: SystemTransaction) -> None:
            # It may have been taken back, or begun elsewhere, while this waited for it.
            before = await tenants_store.find_for_update(tx, tenant_id)
            placement = await tenants_store.find_placement(tx, tenant_id)
            is_due = await store.due(tx, now=now, again_after=_AGAIN_AFTER, limit=1, only=tenant_id)
            if before is None or placement is None or not is_due:
                tx.unchanged()
                return
            operation = await operations.begin(tx, _new_operation(before, now))
            await self._defer(operation.id, tx)
            if before.state is State.PURGING:
                tx.unchanged()
                return
            after = before.after(Action.PURGE, now, reason=before.suspend_reason)
            await tenants_store.update(tx, after)
            details: dict[str, JsonValue] = {"state": after.state.value, "operation": operation.name}
            tx.record(Effect(resource=after.name, placement=placement, details=details))

        await self._database.system(before_commit=recorder).run(work)
        _log.info("purge_begun", tenant=tenant_id)


def _new_operation(tenant: Tenant, now: datetime) -> Operation:
    return Operation(
        id=new_uuid(),
        kind=store.KIND,
        tenant_id=tenant.id,
        tenant_uid=tenant.uid,
        actor=_ACTOR,
        call_request_id=new_uuid().hex,
        state=OperationState.RUNNING,
        steps=tuple(StepRecord(name=name, state=StepState.PENDING) for name in STEPS),
        create_time=now,
    )
