"""Writes the entries of a transaction's effects, as the last thing before its commit.

So an effect without its entry cannot be committed, nor an entry without its effect; and where the log cannot be
written, nothing is done.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from control_plane.audit import store
from control_plane.audit.model import Entry, Outcome, neutral, neutral_details
from control_plane.ids import new_uuid
from control_plane.postgres.database import SystemTransaction, TenantTransaction
from control_plane.postgres.effects import BeforeCommit, Effect
from control_plane.postgres.placement import Placement
from control_plane.serving.call import Call

Touched = Callable[[Placement], None]
"""Told whose log is about to grow: `Sealer.touch`. Must not block, must not raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What an effect says only where it differs."""

    actor: str
    method: str
    request_id: str
    resource: str
    placement: Placement | None


def _nobody_listens(_: Placement) -> None:
    """Leave it to the sealer's sweep."""


def effects_recorder(call: Call, *, touched: Touched = _nobody_listens) -> BeforeCommit:
    """Record what a call does: an entry for each effect, or one about the tenant where the call named none."""

    async def record(tx: TenantTransaction | SystemTransaction, effects: Sequence[Effect]) -> None:
        origin = _Origin(
            actor=call.actor,
            method=call.method,
            request_id=call.request_id,
            resource=call.tenant_name,
            placement=call.placement,
        )
        await _write(tx, effects or [Effect(resource=origin.resource)], origin=origin, touched=touched)

    return record


def operation_recorder(*, actor: str, method: str, request_id: str, touched: Touched = _nobody_listens) -> BeforeCommit:
    """Record what an operation does later on behalf of the call that began it. Each effect names its tenant."""
    origin = _Origin(actor=actor, method=method, request_id=request_id, resource="", placement=None)

    async def record(tx: TenantTransaction | SystemTransaction, effects: Sequence[Effect]) -> None:
        await _write(tx, effects, origin=origin, touched=touched)

    return record


async def _write(
    tx: TenantTransaction | SystemTransaction, effects: Sequence[Effect], *, origin: _Origin, touched: Touched
) -> None:
    now = datetime.now(UTC)
    for effect in effects:
        placement = await _enter(tx, effect, origin=origin)
        await store.insert(
            tx,
            Entry(
                id=new_uuid(),
                create_time=now,
                actor=neutral(effect.actor or origin.actor),
                method=effect.method or origin.method,
                resource=neutral(effect.resource or f"tenants/{placement.tenant_id}"),
                outcome=Outcome.DENIED if effect.refusal else Outcome.EFFECT,
                reason=effect.refusal,
                request_id=origin.request_id,
                details={neutral(key): neutral_details(value) for key, value in effect.details.items()},
            ),
        )
        touched(placement)


async def _enter(tx: TenantTransaction | SystemTransaction, effect: Effect, *, origin: _Origin) -> Placement:
    """Be in the tenant whose log the effect belongs to, and return it.

    Raises:
        RuntimeError: when that is no tenant's, or not the transaction's own. Nothing is committed then.
    """
    if isinstance(tx, TenantTransaction):
        if effect.placement not in {None, tx.placement}:
            raise RuntimeError(f"{origin.method} records an effect on another tenant than the transaction's")
        return tx.placement
    placement = effect.placement or origin.placement
    if placement is None:
        raise RuntimeError(f"{origin.method} has an effect that belongs to no tenant's audit log")
    await tx.enter(placement)
    return placement
