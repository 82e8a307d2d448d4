"""How a KEK is destroyed, or all that a tenant has, and what proves that it is."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from control_plane.ids import TenantId, new_uuid
from control_plane.keyring import destructions
from control_plane.keyring.model import RECEIPT_TYPE, Destruction, Receipt, Shredding
from control_plane.keys import store as keys_store
from control_plane.keys.model import KekRef, WrappedKey
from control_plane.keys.platform import AttestationSigner, PlatformKeys
from control_plane.keys.store import StoredKey
from control_plane.keys.vault import RootOfTrust
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.effects import JsonValue
from control_plane.postgres.placement import Placement

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
        now = datetime.now(UTC)
        # It is closed, and nothing is wrapped under it: what it had wrapped of destroyed keys is all known by now.
        with_it = await self._system.run(
            lambda tx: destructions.destroyed_under(tx, kek.tenant_uid, version=kek.version)
        )
        payload = destruction.payload(
            tenant_id,
            root=self._root(kek.tenant_uid),
            escrow_id=await self._escrow_id(kek.tenant_uid),
            now=now,
            with_it=with_it,
        )
        return _receipt(destruction.id, payload, signer=signer, kek_version=kek.version, now=now)

    async def shred(self, placement: Placement) -> Receipt:
        """Destroy every KEK of a sealed tenant: nothing that its keys have sealed, wherever it lies, opens again.

        Return the receipt of it, which is kept when the tenant is gone, and lists the id and the version of each key
        that went. Of each KEK something was opened before, and does not open since; nor does any of the keys. Nothing
        is destroyed before all of that is written down: whoever is killed in between is followed by one that asks for
        the same. Safe to call again. Lists the vault twice.

        Raises:
            PreconditionError: the tenant is not sealed, so that its keys may be in use.
            RuntimeError: something opens all the same, or a KEK has come meanwhile: call again.
            UnavailableError: the vault or the database is away, or nothing can be signed; what is said to be done is
                done.
        """
        uid = placement.uid
        await self._system.run(lambda tx: destructions.check_sealed(tx, uid))
        signer = await self._platform_keys.attestation_signer()
        shredding = await self._begun_shredding(uid)
        done = await self._system.run(lambda tx: destructions.find_receipt(tx, uid, shredding.id))
        if done is not None:
            return done
        for kek in await self._wrapping.keks_of(uid):
            await self._begun(kek)
        destroyed = await self._system.run(lambda tx: destructions.unproven_destructions(tx, uid))
        for each in destroyed:
            await self._wrapping.destroy_kek(KekRef(tenant_uid=uid, version=each.kek_version))
        await self._check_lost(uid, destroyed)
        now = datetime.now(UTC)
        escrow_id = await self._escrow_id(uid)
        payload = shredding.payload(placement.tenant_id, destroyed, root=self._root(uid), escrow_id=escrow_id, now=now)
        receipt = _receipt(shredding.id, payload, signer=signer, kek_version=0, now=now)

        async def work(tx: SystemTransaction) -> None:
            await keys_store.delete_escrow(tx, uid)
            await destructions.sign_shredding(tx, receipt)
            for each in destroyed:
                await destructions.note_destroyed_kek(tx, uid, version=each.kek_version, now=now)

        await self._system.run(work)
        return await self._system.run(lambda tx: destructions.find_receipt(tx, uid, shredding.id)) or receipt

    async def _escrow_id(self, tenant_uid: UUID) -> UUID | None:
        escrow = await self._system.run(lambda tx: keys_store.escrow_of(tx, tenant_uid))
        return None if escrow is None else escrow.id

    async def _check_lost(self, tenant_uid: UUID, destroyed: Sequence[Destruction]) -> None:
        stored = await self._system.run(lambda tx: keys_store.all_of(tx, tenant_uid))
        opened = [
            f"what version {each.kek_version} of its KEK has wrapped"
            for each in destroyed
            if await self._wrapping.opens(
                KekRef(tenant_uid=tenant_uid, version=each.kek_version), WrappedKey(each.sample)
            )
        ]
        opened += [f"its {key.key_id} key {key.version}" for key in stored if not await self._wrapping.is_lost(key)]
        opened += [kek.title for kek in await self._wrapping.keks_of(tenant_uid)]
        if opened:
            message = f"the keys of tenant {tenant_uid} were destroyed, and there still is: {', '.join(opened)}"
            raise RuntimeError(message)

    async def _begun_shredding(self, tenant_uid: UUID) -> Shredding:
        async def work(tx: SystemTransaction) -> Shredding | None:
            keys = await keys_store.all_of(tx, tenant_uid)
            made = Shredding(id=new_uuid(), tenant_uid=tenant_uid, keys=[_listed(key) for key in keys])
            await destructions.begin_shredding(tx, made, now=datetime.now(UTC))
            return await destructions.begun_shredding(tx, tenant_uid)

        begun = await self._system.run(work)
        if begun is None:
            message = f"the destruction of the keys of tenant {tenant_uid} was begun and is not known"
            raise RuntimeError(message)
        return begun

    def _root(self, tenant_uid: UUID) -> dict[str, str | bool]:
        root = self._root_of_trust(tenant_uid)
        return {
            "hsm_backed": root.hsm_backed,
            "label": root.label,
            "firmware": root.firmware,
            "token": root.token,
            "own_token": root.own_token,
        }

    async def _begun(self, kek: KekRef) -> Destruction:
        begun = await self._find(kek)
        if begun is None:
            sample = await self._wrapping.sample(kek)
            made = _destruction(new_uuid(), kek, sample)
            await self._system.run(lambda tx: destructions.begin_destruction(tx, made, now=datetime.now(UTC)))
            begun = await self._find(kek)
        if begun is None:
            message = f"the destruction of {kek.title} was begun and is not known"
            raise RuntimeError(message)
        return begun

    async def _find(self, kek: KekRef) -> Destruction | None:
        return await self._system.run(
            lambda tx: destructions.begun_destruction(tx, kek.tenant_uid, version=kek.version)
        )


def _listed(key: StoredKey) -> dict[str, JsonValue]:
    return {
        "key": key.key_id,
        "version": key.version,
        "id": str(key.id),
        "algorithm": key.algorithm,
        "kek_version": key.kek_version,
    }


def _receipt(
    receipt_id: UUID, payload: bytes, *, signer: AttestationSigner, kek_version: int, now: datetime
) -> Receipt:
    return Receipt(
        id=receipt_id,
        kek_version=kek_version,
        destroy_time=now,
        payload=payload,
        signature=signer.sign(RECEIPT_TYPE, payload),
        key_id=signer.key_id,
    )


def _destruction(destruction_id: UUID, kek: KekRef, sample: WrappedKey) -> Destruction:
    return Destruction(id=destruction_id, tenant_uid=kek.tenant_uid, kek_version=kek.version, sample=sample)
