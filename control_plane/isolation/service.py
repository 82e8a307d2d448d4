"""Verifies the isolation of tenants, and of the cell, and signs what it finds."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from control_plane.audit.recorder import Touched, operation_recorder
from control_plane.errors import PreconditionError, TenantSealedError
from control_plane.ids import TenantId, new_uuid
from control_plane.isolation import store
from control_plane.isolation.model import PAYLOAD_TYPE, Attestation, Report, Result, Subject
from control_plane.isolation.probes.probe import Between, BreachNoted, Probe, run
from control_plane.isolation.walls import Walls
from control_plane.keys.platform import PlatformKeys
from control_plane.postgres.database import Database, SystemHandle, SystemTransaction
from control_plane.postgres.directory import SEALED
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.tenants.service import restrict_tenant

CELL: Final = "local"
_ACTOR: Final = "platform:isolation"
_METHOD: Final = "/bulkhead.v1.IsolationService/VerifyIsolation"
# All of a tenant's probes together take less than five seconds, whichever of them hangs.
_TENANT_WITHIN: Final = timedelta(seconds=4)
_PROBE_WITHIN: Final = timedelta(seconds=2)
# Reads whole catalogues, of 100,000 tenants perhaps.
_CELL_WITHIN: Final = timedelta(seconds=25)

_log: Final = structlog.get_logger("isolation")

Restrict = Callable[[TenantId], Awaitable[None]]
"""What happens to a tenant whose walls do not hold. MUST be idempotent."""


def read_only(database: Database, *, touched: Touched) -> Restrict:
    """Make the tenant read-only, if it is active; its audit log says by whom."""

    async def restrict(tenant_id: TenantId) -> None:
        recorder = operation_recorder(actor=_ACTOR, method=_METHOD, request_id=new_uuid().hex, touched=touched)
        await restrict_tenant(database.system(before_commit=recorder), tenant_id, now=datetime.now(UTC))

    return restrict


async def as_it_is(tenant_id: TenantId) -> None:
    """Leave the tenant as it is: the log and the attestation tell."""


class Verifier:
    """Asks every wall around a tenant, or in a cell; keeps the answers, signed."""

    def __init__(
        self, database: Database, keys: PlatformKeys, walls: Walls, *, restrict: Restrict, breached: BreachNoted
    ) -> None:
        """Sign with a key of `keys`; call `restrict` for a tenant whose walls do not hold."""
        self._database = database
        self._keys = keys
        self._walls = walls
        self._restrict = restrict
        self._breached = breached

    async def verify_tenant(self, placement: Placement, within: SystemHandle) -> Attestation:
        """Ask every wall around the tenant; keep the attestation in a transaction of `within`. Takes less than 5 s.

        Raises:
            PreconditionError: when the tenant is still being created, or sealed.
            UnavailableError: when nothing can be kept, or signed.
        """
        name = f"tenants/{placement.tenant_id}"
        between = await self._database.system().run(lambda tx: _between(tx, placement))
        if between is None:
            raise PreconditionError(name, f"{name} is still being created", reason="TENANT_NOT_READY")
        subject = Subject(cell=CELL, tenant_id=placement.tenant_id, tenant_uid=placement.uid)
        with structlog.contextvars.bound_contextvars(tenant=placement.tenant_id):
            report = await self._report(subject, self._walls.of_tenant(between), within=_TENANT_WITHIN)
            attestation = await self._signed(report)
            if report.failed:
                # First, so that a tenant in danger is safe even where the attestation cannot be kept.
                await self._restrict(placement.tenant_id)

        async def keep(tx: SystemTransaction) -> None:
            await store.insert(tx, attestation)
            details: Mapping[str, JsonValue] = {"passed": report.passed, "failed": ", ".join(report.failed)}
            tx.record(Effect(resource=f"{name}/attestations/{report.id}", placement=placement, details=details))

        await within.run(keep)
        return attestation

    async def verify_cell(self, within: SystemHandle) -> Attestation:
        """Ask what all tenants stand on; keep the attestation in a transaction of `within`. Takes less than 30 s.

        Raises:
            UnavailableError: when nothing can be kept, or signed.
        """
        report = await self._report(Subject(cell=CELL), self._walls.of_cell(), within=_CELL_WITHIN)
        attestation = await self._signed(report)

        async def keep(tx: SystemTransaction) -> None:
            # It is nobody's in particular: no audit log has it.
            tx.unchanged()
            await store.insert(tx, attestation)

        await within.run(keep)
        return attestation

    async def _report(self, subject: Subject, probes: Sequence[Probe], *, within: timedelta) -> Report:
        begun, create_time = time.monotonic(), datetime.now(UTC)
        longest = within if subject.tenant_id is None else _PROBE_WITHIN
        results: list[Result] = []
        for probe in probes:
            left = within - timedelta(seconds=time.monotonic() - begun)
            results.append(await run(probe, within=max(min(longest, left), timedelta()), breached=self._breached))
        return Report(
            id=new_uuid(),
            subject=subject,
            results=results,
            create_time=create_time,
            duration=timedelta(seconds=time.monotonic() - begun),
            hsm_backed=self._keys.hsm_backed,
        )

    async def _signed(self, report: Report) -> Attestation:
        signer, payload = await self._keys.attestation_signer(), report.payload()
        return Attestation(
            id=report.id,
            tenant_uid=report.subject.tenant_uid,
            passed=report.passed,
            create_time=report.create_time,
            payload=payload,
            signature=signer.sign(PAYLOAD_TYPE, payload),
            key_id=signer.key_id,
        )


async def _between(tx: SystemTransaction, placement: Placement) -> Between | None:
    """Find the tenant a neighbour; None for one that is still being created."""
    state = await store.find_state(tx, placement.uid)
    if state is None:
        return None
    if state == SEALED:
        raise TenantSealedError(f"tenants/{placement.tenant_id}")
    return Between(own=placement, other=await store.find_neighbour(tx, placement), is_suspended=state == "SUSPENDED")
