"""What the rest of the control plane does with a tenant's keys. No key leaves this module but to be used at once."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterable
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import UUID

from typing_extensions import override

from control_plane.keys import store
from control_plane.keys.algorithms import DEFAULT_AUTHORITY, CertificatePolicy, KeyAlgorithm
from control_plane.keys.authorities import Authorities, Authority, authorities, authority_of
from control_plane.keys.material import (
    AuditSigner,
    Holder,
    TokenKey,
    TokenSigner,
    ed25519_pair,
    new_material,
    token_key_pair,
)
from control_plane.keys.model import BUILT_IN, FIRST_OBJECT_VERSION, KekRef, MissingKeyError, Purpose
from control_plane.keys.named import store as named_store
from control_plane.keys.named.model import NamedKey
from control_plane.keys.named.rsa_pool import RsaPool
from control_plane.keys.opened.cache import KeyCache
from control_plane.keys.opened.opening import KEPT_FOR, OpenKey, OpenKeys
from control_plane.keys.sealing.objects import ObjectSeal, StorageKey
from control_plane.keys.store import StoredKey
from control_plane.keys.vault import KeyVault, RootOfTrust
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.database import Database
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import tenancy
from control_plane.postgres.schemas.tenancy import Login
from control_plane.token_keys import TokenAlgorithm, read_token_key

_FIRST_VERSION: Final = 1
_TOKEN_KEYS: Final = 16_384
_LOGINS: Final = 4096
_LOGIN_LABEL: Final = b"database login 1"


class TenantKeys(OpenKeys):
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
        super().__init__(vault, database)
        self.pool = pool or RsaPool()
        self._wrapping = Wrapping(vault)
        self._token_keys: KeyCache[UUID, TokenKey] = KeyCache(lifetime=KEPT_FOR, capacity=_TOKEN_KEYS)
        self._login_versions: KeyCache[UUID, int] = KeyCache(lifetime=KEPT_FOR, capacity=_LOGINS)

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

    @override
    def forget(self, tenant_uid: UUID) -> None:
        super().forget(tenant_uid)
        self._token_keys.forget(tenant_uid)
        self._login_versions.forget(tenant_uid)

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
            await self.add(placement, Purpose.SERVICES)
            opened = await self._opened(placement.uid, Purpose.SERVICES)
        return StorageKey(version=opened.version, private=opened.material.private)

    async def audit_signer(self, placement: Placement, *, version: int | None = None) -> AuditSigner:
        """Return the key for the audit log, of that version or the newest; IntegrityError where its halves differ."""
        opened = await self._opened(placement.uid, Purpose.AUDIT, version=version)
        if opened.purpose is not Purpose.AUDIT:  # A tenant's own may have had that name before.
            raise MissingKeyError(f"the key for the audit log of tenant {placement.uid}")
        return AuditSigner(version=opened.version, key_id=opened.id, private_key=ed25519_pair(opened.material))

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

    async def authorities(self, placement: Placement) -> Authorities:
        """Return the tenant's own certificate authority: the version that signs, and those that only verify."""
        opened, signing = await self._all_opened(placement.uid, Purpose.AUTHORITY)
        return authorities([authority_of(each.material, version=each.version) for each in opened], signing=signing)

    async def signs(self, placement: Placement, authority: Authority) -> bool:
        """Say whether it is the version that signs, at this very moment: a query each time, and no answer of before."""
        usable = await self._usable(placement.uid, Purpose.AUTHORITY)
        if authority.version == next((each.version for each in usable if each.is_used), None):
            return True
        self.look_again(placement.uid)
        return False

    async def certificate_policy(self, placement: Placement) -> CertificatePolicy:
        """Return what the tenant wants of its certificates, as it is now: a query each time."""
        return await self._system.run(lambda tx: store.certificate_policy(tx, placement.uid))

    async def derive(self, placement: Placement, purpose_label: bytes) -> bytes:
        """Derive 32 secret bytes that only this tenant's key gives; for a label the same, until the key is rotated."""
        return _derived(await self._opened(placement.uid, Purpose.ENROLMENT), purpose_label)

    async def derive_each(self, placement: Placement, purpose_label: bytes) -> list[bytes]:
        """Derive the same with each version of the key that is not retired; first, what `derive` gives."""
        opened, used = await self._all_opened(placement.uid, Purpose.ENROLMENT)
        return [_derived(each, purpose_label) for each in sorted(opened, key=lambda each: each.version != used)]

    async def login(self, placement: Placement) -> Login:
        """Return what the tenant's own database role is to log in with. It is stored nowhere."""
        key = await self._opened(placement.uid, Purpose.ENROLMENT)
        return Login(version=key.version, password=_derived(key, _LOGIN_LABEL).hex())

    async def login_password(self, placement: Placement, *, anew: bool = False) -> str:
        """Return what the tenant's own database role logs in with now: with which version of the key, is noted."""
        if anew:
            self.forget(placement.uid)
        version, since = self._login_versions.get(placement.uid), self._login_versions.epoch
        if version is None:
            version = await self._system.run(lambda tx: tenancy.login_version(tx, placement.uid))
        if version is None:
            return (await self.login(placement)).password
        self._login_versions.put(placement.uid, version, owner=placement.uid, since=since)
        return _derived(await self._opened(placement.uid, Purpose.ENROLMENT, version=version), _LOGIN_LABEL).hex()

    async def add(self, placement: Placement, purpose: Purpose) -> None:
        """Give a tenant from before there were such the first key of a purpose. Needs the rights that `create` does.

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

    async def _stored(self, tenant_uid: UUID) -> list[StoredKey]:
        return await self._system.run(lambda tx: store.enabled(tx, tenant_uid))


def _derived(key: OpenKey, label: bytes) -> bytes:
    return hmac.digest(key.material.private, label, hashlib.sha256)
