"""What the rest of the control plane does with a tenant's keys. No key leaves this module but to be used at once."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from control_plane.errors import DomainError, UnavailableError
from control_plane.keys import store
from control_plane.keys.algorithms import DEFAULT_AUTHORITY, CertificatePolicy, KeyAlgorithm
from control_plane.keys.cache import Answers, KeyCache
from control_plane.keys.material import (
    Authority,
    Holder,
    Material,
    TokenKey,
    TokenSigner,
    authority_pair,
    new_material,
    token_key_pair,
)
from control_plane.keys.model import (
    BUILT_IN,
    FIRST_OBJECT_VERSION,
    NEVER_ROTATED,
    IntegrityError,
    KekRef,
    MissingKeyError,
    Purpose,
)
from control_plane.keys.named import store as named_store
from control_plane.keys.named.model import NamedKey
from control_plane.keys.named.rsa_pool import RsaPool
from control_plane.keys.sealing.objects import ObjectSeal, StorageKey
from control_plane.keys.store import StoredKey
from control_plane.keys.vault import KeyVault, RootOfTrust
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.placement import Placement
from control_plane.token_keys import TokenAlgorithm, read_token_key

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
class _OpenKey:
    id: UUID
    version: int
    material: Material = field(repr=False)


class TenantKeys:
    """The keys of all tenants of a cell. Needs read access to `csm_system.tenant_keys`; `create` and `destroy` more.

    Opened keys are kept for five minutes, a sealed tenant's and retired ones for a second at most, while `run` runs and
    the database is there. Which version is the newest is asked again each second, and the last answer holds while
    nobody can tell. Every async method raises UnavailableError when the database or the vault is away and the key is
    not at hand, MissingKeyError for a tenant without keys, and KeyRetiredError for a version that was retired. Whatever
    needs a tenant's private key raises TenantSealedError once the tenant is sealed; a rotation that was begun before
    goes on.
    """

    def __init__(self, vault: KeyVault, database: Database, *, pool: RsaPool | None = None) -> None:
        """Keys are made and opened by `vault`, and kept, wrapped, in `database`; RSA keys come from `pool`."""
        self.pool = pool or RsaPool()
        self._vault = vault
        self._wrapping = Wrapping(vault)
        self._system = database.system()
        self._open: KeyCache[tuple[UUID, str, int], _OpenKey] = KeyCache(lifetime=_LIFETIME, capacity=_OPEN_KEYS)
        self._newest: Answers[tuple[UUID, str], int] = Answers(
            fresh=_NEWEST, kept=KeyCache(lifetime=_LIFETIME, capacity=_OPEN_KEYS)
        )
        self._token_keys: KeyCache[UUID, TokenKey] = KeyCache(lifetime=_LIFETIME, capacity=_TOKEN_KEYS)

    @property
    def hsm_backed(self) -> bool:
        """Say whether an HSM holds the KEKs."""
        return self._vault.root_of_trust.hsm_backed

    @property
    def offers_own_tokens(self) -> bool:
        """Say whether a tenant may have a token of the vault to itself."""
        return self._vault.offers_own_tokens

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
        token_algorithm: TokenAlgorithm = TokenAlgorithm.EDDSA,
        own_token: bool = False,
    ) -> None:
        """Give a new tenant a KEK, in a token of its own if so, and a key for each purpose; open each once to be sure.

        Safe to call again, at once from elsewhere too, and to be killed in: the first keys that were stored stay.
        """
        stored = await self._stored(placement.uid)
        kek = stored[0].kek if stored else KekRef(tenant_uid=placement.uid, version=_FIRST_VERSION)
        if not stored:
            # Never where there are keys already: a lost KEK must be noticed, not replaced by one that opens nothing.
            await self._vault.create_kek(kek, own_token=own_token)
        holder = Holder(
            tenant_uid=placement.uid,
            display_name=display_name,
            tenant_id=placement.tenant_id,
            authority_algorithm=authority_algorithm,
            token_algorithm=token_algorithm,
        )
        missing = [purpose for purpose in BUILT_IN if purpose not in {key.purpose for key in stored}]
        made = []
        for purpose in missing:
            material = await asyncio.to_thread(new_material, purpose, holder=holder, now=now, make=self.pool.take)
            made.append(await self._wrapping.first_version(material, purpose, holder=holder, kek=kek))
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
        """Drop what must not be used any more, twice a second, until cancelled: also where nobody calls for it."""
        while True:
            try:
                await self.forget_unusable()
            except DomainError as error:
                _log.warning("seals_unseen", reason=error.code)
            await asyncio.sleep(_SEALS_SEEN_EVERY.total_seconds())

    async def forget_unusable(self) -> None:
        """Drop what is open of sealed tenants, or retired. What is just being opened is found the next time."""
        owners = self._open.owners()
        if owners:
            for tenant_uid in await self._system.run(lambda tx: store.sealed(tx, owners)):
                self._open.forget(tenant_uid)
            for key in await self._system.run(lambda tx: store.retired(tx, owners)):
                if key in self._open:
                    self._open.forget(key[0])

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

    def reseal_stream(
        self, placement: Placement, ciphertext: AsyncIterable[bytes], *, object_name: str, object_version: int
    ) -> AsyncGenerator[bytes, None]:
        """Seal anew under the newest key, as `ciphertext` comes. Raises like `decrypt_stream`."""
        return self._seal(placement, object_name, object_version).reseal_stream(ciphertext)

    async def storage_version(self, placement: Placement) -> int:
        """Say which version of the key seals what is new, as far as this process knows."""
        return (await self._opened(placement.uid, Purpose.STORAGE)).version

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

    async def named_key(self, placement: Placement, key_id: str, *, version: int | None = None) -> StorageKey:
        """Return a key of the tenant's own, as `services_key` does. Whether it may be used now is not asked here."""
        opened = await self._opened(placement.uid, key_id, version=version)
        return StorageKey(version=opened.version, private=opened.material.private)

    async def named(self, placement: Placement, key_id: str) -> NamedKey | None:
        """Say how a key of the tenant's own is just now; None where there is none of that name. A query each time."""
        return await self._system.run(lambda tx: named_store.find(tx, placement.uid, key_id))

    async def public_halves(self, placement: Placement, key_id: str) -> dict[int, bytes]:
        """Return the public halves of a key of the tenant's own, by version, the newest first. A query each time."""
        stored = await self._system.run(lambda tx: store.enabled_of(tx, placement.uid, key_id))
        return {each.version: each.public for each in stored if each.public is not None}

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
        found = TokenKey(kid=kid, tenant_uid=stored.tenant_uid, public_key=read_token_key(stored.public))
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
            beside=await self._system.run(lambda tx: store.siblings(tx, placement.uid)),
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

    async def _usable(self, tenant_uid: UUID, key_id: str) -> list[StoredKey]:
        """List the versions of a key that may be opened: of a sealed tenant none, whoever asks."""

        async def read(tx: SystemTransaction) -> list[StoredKey]:
            await store.check_unsealed(tx, tenant_uid)
            return await store.enabled_of(tx, tenant_uid, key_id)

        return await self._system.run(read)

    async def _stored(self, tenant_uid: UUID) -> list[StoredKey]:
        return await self._system.run(lambda tx: store.enabled(tx, tenant_uid))

    async def _opened(self, tenant_uid: UUID, key_id: str, *, version: int | None = None) -> _OpenKey:
        """Open the key of that version, or the newest that is used."""
        known = self._newest.get if key_id not in NEVER_ROTATED else self._newest.last
        wanted = version or known((tenant_uid, key_id))
        kept = self._open.get((tenant_uid, key_id, wanted)) if wanted else None
        if kept is not None:
            return kept
        try:
            return await self._found(tenant_uid, key_id, version=version)
        except UnavailableError:
            last = None if version else self._newest.last((tenant_uid, key_id))
            kept = self._open.get((tenant_uid, key_id, last)) if last else None
            if kept is None:
                raise
            return kept

    async def _found(self, tenant_uid: UUID, key_id: str, *, version: int | None) -> _OpenKey:
        since, asked = self._open.epoch, self._newest.epoch
        stored = await self._chosen(tenant_uid, key_id, version=version)
        opened = self._open.get((tenant_uid, key_id, stored.version))
        if opened is None:
            try:
                opened = await self._unwrapped(stored)
            except MissingKeyError:
                # Its KEK may have been replaced since the row was read.
                again = await self._chosen(tenant_uid, key_id, version=version)
                if again.kek == stored.kek:
                    raise
                opened = await self._unwrapped(again)
            self._open.put((tenant_uid, key_id, opened.version), opened, owner=tenant_uid, since=since)
        if version is None:
            self._newest.put((tenant_uid, key_id), opened.version, owner=tenant_uid, since=asked)
        return opened

    async def _chosen(self, tenant_uid: UUID, key_id: str, *, version: int | None) -> StoredKey:
        for stored in await self._usable(tenant_uid, key_id):
            if stored.is_used if version is None else stored.version == version:
                return stored
        if version is not None:
            await self._system.run(lambda tx: store.check_enabled(tx, tenant_uid, key_id=key_id, version=version))
        raise MissingKeyError(f"{key_id} key {version or ''} of tenant {tenant_uid}")

    async def _unwrapped(self, stored: StoredKey) -> _OpenKey:
        try:
            private = await self._vault.unwrap(stored.kek, stored.wrapped, aad=stored.binding.aad())
        except IntegrityError:
            # Someone has changed, or moved, what is in the database.
            _log.error("wrapped_key_refused", tenant_uid=str(stored.tenant_uid), purpose=stored.purpose.value)
            raise
        return _OpenKey(id=stored.id, version=stored.version, material=Material(private=private, public=stored.public))
