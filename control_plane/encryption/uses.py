"""The one place that each use of a tenant's key passes, before the key is opened."""

from collections.abc import Mapping
from typing import Final

import structlog

from control_plane.errors import NotFoundError, PreconditionError
from control_plane.key_policies.gate import KeyGate, Permit
from control_plane.key_policies.model import KeyUse, Operation
from control_plane.keys.model import BUILT_IN_IDS, Purpose
from control_plane.keys.named.model import NamedKey, State
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect, JsonValue

_log: Final = structlog.get_logger("encryption.uses")


class KeyUses:
    """Decides whether a key may be used, at the moment of each use: what was so a moment ago does not count.

    First whether there is such a key, for that; then whether the tenant's policy lets this use of it pass.
    """

    def __init__(self, keys: TenantKeys, gate: KeyGate) -> None:
        """Ask `keys` how a key is, and `gate` what the policy says."""
        self._keys = keys
        self._gate = gate

    async def authorise(self, use: KeyUse, handle: TenantHandle) -> NamedKey | None:
        """Return the key that may be used; None for the one for services. A query, but for that.

        Before it is opened; and what was done with it goes out only after `recorded`.

        Raises:
            NotFoundError: the tenant has no such key.
            PreconditionError: the key is for something else, is gone, or will be; the last of these is told in the
                tenant's log, and in ours.
            PolicyDeniedError, QuotaExceededError, UnavailableError: as `KeyGate.check` has it.
        """
        named = await self._usable(use, handle)
        await self._gate.check(handle, use)
        return named

    async def recorded(
        self, use: KeyUse, handle: TenantHandle, *, resource: str, details: Mapping[str, JsonValue]
    ) -> None:
        """Write the entry of a use, if the policy lets it pass at that moment. Raises what `KeyGate.run` raises."""

        async def work(tx: TenantTransaction, permit: Permit) -> None:
            tx.record(Effect(resource=resource, details={"reason": use.reason, **details, **permit.details}))

        await self._gate.run(handle, use, work)

    async def _usable(self, use: KeyUse, handle: TenantHandle) -> NamedKey | None:
        name = f"tenants/{handle.placement.tenant_id}/keys/{use.key}"
        if use.key == Purpose.SERVICES and _purpose(use.operation) is Purpose.ENCRYPTION:
            return None
        # First, since a tenant may have called a key so before every tenant had one of that name.
        named = await self._keys.named(handle.placement, use.key)
        if named is None:
            raise _other_purpose(name, use) if use.key in BUILT_IN_IDS else NotFoundError(name)
        if named.kind.purpose is not _purpose(use.operation):
            raise _other_purpose(name, use)
        if named.state is State.DESTROY_SCHEDULED:
            await _raise_alert(use, named, handle=handle)
        named.check_enabled(name)
        return named


def _purpose(operation: Operation) -> Purpose:
    """Say what a key has to be for."""
    return Purpose.SIGNING if operation in {Operation.SIGN, Operation.VERIFY} else Purpose.ENCRYPTION


async def _raise_alert(use: KeyUse, named: NamedKey, *, handle: TenantHandle) -> None:
    """Tell that somebody needs what will be gone. Where that cannot be told, the use fails for that reason."""
    placement = handle.placement
    when = "" if named.destroy_time is None else named.destroy_time.isoformat()
    effect = Effect(
        resource=f"tenants/{placement.tenant_id}/keys/{named.key_id}",
        refusal="KEY_DESTROY_SCHEDULED",
        details={"operation": use.operation.value, "reason": use.reason, "destroy_time": when},
    )

    async def work(tx: TenantTransaction) -> None:
        tx.record(effect)

    await handle.run(work)
    _log.warning(
        "key_asked_for_before_its_destruction",
        tenant=placement.tenant_id,
        key=named.key_id,
        operation=use.operation.value,
        principal=use.principal,
        destroy_time=when,
    )


def _other_purpose(name: str, use: KeyUse) -> PreconditionError:
    wanted = _purpose(use.operation).upper()
    return PreconditionError(name, f"{name} is not for {wanted}", reason="KEY_PURPOSE", purpose=wanted)
