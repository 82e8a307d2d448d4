"""How a KEK is destroyed, and what proves that it is."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from control_plane.ids import TenantId, new_uuid
from control_plane.keyring import store
from control_plane.keyring.model import RECEIPT_TYPE, Destruction, Receipt
from control_plane.keys import store as keys_store
from control_plane.keys.model import KekRef, WrappedKey
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.vault import RootOfTrust
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.database import Database

RootOf = Callable[[UUID], RootOfTrust]
"""Says what a tenant's keys rest on."""


class Destroyer:
    """Destroys KEKs, and signs for it."""

    def __init__(
        self, database: Database, wrapping: Wrapping, platform_keys: PlatformKeys, *, root_of_trust: RootOf
    ) -> None:
        """Destroy by `wrapping`; sign with what `platform_keys` has for attestations."""
        self._system = database.system()
        self._wrapping = wrapping
        self._root_of_trust = root_of_trust
        self._platform_keys = platform_keys

    async def destroy(self, kek: KekRef, tenant_id: TenantId) -> Receipt:
        """Destroy a KEK, see that what it wrapped before does not open any more, and return the receipt, to be kept.

        What it wrapped is kept first: whoever is killed in between is followed by one that asks for the same. Safe to
        call again.

        Raises:
            RuntimeError: the vault has destroyed it, and opens what it wrapped all the same.
            UnavailableError: the vault or the database is away, or nothing can be signed; nothing is said to be done.
        """
        # Before anything is done: without a signature there would be a destruction without a receipt.
        signer = await self._platform_keys.attestation_signer()
        destruction = await self._begun(kek)
        await self._wrapping.destroy_kek(kek)
        if await self._wrapping.opens(kek, WrappedKey(destruction.sample)):
            message = f"{kek.title} was destroyed, and still opens what it wrapped"
            raise RuntimeError(message)
        now, root = datetime.now(UTC), self._root_of_trust(kek.tenant_uid)
        said: dict[str, str | bool] = {
            "hsm_backed": root.hsm_backed,
            "label": root.label,
            "firmware": root.firmware,
            "token": root.token,
        }
        escrow = await self._system.run(lambda tx: keys_store.escrow_of(tx, kek.tenant_uid))
        payload = destruction.payload(tenant_id, root=said, escrow_id=None if escrow is None else escrow.id, now=now)
        return Receipt(
            id=destruction.id,
            kek_version=kek.version,
            destroy_time=now,
            payload=payload,
            signature=signer.sign(RECEIPT_TYPE, payload),
            key_id=signer.key_id,
        )

    async def _begun(self, kek: KekRef) -> Destruction:
        begun = await self._find(kek)
        if begun is None:
            sample = await self._wrapping.sample(kek)
            made = _destruction(new_uuid(), kek, sample)
            await self._system.run(lambda tx: store.begin_destruction(tx, made, now=datetime.now(UTC)))
            begun = await self._find(kek)
        if begun is None:
            message = f"the destruction of {kek.title} was begun and is not known"
            raise RuntimeError(message)
        return begun

    async def _find(self, kek: KekRef) -> Destruction | None:
        return await self._system.run(lambda tx: store.begun_destruction(tx, kek.tenant_uid, version=kek.version))


def _destruction(destruction_id: UUID, kek: KekRef, sample: WrappedKey) -> Destruction:
    return Destruction(id=destruction_id, tenant_uid=kek.tenant_uid, kek_version=kek.version, sample=sample)
