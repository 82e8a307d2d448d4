"""The table `certificates` of a tenant's schema, and the profiles that all tenants read.

A certificate is PENDING while its object is being stored. To give one up is to take away its digest and its request id:
`activate` asks for the digest, so that of one who gives up and one who is still at work exactly one wins, without locks
that outlive a transaction and without a clock.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from control_plane.certificates.model import Certificate, Profile, State
from control_plane.postgres.database import TenantTransaction


async def find_profile(tx: TenantTransaction, name: str) -> Profile | None:
    """Return the profile, or None. Any text may be asked for."""
    if "\0" in name:
        # No text of PostgreSQL's has one, nor can it be asked for one.
        return None
    row = await tx.fetch_one(
        """
        SELECT name, default_validity, maximum_validity, minimum_rsa_bits, curves, ed25519
        FROM csm_shared_readonly.certificate_profiles WHERE name = %(name)s
        """,
        {"name": name},
    )
    return None if row is None else Profile(**{**row, "curves": frozenset(row["curves"])})


async def insert_pending(tx: TenantTransaction, certificate: Certificate) -> bool:
    """Insert the certificate; False when its request id has one already."""
    return (
        await tx.execute(
            """
            INSERT INTO certificates
                (id, state, serial_number, subject, dns_names, profile, object_path, sha256, create_time, expire_time,
                 authority_version, request_id, request_hash)
            VALUES (%(id)s, 'PENDING', %(serial_number)s, %(subject)s, %(dns_names)s, %(profile)s, %(object_path)s,
                    %(sha256)s, %(create_time)s, %(expire_time)s, %(authority_version)s, %(request_id)s,
                    %(request_hash)s)
            ON CONFLICT ON CONSTRAINT certificates_request_id_key DO NOTHING
            """,
            {
                "id": certificate.id,
                "serial_number": certificate.serial_number,
                "subject": certificate.subject,
                "dns_names": list(certificate.dns_names),
                "profile": certificate.profile,
                "object_path": certificate.object_path,
                "sha256": certificate.sha256,
                "create_time": certificate.create_time,
                "expire_time": certificate.expire_time,
                "authority_version": certificate.authority_version,
                "request_id": certificate.request_id,
                "request_hash": certificate.request_hash,
            },
        )
        == 1
    )


async def activate(tx: TenantTransaction, certificate: Certificate) -> bool:
    """Make the pending certificate count; False when it was given up meanwhile."""
    return (
        await tx.execute(
            """
            UPDATE certificates SET state = 'ACTIVE'
            WHERE id = %(id)s AND state = 'PENDING' AND sha256 = %(sha256)s
            """,
            {"id": certificate.id, "sha256": certificate.sha256},
        )
        == 1
    )


async def give_up(tx: TenantTransaction, certificate_id: UUID) -> bool:
    """Keep a pending certificate from ever becoming active; False when it is not pending. Its object may be there."""
    return (
        await tx.execute(
            """
            UPDATE certificates SET sha256 = NULL, request_id = NULL, request_hash = NULL
            WHERE id = %(id)s AND state = 'PENDING'
            """,
            {"id": certificate_id},
        )
        == 1
    )


async def give_up_between(tx: TenantTransaction, *, after: UUID, before: UUID, limit: int) -> list[Certificate]:
    """Do the same with the pending certificates of a range of ids, and return them.

    There is no index of pending ones on purpose: an update of an indexed `state` writes to all indexes of the row, and
    activations at the same time would then refuse each other under SERIALIZABLE.
    """
    rows = await tx.fetch_all(
        """
        UPDATE certificates SET sha256 = NULL, request_id = NULL, request_hash = NULL
        WHERE state = 'PENDING' AND id IN (
            SELECT id FROM certificates
            WHERE state = 'PENDING' AND id >= %(after)s AND id < %(before)s ORDER BY id LIMIT %(limit)s)
        RETURNING *
        """,
        {"after": after, "before": before, "limit": limit},
    )
    return [_certificate(row) for row in rows]


async def delete_given_up(tx: TenantTransaction, certificate_ids: Sequence[UUID]) -> None:
    """Forget certificates that were given up. To be called when their objects are gone."""
    await tx.execute(
        "DELETE FROM certificates WHERE id = ANY(%(ids)s) AND state = 'PENDING' AND sha256 IS NULL",
        {"ids": list(certificate_ids)},
    )


async def find(tx: TenantTransaction, certificate_id: UUID) -> Certificate | None:
    """Return the certificate, or None. One that is pending is nobody's to see."""
    row = await tx.fetch_one(
        "SELECT * FROM certificates WHERE id = %(id)s AND state <> 'PENDING'", {"id": certificate_id}
    )
    return None if row is None else _certificate(row)


async def find_by_request(tx: TenantTransaction, request_id: UUID) -> Certificate | None:
    """Return the certificate of the caller's request id, which may be pending, or None."""
    row = await tx.fetch_one("SELECT * FROM certificates WHERE request_id = %(id)s", {"id": request_id})
    return None if row is None else _certificate(row)


async def list_page(tx: TenantTransaction, *, before: UUID, limit: int) -> list[Certificate]:
    """Return certificates, newest first, from after `before` on."""
    rows = await tx.fetch_all(
        """
        SELECT * FROM certificates
        WHERE state <> 'PENDING' AND id < %(before)s
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"before": before, "limit": limit},
    )
    return [_certificate(row) for row in rows]


async def revoke(tx: TenantTransaction, certificate_id: UUID, *, reason: str, now: datetime) -> Certificate | None:
    """Revoke the certificate and return it; None when there is no active one."""
    row = await tx.fetch_one(
        """
        UPDATE certificates SET state = 'REVOKED', revoke_time = %(now)s, revoke_reason = %(reason)s
        WHERE id = %(id)s AND state = 'ACTIVE'
        RETURNING *
        """,
        {"id": certificate_id, "now": now, "reason": reason},
    )
    return None if row is None else _certificate(row)


async def needed_authorities(tx: TenantTransaction, *, now: datetime) -> list[int]:
    """List the versions of the authority that have signed what is valid still, or may become so. Reads all rows."""
    rows = await tx.fetch_all(
        """
        SELECT DISTINCT authority_version FROM certificates
        WHERE expire_time > %(now)s AND state <> 'REVOKED' AND sha256 IS NOT NULL
        """,
        {"now": now},
    )
    return sorted(row["authority_version"] for row in rows)


def _certificate(row: Mapping[str, Any]) -> Certificate:
    return Certificate(
        id=row["id"],
        state=State(row["state"]),
        serial_number=row["serial_number"],
        subject=row["subject"],
        dns_names=tuple(row["dns_names"]),
        profile=row["profile"],
        object_path=row["object_path"],
        sha256=row["sha256"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        authority_version=row["authority_version"],
        revoke_time=row["revoke_time"],
        revoke_reason=row["revoke_reason"],
        request_id=row["request_id"],
        request_hash=row["request_hash"],
    )
