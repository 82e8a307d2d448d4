"""Publishes the keys of tenants' audit logs: says which there are, and has the platform's key vouch for it."""

from datetime import datetime, timedelta
from typing import Final

import structlog

from control_plane.audit import store
from control_plane.keys.material import AuditSigner
from control_plane.keys.model import IntegrityError, MissingKeyError, Purpose
from control_plane.keys.platform import AttestationSigner, PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import Database
from control_plane.postgres.placement import Placement
from control_plane.proofs.audit_log import KEY_TYPE, AuditKey, LogKeys, PublishedKey, Signature

_log: Final = structlog.get_logger("audit.publication")


class Publication:
    """The published keys of all logs of a cell, for a process that has the platform's keys.

    Every method raises UnavailableError when the database or the vault is away.
    """

    def __init__(self, database: Database, keys: TenantKeys, platform_keys: PlatformKeys) -> None:
        """Publish what is in `keys`; `platform_keys` vouch for it."""
        self._system = database.system()
        self._keys = keys
        self._platform_keys = platform_keys

    async def log_keys(self, placement: Placement) -> LogKeys:
        """Return the keys of a tenant's log that the platform's key has signed. Needs none of the tenant's own."""
        published = await self._system.run(lambda tx: store.published_keys(tx, placement.uid))
        if not published:
            return LogKeys(tenant_uid=placement.uid)
        given = {key.public_bytes_raw() for key in await self._platform_keys.vouchers()}
        return LogKeys.vouched(placement.uid, published, given=given)

    async def ensure(self, placement: Placement, *, now: datetime) -> AuditKey:
        """Return the newest version that is published; publish the first one, and make it, where there is none.

        Safe to call again, at once from elsewhere too, and to be killed in: what was first stays.

        Raises:
            ConflictError: the tenant's KEK was replaced meanwhile; the same call finds the new one.
            IntegrityError: what is published is not what was signed.
            MissingKeyError: a key of the tenant's own has that name: see `TenantKeys.audit_signer`.
            TenantSealedError: the tenant is sealed.
        """
        keys = await self.log_keys(placement)
        if not keys.keys and not keys.first_forged:
            await self._publish_first(placement, now)
            keys = await self.log_keys(placement)
        if keys.first_forged or not keys.keys:
            raise IntegrityError("a published key of an audit log")
        return keys.keys[-1]

    async def _publish_first(self, placement: Placement, now: datetime) -> None:
        try:
            signer = await self._keys.audit_signer(placement)
        except MissingKeyError:
            await self._keys.add(placement, Purpose.AUDIT)
            signer = await self._keys.audit_signer(placement)
        key = published_key(placement, signer, now=now)
        signed = await self.signed(key, signer)
        await self._system.run(
            lambda tx: store.insert_published_key(tx, placement.uid, version=key.version, key=signed)
        )
        _log.info("audit_key_published", tenant=placement.tenant_id, version=key.version)

    async def signed(self, key: AuditKey, own: AuditSigner, *, previous: AuditSigner | None = None) -> PublishedKey:
        """Have all sign a key who have to: the platform, the key itself, and the version before it."""
        payload, platform = key.payload(), await self._platform_keys.attestation_signer()
        signers: list[AttestationSigner | AuditSigner] = [platform, own]
        signers += [] if previous is None else [previous]
        return PublishedKey(
            payload=payload,
            signatures=[Signature(key_id=each.key_id, signature=each.sign(KEY_TYPE, payload)) for each in signers],
        )


def published_key(
    placement: Placement, signer: AuditSigner, *, now: datetime, previous: AuditKey | None = None
) -> AuditKey:
    """Say that a version signs from now on, in the place of `previous`."""
    return AuditKey(
        tenant=f"tenants/{placement.tenant_id}",
        tenant_uid=placement.uid,
        version=signer.version,
        key_id=signer.key_id,
        public=signer.public,
        # After the one before it also where that was made by a clock ahead of this one.
        start_time=max(now, previous.start_time + timedelta.resolution) if previous else now,
        previous_version=previous.version if previous else 0,
    )
