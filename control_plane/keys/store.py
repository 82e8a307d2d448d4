"""Wrapped keys: of tenants, and of the platform. Nothing here is secret: what is wrapped, only the vault opens."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from control_plane.errors import ConflictError, KeyRetiredError, TenantSealedError
from control_plane.keys.algorithms import CertificatePolicy, KeyAlgorithm, PostQuantum
from control_plane.keys.escrow import Copy, EscrowKey
from control_plane.keys.model import Binding, KekRef, MissingKeyError, Purpose, WrappedKey
from control_plane.postgres.database import SystemTransaction
from control_plane.token_keys import TokenAlgorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A row: one version of one of a tenant's keys."""

    id: UUID
    """Names the key to the outside: the `kid` of tokens."""
    tenant_uid: UUID
    purpose: Purpose
    version: int
    algorithm: str
    kek_version: int
    public: bytes | None = field(repr=False)
    wrapped: WrappedKey = field(repr=False)
    is_used: bool = True
    """Whether it is for what is new, too, unless there is a newer one; else it was published only."""
    named: str = ""
    """What its tenant calls it, where the tenant has made it; empty for what every tenant has."""
    cross: bytes | None = field(default=None, repr=False)
    """Of an authority: see `Material`. Only where its versions are read."""
    copy: Copy | None = field(default=None, repr=False)
    """For the tenant's escrow: of a new key, or where copies were asked for."""

    @property
    def key_id(self) -> str:
        """What it is called within its tenant."""
        return self.named or self.purpose.value

    @property
    def kek(self) -> KekRef:
        """Name the KEK that it is wrapped under."""
        return KekRef(tenant_uid=self.tenant_uid, version=self.kek_version)

    @property
    def binding(self) -> Binding:
        """Say what the wrapped key is bound to: moved to another row, or under another algorithm, it does not open."""
        return Binding(
            tenant_uid=self.tenant_uid,
            purpose=f"key/{self.purpose}/{self.algorithm}" + (f"/{self.named}" if self.named else ""),
            version=self.version,
            object_name=str(self.id),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Siblings:
    """The keys that a tenant has, whatever their state, and what each new one is copied for."""

    keys: Sequence[StoredKey]
    escrow: EscrowKey | None
    """None where the tenant's keys are in no escrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformKey:
    """A row of `csm_system.platform_keys`: one version of a key of the platform's own."""

    id: UUID
    purpose: str
    version: int
    algorithm: str
    kek_version: int
    public: bytes = field(repr=False)
    wrapped: WrappedKey = field(repr=False)
    create_time: datetime


async def enabled(tx: SystemTransaction, tenant_uid: UUID) -> list[StoredKey]:
    """List a tenant's keys that may be used, the newest version of each first."""
    rows = await tx.fetch_all(
        """
        SELECT id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public,
               use_time IS NOT NULL AS is_used
          FROM csm_system.tenant_keys
         WHERE tenant_uid = %(tenant_uid)s AND state = 'ENABLED'
         ORDER BY key_id, version DESC
        """,
        {"tenant_uid": tenant_uid},
    )
    return [_stored_key(row) for row in rows]


async def enabled_of(tx: SystemTransaction, tenant_uid: UUID, key_id: str) -> list[StoredKey]:
    """List the versions of one key that may be used, the newest first."""
    rows = await tx.fetch_all(
        """
        SELECT id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public,
               cross_certificate AS cross, use_time IS NOT NULL AS is_used
          FROM csm_system.tenant_keys
         WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s AND state = 'ENABLED'
         ORDER BY version DESC
        """,
        {"tenant_uid": tenant_uid, "key_id": key_id},
    )
    return [_stored_key(row) for row in rows]


async def check_unsealed(tx: SystemTransaction, tenant_uid: UUID) -> None:
    """Raise TenantSealedError when the tenant is sealed."""
    row = await tx.fetch_one(
        "SELECT id FROM csm_system.tenants WHERE uid = %(uid)s AND state = 'SEALED'", {"uid": tenant_uid}
    )
    if row is not None:
        raise TenantSealedError(f"tenants/{row['id']}")


async def sealed(tx: SystemTransaction, tenant_uids: Collection[UUID]) -> list[UUID]:
    """Tell which of these tenants are sealed."""
    rows = await tx.fetch_all(
        "SELECT uid FROM csm_system.tenants WHERE state = 'SEALED' AND uid = ANY (%(uids)s)",
        {"uids": list(tenant_uids)},
    )
    return [row["uid"] for row in rows]


async def retired(tx: SystemTransaction, tenant_uids: Collection[UUID]) -> list[tuple[UUID, Purpose, int]]:
    """Tell which versions of these tenants' keys are not used any more."""
    rows = await tx.fetch_all(
        """
        SELECT tenant_uid, purpose, version FROM csm_system.tenant_keys
         WHERE state <> 'ENABLED' AND tenant_uid = ANY (%(uids)s)
        """,
        {"uids": list(tenant_uids)},
    )
    return [(row["tenant_uid"], Purpose(row["purpose"]), row["version"]) for row in rows]


async def check_enabled(tx: SystemTransaction, tenant_uid: UUID, *, key_id: str, version: int) -> None:
    """Raise KeyRetiredError when there is such a version, and it is not used any more."""
    row = await tx.fetch_one(
        """
        SELECT t.id FROM csm_system.tenant_keys AS k JOIN csm_system.tenants AS t ON t.uid = k.tenant_uid
         WHERE k.tenant_uid = %(uid)s AND k.key_id = %(key_id)s AND k.version = %(version)s AND k.state <> 'ENABLED'
        """,
        {"uid": tenant_uid, "key_id": key_id, "version": version},
    )
    if row is not None:
        raise KeyRetiredError(f"tenants/{row['id']}/keys/{key_id}/versions/{version}")


async def find_token_key(tx: SystemTransaction, kid: UUID) -> StoredKey | None:
    """Find a key for tokens by its id, whichever tenant it belongs to."""
    row = await tx.fetch_one(
        """
        SELECT id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public
          FROM csm_system.tenant_keys
         WHERE id = %(kid)s AND purpose = %(purpose)s AND state = 'ENABLED'
        """,
        {"kid": kid, "purpose": Purpose.TOKENS.value},
    )
    return None if row is None else _stored_key(row)


async def certificate_policy(tx: SystemTransaction, tenant_uid: UUID) -> CertificatePolicy:
    """Read what a tenant wants of its certificates; raise MissingKeyError where there is no such tenant."""
    row = await tx.fetch_one(
        """
        SELECT authority_algorithm, key_algorithms, post_quantum FROM csm_system.tenants WHERE uid = %(tenant_uid)s
        """,
        {"tenant_uid": tenant_uid},
    )
    if row is None:
        raise MissingKeyError(f"the certificate policy of tenant {tenant_uid}")
    return read_certificate_policy(row)


async def token_algorithm(tx: SystemTransaction, tenant_uid: UUID) -> TokenAlgorithm:
    """Read what the next key for a tenant's tokens is to sign with; raise MissingKeyError like the above."""
    row = await tx.fetch_one(
        "SELECT token_algorithm FROM csm_system.tenants WHERE uid = %(tenant_uid)s", {"tenant_uid": tenant_uid}
    )
    if row is None:
        raise MissingKeyError(f"the algorithm of tokens of tenant {tenant_uid}")
    return TokenAlgorithm(row["token_algorithm"])


def read_certificate_policy(row: Mapping[str, Any]) -> CertificatePolicy:
    """Read it out of a row of the registry."""
    return CertificatePolicy(
        authority=KeyAlgorithm(row["authority_algorithm"]),
        keys=frozenset(map(KeyAlgorithm, row["key_algorithms"])),
        post_quantum=PostQuantum(row["post_quantum"]),
    )


async def all_of(tx: SystemTransaction, tenant_uid: UUID) -> list[StoredKey]:
    """List all of a tenant's keys, whatever their state."""
    rows = await tx.fetch_all(
        """
        SELECT id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public,
               use_time IS NOT NULL AS is_used
          FROM csm_system.tenant_keys WHERE tenant_uid = %(tenant_uid)s ORDER BY key_id, version DESC
        """,
        {"tenant_uid": tenant_uid},
    )
    return [_stored_key(row) for row in rows]


async def siblings(tx: SystemTransaction, tenant_uid: UUID) -> Siblings:
    """Return what a new key of a tenant's comes beside."""
    return Siblings(keys=await all_of(tx, tenant_uid), escrow=await escrow_of(tx, tenant_uid))


async def insert_missing(tx: SystemTransaction, keys: Iterable[StoredKey]) -> int:
    """Insert each key, unless its tenant has one of that name and version already: the first stays.

    Return how many were inserted.

    Raises:
        ConflictError: the KEK that it is wrapped under has been replaced, or its copy is not for the tenant's escrow.
    """
    inserted = 0
    for key in keys:
        await note_kek(tx, key.kek)
        await _hold_open(tx, key.kek)
        # After that: whoever enables an escrow holds the KEKs, and all keys that are stored before are copied by them.
        await _check_escrowed(tx, key)
        found = await tx.execute(
            """
            INSERT INTO csm_system.tenant_keys
                   (id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public,
                    cross_certificate, state, use_time)
            VALUES (%(id)s, %(tenant_uid)s, %(purpose)s, %(key_id)s, %(version)s, %(algorithm)s, %(kek_version)s,
                    %(wrapped)s, %(public)s, %(cross)s, 'ENABLED', CASE WHEN %(is_used)s THEN now() END)
            ON CONFLICT ON CONSTRAINT tenant_keys_version_key DO NOTHING
            """,
            {
                "id": key.id,
                "tenant_uid": key.tenant_uid,
                "purpose": key.purpose.value,
                "key_id": key.key_id,
                "version": key.version,
                "algorithm": key.algorithm,
                "kek_version": key.kek_version,
                "wrapped": key.wrapped,
                "public": key.public,
                "cross": key.cross,
                "is_used": key.is_used,
            },
        )
        if found and key.copy is not None:
            await insert_copy(tx, key, key.copy)
        inserted += found
    return inserted


async def escrow_of(tx: SystemTransaction, tenant_uid: UUID) -> EscrowKey | None:
    """Return what a tenant's new keys have to be copied for; None where they are in no escrow."""
    row = await tx.fetch_one(
        """
        SELECT id, public, terms_digest, check_key_id, voucher FROM csm_system.tenant_escrows
         WHERE tenant_uid = %(tenant_uid)s
        """,
        {"tenant_uid": tenant_uid},
    )
    return None if row is None else EscrowKey(**row)


async def insert_copy(tx: SystemTransaction, key: StoredKey, copy: Copy) -> None:
    """Insert the copy of a key that is stored."""
    await tx.execute(
        """
        INSERT INTO csm_system.escrow_copies (key_id, tenant_uid, escrow_id, sealed, check_value)
        VALUES (%(key_id)s, %(tenant_uid)s, %(escrow_id)s, %(sealed)s, %(check_value)s)
        """,
        {
            "key_id": key.id,
            "tenant_uid": key.tenant_uid,
            "escrow_id": copy.escrow_id,
            "sealed": copy.sealed,
            "check_value": copy.check_value,
        },
    )


async def _check_escrowed(tx: SystemTransaction, key: StoredKey) -> None:
    escrow = await escrow_of(tx, key.tenant_uid)
    if (None if escrow is None else escrow.id) != (None if key.copy is None else key.copy.escrow_id):
        raise ConflictError("the escrow of the tenant's keys was changed")


async def rewrap(tx: SystemTransaction, before: StoredKey, after: StoredKey) -> bool:
    """Put the key as it is wrapped `after` in the place of what was wrapped `before`; False where that is not there."""
    found = await tx.execute(
        """
        UPDATE csm_system.tenant_keys SET kek_version = %(kek_version)s, wrapped = %(after)s
         WHERE id = %(id)s AND tenant_uid = %(tenant_uid)s AND wrapped = %(before)s
        """,
        {
            "id": before.id,
            "tenant_uid": before.tenant_uid,
            "kek_version": after.kek_version,
            "before": before.wrapped,
            "after": after.wrapped,
        },
    )
    return found == 1


async def note_kek(tx: SystemTransaction, kek: KekRef) -> bool:
    """Keep that the tenant has this KEK; False where that is known."""
    noted = await tx.execute(
        """
        INSERT INTO csm_system.tenant_keks (tenant_uid, version) VALUES (%(tenant_uid)s, %(version)s)
        ON CONFLICT ON CONSTRAINT tenant_keks_pkey DO NOTHING
        """,
        {"tenant_uid": kek.tenant_uid, "version": kek.version},
    )
    return noted == 1


async def _hold_open(tx: SystemTransaction, kek: KekRef) -> None:
    """Keep a KEK from being closed until the transaction ends; raise ConflictError where it is."""
    row = await tx.fetch_one(
        """
        SELECT version FROM csm_system.tenant_keks
         WHERE tenant_uid = %(tenant_uid)s AND version = %(version)s AND close_time IS NULL FOR SHARE
        """,
        {"tenant_uid": kek.tenant_uid, "version": kek.version},
    )
    if row is None:
        raise ConflictError(f"{kek.title} is being replaced")


async def delete_all(tx: SystemTransaction, tenant_uid: UUID) -> None:
    """Delete all of a tenant's keys, and their escrow with all that belongs to it."""
    await delete_escrow(tx, tenant_uid)
    await tx.execute("DELETE FROM csm_system.tenant_keks WHERE tenant_uid = %(tenant_uid)s", {"tenant_uid": tenant_uid})
    await tx.execute("DELETE FROM csm_system.tenant_keys WHERE tenant_uid = %(tenant_uid)s", {"tenant_uid": tenant_uid})
    await tx.execute(
        """
        WITH versions AS (DELETE FROM csm_system.destroyed_key_versions WHERE tenant_uid = %(tenant_uid)s),
             imports AS (DELETE FROM csm_system.key_imports WHERE tenant_uid = %(tenant_uid)s)
        DELETE FROM csm_system.named_keys WHERE tenant_uid = %(tenant_uid)s
        """,
        {"tenant_uid": tenant_uid},
    )


async def delete_escrow(tx: SystemTransaction, tenant_uid: UUID) -> None:
    """Delete the escrow of a tenant's keys, what was proposed, and its recoveries."""
    await tx.execute("DELETE FROM csm_system.key_recoveries WHERE tenant_uid = %(uid)s", {"uid": tenant_uid})
    await tx.execute("DELETE FROM csm_system.escrow_proposals WHERE tenant_uid = %(uid)s", {"uid": tenant_uid})
    await tx.execute("DELETE FROM csm_system.tenant_escrows WHERE tenant_uid = %(uid)s", {"uid": tenant_uid})


async def platform_keys(tx: SystemTransaction, purpose: str) -> list[PlatformKey]:
    """List the platform's keys of that purpose, the newest first."""
    rows = await tx.fetch_all(
        """
        SELECT id, purpose, version, algorithm, kek_version, wrapped, public, create_time
          FROM csm_system.platform_keys WHERE purpose = %(purpose)s ORDER BY version DESC
        """,
        {"purpose": purpose},
    )
    return [PlatformKey(**row) for row in rows]


async def insert_platform_key(tx: SystemTransaction, key: PlatformKey, *, wrapped: WrappedKey) -> None:
    """Insert a key of the platform's own, unless there is one of that purpose and version already: the first stays."""
    await tx.execute(
        """
        INSERT INTO csm_system.platform_keys
               (id, purpose, version, algorithm, kek_version, wrapped, public, create_time)
        VALUES (%(id)s, %(purpose)s, %(version)s, %(algorithm)s, %(kek_version)s, %(wrapped)s, %(public)s,
                %(create_time)s)
        ON CONFLICT (purpose, version) DO NOTHING
        """,
        {
            "id": key.id,
            "purpose": key.purpose,
            "version": key.version,
            "algorithm": key.algorithm,
            "kek_version": key.kek_version,
            "wrapped": wrapped,
            "public": key.public,
            "create_time": key.create_time,
        },
    )


def _stored_key(row: dict[str, Any]) -> StoredKey:
    purpose, key_id = Purpose(row["purpose"]), row.pop("key_id")
    return StoredKey(**{**row, "purpose": purpose, "named": "" if key_id == purpose else key_id})
