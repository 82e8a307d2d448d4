"""What the rest of the control plane does with a tenant's keys. No key leaves this module but to be used at once."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from control_plane.errors import DomainError, UnavailableError
from control_plane.ids import new_uuid
from control_plane.keys import store
from control_plane.keys.algorithms import DEFAULT_AUTHORITY, CertificatePolicy, KeyAlgorithm, SigningKey
from control_plane.keys.cache import Answers, KeyCache
from control_plane.keys.material import Holder, Material, authority_pair, new_material, token_key_pair
from control_plane.keys.model import (
    FIRST_OBJECT_VERSION,
    ROTATED,
    IntegrityError,
    KekRef,
    MissingKeyError,
    Purpose,
    WrappedKey,
)
from control_plane.keys.sealing.objects import ObjectSeal, StorageKey
from control_plane.keys.store import StoredKey
from control_plane.keys.vault import KeyVault, RootOfTrust
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.placement import Placement

_FIRST_VERSION: Final = 1
# What a destroyed or rotated key may still be used for by a process that has not heard of it.
_LIFETIME: Final = timedelta(minutes=5)
# How long another process may go on with the version of before a rotation: this, and what a slow query takes on top.
_NEWEST: Final = timedelta(milliseconds=750)
# By looking, since what is called out (NOTIFY) may be missed.
_SEALS_SEEN_EVERY: Final = timedelta(milliseconds=500)
_OPEN_KEYS: Final = 4096
_TOKEN_KEYS: Final = 16_384
_LOGIN_LABEL: Final = b"database login 1"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSigner:
    """Signs a tenant's tokens."""

    kid: UUID
    private_key: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """Verifies a tenant's tokens: what the key signed speaks for `tenant_uid` and for nobody else."""

    kid: UUID
    tenant_uid: UUID
    public_key: Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A tenant's certificate authority."""

    certificate: x509.Certificate
    private_key: SigningKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenKey:
    id: UUID
    version: int
    material: Material = field(repr=False)


class TenantKeys:
    """The keys of all tenants of a cell. Needs read access to `csm_system.tenant_keys`; `create` and `destroy` more.

    Opened keys are kept for five minutes, a sealed tenant's for a second at most, while `run` runs and the database is
    there. Which version is the newest is asked again each second, and the last answer holds while nobody can tell.
    Every async method raises UnavailableError when the database or the vault is away and the key is not at hand, and
    MissingKeyError for a tenant without keys. Whatever needs a tenant's private key raises TenantSealedError once the
    tenant is sealed; a rotation that was begun before goes on.
    """

    def __init__(self, vault: KeyVault, database: Database) -> None:
        """Keys are made and opened by `vault`, and kept, wrapped, in `database`."""
        self._vault = vault
        self._wrapping = Wrapping(vault)
        self._system = database.system()
        self._open: KeyCache[tuple[UUID, Purpose, int], _OpenKey] = KeyCache(lifetime=_LIFETIME, capacity=_OPEN_KEYS)
        self._newest: Answers[tuple[UUID, Purpose], int] = Answers(
            fresh=_NEWEST, kept=KeyCache(lifetime=_LIFETIME, capacity=_OPEN_KEYS)
        )
        self._token_keys: KeyCache[UUID, TokenKey] = KeyCache(lifetime=_LIFETIME, capacity=_TOKEN_KEYS)

    @property
    def hsm_backed(self) -> bool:
        """Say whether an HSM holds the KEKs."""
        return self._vault.root_of_trust.hsm_backed

    def root_of_trust(self, tenant_uid: UUID) -> RootOfTrust:
        """Say what a tenant's keys rest on."""
        return self._vault.root_of_trust_of(tenant_uid)

    async def create(
        self,
        placement: Placement,
        *,
        now: datetime,
        display_name: str,
        authority_algorithm: KeyAlgorithm = DEFAULT_AUTHORITY,
    ) -> None:
        """Give a new tenant a KEK and a key for each purpose, and open each once to be sure.

        Safe to call again, at once from elsewhere too, and to be killed in: the first keys that were stored stay.
        """
        stored = await self._stored(placement.uid)
        kek = stored[0].kek if stored else KekRef(tenant_uid=placement.uid, version=_FIRST_VERSION)
        if not stored:
            # Never where there are keys already: a lost KEK must be noticed, not replaced by one that opens nothing.
            await self._vault.create_kek(kek)
        holder = Holder(
            tenant_uid=placement.uid,
            display_name=display_name,
            tenant_id=placement.tenant_id,
            authority_algorithm=authority_algorithm,
        )
        missing = [purpose for purpose in Purpose if purpose not in {key.purpose for key in stored}]
        made = []
        for purpose in missing:
            material = await asyncio.to_thread(new_material, purpose, holder=holder, now=now)
            made.append(await self._wrapped(material, purpose=purpose, algorithm=holder.algorithm(purpose), kek=kek))
        if made:
            await self._system.run(lambda tx: store.insert_missing(tx, made))
        for key in await self._stored(placement.uid):
            await self._unwrapped(key)

    async def destroy(self, placement: Placement) -> None:
        """Destroy all keys of a tenant: nothing that they sealed, wherever it lies, opens again. Safe to call again."""
        await self._system.run(lambda tx: store.delete_all(tx, placement.uid))
        for kek in await self._vault.keks():
            if kek.tenant_uid == placement.uid:
                await self._vault.destroy_kek(kek)
        self.forget(placement.uid)

    def forget(self, tenant_uid: UUID) -> None:
        """Drop a tenant's opened keys from this process's memory."""
        self._open.forget(tenant_uid)
        self._newest.forget(tenant_uid)
        self._token_keys.forget(tenant_uid)

    def look_again(self, tenant_uid: UUID) -> None:
        """Have this process find out anew which versions of a tenant's keys are the newest. What is open stays open."""
        self._newest.forget(tenant_uid)

    async def run(self) -> None:
        """Drop what is open of sealed tenants, twice a second, until cancelled: also where nobody calls for them."""
        while True:
            try:
                await self.forget_sealed()
            except DomainError as error:
                _log.warning("seals_unseen", reason=error.code)
            await asyncio.sleep(_SEALS_SEEN_EVERY.total_seconds())

    async def forget_sealed(self) -> None:
        """Drop what is open of sealed tenants. What is being opened at this moment is found the next time."""
        owners = self._open.owners()
        if owners:
            for tenant_uid in await self._system.run(lambda tx: store.sealed(tx, owners)):
                self._open.forget(tenant_uid)

    async def encrypt(
        self, placement: Placement, plaintext: bytes, *, object_name: str, object_version: int = FIRST_OBJECT_VERSION
    ) -> bytes:
        """Seal `plaintext` so that it opens for this tenant, this object and this version of it only."""
        return await self._seal(placement, object_name, object_version).seal(plaintext)

    def encrypt_stream(
        self,
        placement: Placement,
        plaintext: AsyncIterable[bytes],
        *,
        object_name: str,
        object_version: int = FIRST_OBJECT_VERSION,
    ) -> AsyncGenerator[bytes, None]:
        """Do what `encrypt` does to what is too large for it, in bounded memory, as `plaintext` comes."""
        return self._seal(placement, object_name, object_version).seal_stream(plaintext)

    async def decrypt(
        self, placement: Placement, ciphertext: bytes, *, object_name: str, object_version: int = FIRST_OBJECT_VERSION
    ) -> bytes:
        """Open what was sealed for this tenant, this object and this version of it, whole or as a stream.

        Raises:
            IntegrityError: for anything else, always the same, and logs an event.
        """
        return await self._seal(placement, object_name, object_version).open(ciphertext)

    def decrypt_stream(
        self,
        placement: Placement,
        ciphertext: AsyncIterable[bytes],
        *,
        object_name: str,
        object_version: int = FIRST_OBJECT_VERSION,
    ) -> AsyncGenerator[bytes, None]:
        """Do what `decrypt` does as `ciphertext` comes, and give out nothing that is not authenticated.

        Raises:
            IntegrityError: as `decrypt` does, at the latest at the end: what was given out is then a beginning.
        """
        return self._seal(placement, object_name, object_version).open_stream(ciphertext)

    async def services_key(self, placement: Placement, *, version: int | None = None) -> StorageKey:
        """Return the key for services, of that version or the newest; raise MissingKeyError where it is not used.

        A tenant from before there were such keys is given one, which needs the rights that `create` does.
        """
        try:
            opened = await self._opened(placement.uid, Purpose.SERVICES, version=version)
        except MissingKeyError:
            if version is not None:
                raise
            await self._add(placement, Purpose.SERVICES)
            opened = await self._opened(placement.uid, Purpose.SERVICES)
        return StorageKey(version=opened.version, private=opened.material.private)

    async def token_signer(self, placement: Placement) -> TokenSigner:
        """Return the newest key for the tenant's tokens."""
        key = await self._opened(placement.uid, Purpose.TOKENS)
        return TokenSigner(kid=key.id, private_key=token_key_pair(key.material))

    async def token_verifier(self, kid: UUID) -> TokenKey | None:
        """Find the public key for a `kid`, and whose it is; None for an unknown one, which costs a query each time."""
        kept = self._token_keys.get(kid)
        if kept is not None:
            return kept
        since = self._token_keys.epoch
        stored = await self._system.run(lambda tx: store.find_token_key(tx, kid))
        if stored is None or stored.public is None:
            return None
        public_key = Ed25519PublicKey.from_public_bytes(stored.public)
        found = TokenKey(kid=kid, tenant_uid=stored.tenant_uid, public_key=public_key)
        self._token_keys.put(kid, found, owner=stored.tenant_uid, since=since)
        return found

    async def authority(self, placement: Placement) -> Authority:
        """Return the tenant's own certificate authority."""
        key = await self._opened(placement.uid, Purpose.AUTHORITY)
        certificate, private_key = authority_pair(key.material)
        return Authority(certificate=certificate, private_key=private_key)

    async def certificate_policy(self, placement: Placement) -> CertificatePolicy:
        """Return what the tenant wants of its certificates, as it is now: a query each time."""
        return await self._system.run(lambda tx: store.certificate_policy(tx, placement.uid))

    async def derive(self, placement: Placement, purpose_label: bytes) -> bytes:
        """Derive 32 secret bytes, the same ones for the same label, that only this tenant's key gives."""
        key = await self._opened(placement.uid, Purpose.ENROLMENT)
        return hmac.digest(key.material.private, purpose_label, hashlib.sha256)

    async def login_password(self, placement: Placement, *, anew: bool = False) -> str:
        """Return what the tenant's own database role logs in with. It is stored nowhere, and changes with the key."""
        if anew:
            self.forget(placement.uid)
        return (await self.derive(placement, _LOGIN_LABEL)).hex()

    async def _add(self, placement: Placement, purpose: Purpose) -> None:
        """Give a tenant the first key of a purpose, under the KEK that its newest keys are under.

        Raises:
            ConflictError: the KEK, or the escrow, was replaced meanwhile; the same call finds the new one.
        """
        added = await self._wrapping.new_version(
            placement,
            purpose,
            version=_FIRST_VERSION,
            beside=await self._stored(placement.uid),
            escrow=await self._system.run(lambda tx: store.escrow_of(tx, placement.uid)),
            now=datetime.now(UTC),
        )
        await self._system.run(lambda tx: store.insert_missing(tx, [added]))

    def _seal(self, placement: Placement, object_name: str, object_version: int) -> ObjectSeal:
        return ObjectSeal(
            tenant_uid=placement.uid,
            object_name=object_name,
            object_version=object_version,
            key=partial(self._storage_key, placement.uid),
        )

    async def _storage_key(self, tenant_uid: UUID, version: int | None) -> StorageKey:
        opened = await self._opened(tenant_uid, Purpose.STORAGE, version=version)
        return StorageKey(version=opened.version, private=opened.material.private)

    async def _usable(self, tenant_uid: UUID) -> list[StoredKey]:
        """List the keys that may be opened: of a sealed tenant none, whoever asks."""

        async def read(tx: SystemTransaction) -> list[StoredKey]:
            await store.check_unsealed(tx, tenant_uid)
            return await store.enabled(tx, tenant_uid)

        return await self._system.run(read)

    async def _stored(self, tenant_uid: UUID) -> list[StoredKey]:
        return await self._system.run(lambda tx: store.enabled(tx, tenant_uid))

    async def _opened(self, tenant_uid: UUID, purpose: Purpose, *, version: int | None = None) -> _OpenKey:
        """Open the key of that version, or the newest that is used."""
        known = self._newest.get if purpose in ROTATED else self._newest.last
        wanted = version or known((tenant_uid, purpose))
        kept = self._open.get((tenant_uid, purpose, wanted)) if wanted else None
        if kept is not None:
            return kept
        try:
            return await self._found(tenant_uid, purpose, version=version)
        except UnavailableError:
            last = None if version else self._newest.last((tenant_uid, purpose))
            kept = self._open.get((tenant_uid, purpose, last)) if last else None
            if kept is None:
                raise
            return kept

    async def _found(self, tenant_uid: UUID, purpose: Purpose, *, version: int | None) -> _OpenKey:
        since, asked = self._open.epoch, self._newest.epoch
        stored = await self._chosen(tenant_uid, purpose, version=version)
        opened = self._open.get((tenant_uid, purpose, stored.version))
        if opened is None:
            try:
                opened = await self._unwrapped(stored)
            except MissingKeyError:
                # Its KEK may have been replaced since the row was read.
                again = await self._chosen(tenant_uid, purpose, version=version)
                if again.kek == stored.kek:
                    raise
                opened = await self._unwrapped(again)
            self._open.put((tenant_uid, purpose, opened.version), opened, owner=tenant_uid, since=since)
        if version is None:
            self._newest.put((tenant_uid, purpose), opened.version, owner=tenant_uid, since=asked)
        return opened

    async def _chosen(self, tenant_uid: UUID, purpose: Purpose, *, version: int | None) -> StoredKey:
        for stored in await self._usable(tenant_uid):
            if stored.purpose is purpose and (stored.is_used if version is None else stored.version == version):
                return stored
        raise MissingKeyError(f"{purpose} key {version or ''} of tenant {tenant_uid}")

    async def _wrapped(self, material: Material, *, purpose: Purpose, algorithm: str, kek: KekRef) -> StoredKey:
        unwrapped = StoredKey(
            id=new_uuid(),
            tenant_uid=kek.tenant_uid,
            purpose=purpose,
            version=_FIRST_VERSION,
            algorithm=algorithm,
            kek_version=kek.version,
            public=material.public,
            wrapped=WrappedKey(b""),
        )
        wrapped = await self._vault.wrap(kek, material.private, aad=unwrapped.binding.aad())
        return replace(unwrapped, wrapped=wrapped)

    async def _unwrapped(self, stored: StoredKey) -> _OpenKey:
        try:
            private = await self._vault.unwrap(stored.kek, stored.wrapped, aad=stored.binding.aad())
        except IntegrityError:
            # Someone has changed, or moved, what is in the database.
            _log.error("wrapped_key_refused", tenant_uid=str(stored.tenant_uid), purpose=stored.purpose.value)
            raise
        return _OpenKey(id=stored.id, version=stored.version, material=Material(private=private, public=stored.public))
