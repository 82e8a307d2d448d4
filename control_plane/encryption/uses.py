"""The one place that each use of a tenant's key passes, before the key is opened."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from control_plane.errors import NotFoundError, PreconditionError
from control_plane.keys.model import BUILT_IN_IDS, Purpose
from control_plane.keys.named.model import NamedKey, State
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect

_log: Final = structlog.get_logger("encryption.uses")


class Operation(StrEnum):
    """What a key is used for."""

    GENERATE_DATA_KEY = "GENERATE_DATA_KEY"
    ENCRYPT = "ENCRYPT"
    DECRYPT = "DECRYPT"
    REWRAP = "REWRAP"
    SIGN = "SIGN"
    VERIFY = "VERIFY"

    @property
    def purpose(self) -> Purpose:
        """What a key has to be for."""
        return Purpose.SIGNING if self in {Operation.SIGN, Operation.VERIFY} else Purpose.ENCRYPTION


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """One use of a key: which, for what, why, and by whom."""

    key_id: str
    operation: Operation
    reason: str
    principal: str


class KeyUses:
    """Decides whether a key may be used, at the moment of each use: what was so a moment ago does not count."""

    def __init__(self, keys: TenantKeys) -> None:
        """Ask `keys` how a key is."""
        self._keys = keys

    async def authorise(self, use: KeyUse, handle: TenantHandle) -> NamedKey | None:
        """Return the key that may be used; None for the one for services. A query, but for that.

        Raises:
            NotFoundError: the tenant has no such key.
            PreconditionError: the key is for something else, is gone, or will be; the last of these is told in the
                tenant's log, and in ours.
        """
        name = f"tenants/{handle.placement.tenant_id}/keys/{use.key_id}"
        if use.key_id == Purpose.SERVICES and use.operation.purpose is Purpose.ENCRYPTION:
            return None
        if use.key_id in BUILT_IN_IDS:
            raise _other_purpose(name, use)
        named = await self._keys.named(handle.placement, use.key_id)
        if named is None:
            raise NotFoundError(name)
        if named.kind.purpose is not use.operation.purpose:
            raise _other_purpose(name, use)
        if named.state is State.DESTROY_SCHEDULED:
            await _raise_alert(use, named, handle=handle)
        named.check_enabled(name)
        return named


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
    wanted = use.operation.purpose.upper()
    return PreconditionError(name, f"{name} is not for {wanted}", reason="KEY_PURPOSE", purpose=wanted)
