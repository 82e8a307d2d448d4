"""SQL of secrets. Every function runs in a transaction that sees one tenant's rows only.

Whoever changes a secret or its versions locks the secret's row first (`find_for_update`): so versions are numbered in
order, and limits hold, whichever isolation level a transaction has.
"""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from control_plane.postgres.database import TenantTransaction
from control_plane.secrets.model import Secret, Settings, State, Version


async def find(tx: TenantTransaction, secret_id: str) -> Secret | None:
    """Find a secret by what it is called."""
    row = await tx.fetch_one("SELECT * FROM secrets WHERE secret_id = %(id)s", {"id": secret_id})
    return None if row is None else _secret(row)


async def find_for_update(tx: TenantTransaction, secret_id: str) -> Secret | None:
    """Find a secret, and keep others from changing it or its versions until the transaction ends."""
    row = await tx.fetch_one("SELECT * FROM secrets WHERE secret_id = %(id)s FOR UPDATE", {"id": secret_id})
    return None if row is None else _secret(row)


async def find_by_request(tx: TenantTransaction, request_id: UUID) -> Secret | None:
    """Find the secret that a request made."""
    row = await tx.fetch_one("SELECT * FROM secrets WHERE request_id = %(id)s", {"id": request_id})
    return None if row is None else _secret(row)


async def count(tx: TenantTransaction) -> int:
    """Count the tenant's secrets."""
    row = await tx.fetch_one("SELECT count(*) AS n FROM secrets")
    return int(row["n"]) if row else 0


async def list_page(tx: TenantTransaction, *, before: UUID, limit: int) -> list[Secret]:
    """List the newest secrets whose uids are before `before`."""
    rows = await tx.fetch_all(
        "SELECT * FROM secrets WHERE id < %(before)s ORDER BY id DESC LIMIT %(limit)s",
        {"before": before, "limit": limit},
    )
    return [_secret(row) for row in rows]


async def insert(tx: TenantTransaction, secret: Secret) -> None:
    """Keep a new secret. Where another transaction took its id or request id first, `run` repeats the work."""
    await tx.execute(
        """
        INSERT INTO secrets (id, secret_id, description, labels, revision, latest_version, create_time, update_time,
                             request_id, request_hash)
        VALUES (%(uid)s, %(id)s, %(description)s, %(labels)s::jsonb, %(revision)s, %(latest_version)s, %(create_time)s,
                %(update_time)s, %(request_id)s, %(request_hash)s)
        """,
        {
            **_described(secret),
            "id": secret.id,
            "create_time": secret.create_time,
            "request_id": secret.request_id,
            "request_hash": secret.request_hash,
        },
    )


async def update(tx: TenantTransaction, secret: Secret) -> None:
    """Keep a changed secret, which `find_for_update` has locked."""
    await tx.execute(
        """
        UPDATE secrets
           SET description = %(description)s, labels = %(labels)s::jsonb, revision = %(revision)s,
               latest_version = %(latest_version)s, update_time = %(update_time)s
         WHERE id = %(uid)s
        """,
        _described(secret),
    )


async def delete(tx: TenantTransaction, secret_uid: UUID) -> None:
    """Delete a secret, which `find_for_update` has locked, with all that there is of its values."""
    await tx.execute("DELETE FROM secret_versions WHERE secret_uid = %(uid)s", {"uid": secret_uid})
    await tx.execute("DELETE FROM secrets WHERE id = %(uid)s", {"uid": secret_uid})


async def count_values(tx: TenantTransaction, secret_uid: UUID) -> int:
    """Count the versions of a secret that have a value, enabled or disabled."""
    row = await tx.fetch_one(
        "SELECT count(*) AS n FROM secret_versions WHERE secret_uid = %(uid)s AND state <> 'DESTROYED'",
        {"uid": secret_uid},
    )
    return int(row["n"]) if row else 0


async def insert_version(tx: TenantTransaction, version: Version, *, sealed: bytes) -> None:
    """Keep a new version with its sealed value. Where its request id was used meanwhile, `run` repeats the work."""
    await tx.execute(
        """
        INSERT INTO secret_versions (secret_uid, number, state, sealed, create_time, request_id, request_hash)
        VALUES (%(uid)s, %(number)s, %(state)s, %(sealed)s, %(create_time)s, %(request_id)s, %(request_hash)s)
        """,
        {
            "uid": version.secret_uid,
            "number": version.number,
            "state": version.state.value,
            "sealed": sealed,
            "create_time": version.create_time,
            "request_id": version.request_id,
            "request_hash": version.request_hash,
        },
    )


async def find_version(tx: TenantTransaction, secret_uid: UUID, number: int) -> Version | None:
    """Find a version, without its value."""
    row = await tx.fetch_one(
        """
        SELECT secret_uid, number, state, create_time, destroy_time, request_id, request_hash
          FROM secret_versions
         WHERE secret_uid = %(uid)s AND number = %(number)s
        """,
        {"uid": secret_uid, "number": number},
    )
    return None if row is None else _version(row)


async def find_version_by_request(tx: TenantTransaction, request_id: UUID) -> Version | None:
    """Find the version that a request added, of whichever secret."""
    row = await tx.fetch_one(
        """
        SELECT secret_uid, number, state, create_time, destroy_time, request_id, request_hash
          FROM secret_versions
         WHERE request_id = %(id)s
        """,
        {"id": request_id},
    )
    return None if row is None else _version(row)


async def find_sealed(tx: TenantTransaction, secret_id: str, number: int | None) -> tuple[Version, bytes] | None:
    """Find a version with its sealed value, empty where that is destroyed; None is the latest. One statement."""
    row = await tx.fetch_one(
        """
        SELECT v.secret_uid, v.number, v.state, v.create_time, v.destroy_time, v.request_id, v.request_hash, v.sealed
          FROM secrets AS s
          JOIN secret_versions AS v
            ON v.secret_uid = s.id AND v.number = coalesce(%(number)s::bigint, s.latest_version)
         WHERE s.secret_id = %(id)s
        """,
        {"id": secret_id, "number": number},
    )
    if row is None:
        return None
    sealed = bytes(row.pop("sealed") or b"")
    return _version(row), sealed


async def list_versions(tx: TenantTransaction, secret_uid: UUID, *, before: int | None, limit: int) -> list[Version]:
    """List a secret's newest versions, those with numbers below `before` where it is given."""
    rows = await tx.fetch_all(
        """
        SELECT secret_uid, number, state, create_time, destroy_time, request_id, request_hash
          FROM secret_versions
         WHERE secret_uid = %(uid)s AND (%(before)s::bigint IS NULL OR number < %(before)s)
         ORDER BY number DESC
         LIMIT %(limit)s
        """,
        {"uid": secret_uid, "before": before, "limit": limit},
    )
    return [_version(row) for row in rows]


async def list_sealed_before(
    tx: TenantTransaction, key_version: int, *, after: tuple[UUID, int], limit: int
) -> list[tuple[UUID, int, bytes]]:
    """List values that older versions of the tenant's key have sealed, in order: their secrets, numbers and envelopes.

    Whatever its format, an envelope has that version in the same four bytes.
    """
    rows = await tx.fetch_all(
        """
        SELECT secret_uid, number, sealed FROM secret_versions
         WHERE substring(sealed FROM 6 FOR 4) < %(key_version)s AND (secret_uid, number) > (%(uid)s, %(number)s::bigint)
         ORDER BY secret_uid, number
         LIMIT %(limit)s
        """,
        {"key_version": key_version.to_bytes(4, "big"), "uid": after[0], "number": after[1], "limit": limit},
    )
    return [(row["secret_uid"], row["number"], bytes(row["sealed"])) for row in rows]


async def replace_sealed(tx: TenantTransaction, secret_uid: UUID, number: int, *, before: bytes, after: bytes) -> bool:
    """Put a value that was sealed anew in the place of what it was made of; False where that is not there any more."""
    replaced = await tx.execute(
        """
        UPDATE secret_versions SET sealed = %(after)s
         WHERE secret_uid = %(uid)s AND number = %(number)s AND sealed = %(before)s
        """,
        {"uid": secret_uid, "number": number, "before": before, "after": after},
    )
    return replaced == 1


async def update_version(tx: TenantTransaction, version: Version) -> None:
    """Keep a version's new state. The value of one that is destroyed goes with it."""
    await tx.execute(
        """
        UPDATE secret_versions
           SET state = %(state)s, destroy_time = %(destroy_time)s,
               sealed = CASE WHEN %(state)s = 'DESTROYED' THEN NULL ELSE sealed END
         WHERE secret_uid = %(uid)s AND number = %(number)s
        """,
        {
            "uid": version.secret_uid,
            "number": version.number,
            "state": version.state.value,
            "destroy_time": version.destroy_time,
        },
    )


def _described(secret: Secret) -> dict[str, object]:
    return {
        "uid": secret.uid,
        "description": secret.settings.description,
        "labels": json.dumps(dict(secret.settings.labels)),
        "revision": secret.revision,
        "latest_version": secret.latest_version,
        "update_time": secret.update_time,
    }


def _secret(row: Mapping[str, Any]) -> Secret:
    return Secret(
        uid=row["id"],
        id=row["secret_id"],
        settings=Settings(description=row["description"], labels=row["labels"]),
        revision=row["revision"],
        latest_version=row["latest_version"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        request_id=row["request_id"],
        request_hash=row["request_hash"],
    )


def _version(row: Mapping[str, Any]) -> Version:
    return Version(**{**row, "state": State(row["state"])})
