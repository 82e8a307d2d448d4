"""New versions and new KEKs for tenants' keys: what is done in the vault. No key leaves here; nothing is stored."""

import asyncio
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from control_plane.ids import new_uuid
from control_plane.keys.algorithms import STORED_AS
from control_plane.keys.authorities import next_authority
from control_plane.keys.escrow import Copy, EscrowKey, check, check_voucher, copied, opened, root_check, voucher
from control_plane.keys.material import Holder, Material, check_public_half, new_material
from control_plane.keys.model import KEY_BYTES, IntegrityError, KekRef, MissingKeyError, Purpose, WrappedKey
from control_plane.keys.named.imports import Import, check_pair
from control_plane.keys.named.material import check_signing_pair
from control_plane.keys.named.model import NamedKey
from control_plane.keys.store import Siblings, StoredKey
from control_plane.keys.vault import KeyVault
from control_plane.postgres.placement import Placement
from control_plane.recipients import hpke
from control_plane.token_keys import TokenAlgorithm

_FIRST_VERSION: Final = 1
_SAMPLE: Final = b"bulkhead/destruction sample/1"


class Wrapping:
    """Makes keys, and wraps them, anew. Every method raises UnavailableError when the vault is away."""

    def __init__(self, vault: KeyVault) -> None:
        """Do it in `vault`."""
        self._vault = vault

    async def new_version(
        self,
        placement: Placement,
        purpose: Purpose,
        *,
        version: int,
        beside: Siblings,
        now: datetime,
        token_algorithm: TokenAlgorithm = TokenAlgorithm.EDDSA,
    ) -> StoredKey:
        """Make a version of a key, under the KEK of the keys that are there, and open it once to be sure.

        Where the tenant's keys are in escrow, it comes with its copy for that.

        Raises:
            MissingKeyError: there are none.
        """
        kek = _newest_kek(beside, title=f"{purpose} key of tenant {placement.uid}")
        holder = Holder(
            tenant_uid=placement.uid,
            display_name=placement.tenant_id,
            tenant_id=placement.tenant_id,
            token_algorithm=token_algorithm,
        )
        material = new_material(purpose, holder=holder, now=now)
        made = _unwrapped(material, purpose, holder=holder, kek=kek, version=version)
        return await self._with_copy(await self._wrapped(made, material.private), material.private, beside=beside)

    async def next_authority(
        self, placement: Placement, before: StoredKey, *, version: int, beside: Siblings, now: datetime
    ) -> StoredKey:
        """Make the version of a tenant's authority that takes the place of `before`, as `new_version` does."""
        title = f"{Purpose.AUTHORITY} key of tenant {placement.uid}"
        old = Material(private=await self.opened(before), public=before.public)
        material, algorithm = await asyncio.to_thread(next_authority, old, now=now)
        unwrapped = StoredKey(
            id=new_uuid(),
            tenant_uid=placement.uid,
            purpose=Purpose.AUTHORITY,
            version=version,
            algorithm=STORED_AS[algorithm],
            kek_version=_newest_kek(beside, title=title).version,
            public=material.public,
            wrapped=WrappedKey(b""),
            cross=material.cross,
        )
        made = await self._wrapped(unwrapped, material.private)
        return await self._with_copy(made, material.private, beside=beside)

    async def first_version(self, material: Material, purpose: Purpose, *, holder: Holder, kek: KekRef) -> StoredKey:
        """Wrap the first version of a new tenant's key, as `new_version` does."""
        made = _unwrapped(material, purpose, holder=holder, kek=kek, version=_FIRST_VERSION)
        return await self._wrapped(made, material.private)

    async def named_version(self, key: NamedKey, material: Material, *, version: int, beside: Siblings) -> StoredKey:
        """Wrap a version of a key of a tenant's own, as `new_version` does."""
        made = await self._wrapped(_row(key, material, version=version, beside=beside), material.private)
        return await self._with_copy(made, material.private, beside=beside)

    async def import_key(self, key_import: Import, material: Material, *, beside: Siblings) -> StoredKey:
        """Wrap what a key may be brought along under, as `new_version` does."""
        title = f"import {key_import.id} of tenant {key_import.tenant_uid}"
        unwrapped = StoredKey(
            id=key_import.id,
            tenant_uid=key_import.tenant_uid,
            purpose=Purpose.IMPORT,
            version=1,
            algorithm=key_import.method,
            kek_version=_newest_kek(beside, title=title).version,
            public=material.public,
            wrapped=WrappedKey(b""),
            named=key_import.stored_as,
        )
        made = await self._wrapped(unwrapped, material.private)
        return await self._with_copy(made, material.private, beside=beside)

    async def check_escrow(self, stored: Sequence[StoredKey], escrow: EscrowKey) -> bytes:
        """Return the key that copies are checked by, if it vouches for the escrow.

        Raises:
            IntegrityError: somebody has changed the escrow.
            MissingKeyError: the KEK is not there, or the check key.
        """
        check_key = await self.opened(_check_key(stored, escrow.check_key_id))
        check_voucher(escrow, check_key=check_key)
        return check_key

    async def escrowed(
        self, stored: Sequence[StoredKey], key: hpke.PrivateKey, *, escrow: EscrowKey
    ) -> tuple[EscrowKey, list[StoredKey], bytes]:
        """Vouch for a new escrow; return it, all of the tenant's keys with their copies, and what tells the check key.

        Unwraps each. `key` is the escrow's private key.

        Raises:
            IntegrityError: what is stored does not open.
            MissingKeyError: the KEK is not there, or the check key.
        """
        check_key = await self.opened(_check_key(stored, escrow.check_key_id))
        vouched = replace(escrow, voucher=voucher(escrow, check_key=check_key))
        copies = []
        for one in stored:
            copy = copied(vouched, one.binding, await self.opened(one), check_key=check_key)
            copies.append(replace(one, copy=copy))
        return vouched, copies, root_check(key, check_key)

    async def restored(
        self, stored: Sequence[StoredKey], key: hpke.PrivateKey, *, escrow: EscrowKey, root: bytes, kek: KekRef
    ) -> list[StoredKey]:
        """Return keys that come with their copies wrapped under another KEK of their tenant, each found to be ours.

        `key` opens the copies, and knows by `root` which check key is the right one, and that vouches for the escrow.
        What they are wrapped under now is not needed.

        Raises:
            IntegrityError: a copy does not open, is not one that we made, or is of another key than its public half; or
                the escrow was changed.
            MissingKeyError: a key has no copy.
        """
        private = {one.id: _opened_copy(one, key) for one in stored}
        check_key = private[_check_key(stored, escrow.check_key_id).id]
        if not hmac.compare_digest(root_check(key, check_key), root):
            raise IntegrityError("a copy in escrow")
        check_voucher(escrow, check_key=check_key)
        for one in stored:
            check(_copy_of(one), one.binding, private[one.id], check_key=check_key)
            _check_public_half(one, private[one.id])
        return [await self._wrapped(replace(one, kek_version=kek.version), private[one.id]) for one in stored]

    async def sealed_session(self, kek: KekRef, seed: bytes, *, aad: bytes) -> WrappedKey:
        """Wrap the private half of a recovery's session under the KEK that the keys will be under."""
        return await self._vault.wrap(kek, seed, aad=aad)

    async def session(self, kek: KekRef, wrapped: WrappedKey, *, aad: bytes) -> hpke.PrivateKey:
        """Return a session's key pair; raise IntegrityError where what is stored is not what we wrapped."""
        return hpke.PrivateKey(seed=await self._vault.unwrap(kek, wrapped, aad=aad))

    async def opened(self, stored: StoredKey) -> bytes:
        """Open a key that is stored. Raises IntegrityError and MissingKeyError."""
        return await self._vault.unwrap(stored.kek, stored.wrapped, aad=stored.binding.aad())

    async def create_kek(self, kek: KekRef) -> None:
        """Make a KEK, unless it is there. Nothing is wrapped under it yet."""
        await self._vault.create_kek(kek)

    async def rewrapped(self, stored: StoredKey, *, kek: KekRef) -> StoredKey:
        """Return the key wrapped under another KEK of its tenant. Unwraps twice, and wraps once.

        It was opened under the new KEK and found to be the same: who destroys the old one cannot come back.

        Raises:
            IntegrityError: what is stored, or what came of it, does not open.
        """
        private = await self.opened(stored)
        return await self._wrapped(replace(stored, kek_version=kek.version), private)

    async def sample(self, kek: KekRef) -> WrappedKey:
        """Wrap something random under a KEK, and open it, to show later that it does not open any more."""
        sample = await self._vault.wrap(kek, secrets.token_bytes(KEY_BYTES), aad=_SAMPLE)
        await self._vault.unwrap(kek, sample, aad=_SAMPLE)
        return sample

    async def opens(self, kek: KekRef, sample: WrappedKey) -> bool:
        """Say whether a sample opens: no, where there is no such KEK any more. Else raises IntegrityError."""
        try:
            await self._vault.unwrap(kek, sample, aad=_SAMPLE)
        except MissingKeyError:
            return False
        return True

    async def is_lost(self, stored: StoredKey) -> bool:
        """Say whether a key does not open any more: yes, where its KEK is gone. Else raises IntegrityError."""
        try:
            await self._vault.unwrap(stored.kek, stored.wrapped, aad=stored.binding.aad())
        except MissingKeyError:
            return True
        return False

    async def keks_of(self, tenant_uid: UUID) -> list[KekRef]:
        """List the KEKs of a tenant that there are. Costs time linear in all tenants'."""
        return [kek for kek in await self._vault.keks() if kek.tenant_uid == tenant_uid]

    async def destroy_kek(self, kek: KekRef) -> None:
        """Destroy a KEK: what is wrapped under it is lost for good. Safe to call again."""
        await self._vault.destroy_kek(kek)

    async def _with_copy(self, made: StoredKey, private: bytes, *, beside: Siblings) -> StoredKey:
        if beside.escrow is None:
            return made
        check_key = await self.check_escrow(beside.keys, beside.escrow)
        return replace(made, copy=copied(beside.escrow, made.binding, private, check_key=check_key))

    async def _wrapped(self, key: StoredKey, private: bytes) -> StoredKey:
        wrapped = await self._vault.wrap(key.kek, private, aad=key.binding.aad())
        opened = await self._vault.unwrap(key.kek, wrapped, aad=key.binding.aad())
        if not hmac.compare_digest(opened, private):
            raise IntegrityError("a key that was wrapped anew")
        return replace(key, wrapped=wrapped)


def _unwrapped(material: Material, purpose: Purpose, *, holder: Holder, kek: KekRef, version: int) -> StoredKey:
    return StoredKey(
        id=new_uuid(),
        tenant_uid=holder.tenant_uid,
        purpose=purpose,
        version=version,
        algorithm=holder.algorithm(purpose),
        kek_version=kek.version,
        public=material.public,
        wrapped=WrappedKey(b""),
    )


def _check_public_half(key: StoredKey, private: bytes) -> None:
    material = Material(private=private, public=key.public)
    match key.purpose:
        case Purpose.IMPORT:
            check_pair(material)
        case Purpose.SIGNING:
            check_signing_pair(material)
        case _:
            check_public_half(key.purpose, material)


def _newest_kek(beside: Siblings, *, title: str) -> KekRef:
    """Return the KEK that a new key goes under: the newest that the tenant's keys are under."""
    if not beside.keys:
        raise MissingKeyError(title)
    return max(key.kek for key in beside.keys)


def _row(key: NamedKey, material: Material, *, version: int, beside: Siblings) -> StoredKey:
    return StoredKey(
        id=new_uuid(),
        tenant_uid=key.tenant_uid,
        purpose=key.kind.purpose,
        version=version,
        algorithm=key.kind.algorithm,
        kek_version=_newest_kek(beside, title=f"{key.key_id} key of tenant {key.tenant_uid}").version,
        public=material.public,
        wrapped=WrappedKey(b""),
        named=key.key_id,
    )


def _check_key(keys: Sequence[StoredKey], key_id: UUID) -> StoredKey:
    for key in keys:
        if key.id == key_id:
            return key
    raise MissingKeyError(f"the key {key_id}, which copies in escrow are checked by,")


def _copy_of(key: StoredKey) -> Copy:
    if key.copy is None:
        raise MissingKeyError(f"the copy in escrow of {key.purpose} key {key.version} of tenant {key.tenant_uid}")
    return key.copy


def _opened_copy(key: StoredKey, private: hpke.PrivateKey) -> bytes:
    return opened(_copy_of(key), key.binding, key=private)
