"""SQL of tokens, users and enrolments. Every function runs in a transaction that sees one tenant's rows only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from control_plane.ids import uuid_of
from control_plane.postgres.database import TenantTransaction
from control_plane.serving.principal import TENANT_BOUND, Principal
from control_plane.tokens.model import ANYBODY, THE_PLATFORM, Enrolment, Token, issuers_of


async def find(tx: TenantTransaction, token_id: UUID) -> Token | None:
    """Find a token by its `jti`."""
    row = await tx.fetch_one(
        """
        SELECT id, subject, role, scopes, kid, create_time, expire_time, revoke_time, request_id, request_hash
          FROM tokens
         WHERE id = %(id)s
        """,
        {"id": token_id},
    )
    return None if row is None else _token(row)


async def find_by_request(tx: TenantTransaction, request_id: UUID) -> Token | None:
    """Find the token that a request was answered with."""
    row = await tx.fetch_one(
        """
        SELECT id, subject, role, scopes, kid, create_time, expire_time, revoke_time, request_id, request_hash
          FROM tokens
         WHERE request_id = %(request_id)s
        """,
        {"request_id": request_id},
    )
    return None if row is None else _token(row)


async def insert(tx: TenantTransaction, token: Token, *, issuers: Sequence[str] | None = None) -> None:
    """Remember an issued token, and who stands behind it, where that is known.

    Where another transaction used its request id first, `run` repeats the work.
    """
    await tx.execute(
        """
        INSERT INTO tokens (id, subject, role, scopes, kid, create_time, expire_time, request_id, request_hash, issuers)
        VALUES (%(id)s, %(subject)s, %(role)s, %(scopes)s::text[], %(kid)s, %(create_time)s, %(expire_time)s,
                %(request_id)s, %(request_hash)s, %(issuers)s::text[])
        """,
        {**asdict(token), "scopes": list(token.scopes), "issuers": None if issuers is None else list(issuers)},
    )


async def find_issuers(tx: TenantTransaction, token_id: UUID) -> frozenset[str] | None:
    """Find who stands behind a token; None where that is not known."""
    row = await tx.fetch_one("SELECT issuers FROM tokens WHERE id = %(id)s", {"id": token_id})
    return None if row is None or row["issuers"] is None else frozenset(row["issuers"])


async def find_behind(tx: TenantTransaction, principal: Principal) -> frozenset[str]:
    """Find all who could have made a caller's credential, the caller among them; nobody where that is not known.

    It is the same for as long as the token lives, whatever becomes of its issuers'.
    """
    if principal.role not in TENANT_BOUND:
        return frozenset({THE_PLATFORM})
    token_id = uuid_of(principal.token_id or "")
    issuers = await find_issuers(tx, token_id) if token_id else None
    behind = frozenset() if issuers is None else frozenset(issuers_of(principal.subject, issuers))
    return frozenset() if ANYBODY in behind else behind


async def revoke(tx: TenantTransaction, token_id: UUID, *, now: datetime) -> tuple[Token, int] | None:
    """Revoke a token that is not revoked yet, here and at the edge, in one statement; None where there is none such.

    Return the revision of its revocation, too.
    """
    row = await tx.fetch_one(
        """
        WITH revoked AS (
            UPDATE tokens
               SET revoke_time = %(now)s
             WHERE id = %(id)s AND revoke_time IS NULL
            RETURNING id, subject, role, scopes, kid, create_time, expire_time, revoke_time, request_id, request_hash
        )
        SELECT revoked.*, csm_edge.publish_revocation(id, expire_time) AS edge_revision FROM revoked
        """,
        {"id": token_id, "now": now},
    )
    return None if row is None else _revoked(row)


async def find_revoked(tx: TenantTransaction, token_id: UUID) -> tuple[Token, int] | None:
    """Find a token that is revoked, and the revision of its revocation, as `revoke` returns them."""
    row = await tx.fetch_one(
        """
        SELECT id, subject, role, scopes, kid, create_time, expire_time, revoke_time, request_id, request_hash,
               csm_edge.publish_revocation(id, expire_time) AS edge_revision
          FROM tokens
         WHERE id = %(id)s AND revoke_time IS NOT NULL
        """,
        {"id": token_id},
    )
    return None if row is None else _revoked(row)


async def list_page(tx: TenantTransaction, before: UUID, *, limit: int) -> list[Token]:
    """List the newest tokens whose ids are before `before`."""
    rows = await tx.fetch_all(
        """
        SELECT id, subject, role, scopes, kid, create_time, expire_time, revoke_time, request_id, request_hash
          FROM tokens
         WHERE id < %(before)s
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        {"before": before, "limit": limit},
    )
    return [_token(row) for row in rows]


async def insert_administrator(tx: TenantTransaction, user_id: UUID, *, email: str, now: datetime) -> UUID:
    """Add the user `admin`, unless there is one; return its id."""
    await tx.execute(
        """
        INSERT INTO users (id, subject, email, role, state, create_time)
        VALUES (%(id)s, 'admin', %(email)s, 'tenant-admin', 'INVITED', %(now)s)
        ON CONFLICT ON CONSTRAINT users_subject_key DO NOTHING
        """,
        {"id": user_id, "email": email or None, "now": now},
    )
    row = await tx.fetch_one("SELECT id FROM users WHERE subject = 'admin'")
    return user_id if row is None else UUID(str(row["id"]))


async def activate_user(tx: TenantTransaction, user_id: UUID) -> tuple[str, str]:
    """Let an invited user in; return its subject and role."""
    row = await tx.fetch_one(
        "UPDATE users SET state = 'ACTIVE' WHERE id = %(id)s RETURNING subject, role", {"id": user_id}
    )
    if row is None:
        message = f"an enrolment is for the user {user_id}, who does not exist"
        raise RuntimeError(message)
    return row["subject"], row["role"]


async def insert_enrolment(tx: TenantTransaction, enrolment: Enrolment) -> None:
    """Open an enrolment."""
    await tx.execute(
        """
        INSERT INTO enrolments (id, user_id, expire_time)
        VALUES (%(id)s, %(user_id)s, %(expire_time)s)
        """,
        {"id": enrolment.id, "user_id": enrolment.user_id, "expire_time": enrolment.expire_time},
    )


async def newest_enrolments(tx: TenantTransaction, *, limit: int) -> list[Enrolment]:
    """List enrolments, the newest first."""
    rows = await tx.fetch_all(
        "SELECT id, user_id, expire_time, redeem_time FROM enrolments ORDER BY id DESC LIMIT %(limit)s",
        {"limit": limit},
    )
    return [Enrolment(**row) for row in rows]


async def redeem_enrolment(tx: TenantTransaction, enrolment_id: UUID, *, now: datetime) -> bool:
    """Use an enrolment up. Return whether it was open: of any number at once, one reads True."""
    found = await tx.execute(
        """
        UPDATE enrolments
           SET redeem_time = %(now)s
         WHERE id = %(id)s AND redeem_time IS NULL AND expire_time > %(now)s
        """,
        {"id": enrolment_id, "now": now},
    )
    return found == 1


def _revoked(row: dict[str, Any]) -> tuple[Token, int]:
    revision = int(row.pop("edge_revision"))
    return _token(row), revision


def _token(row: Mapping[str, Any]) -> Token:
    return Token(**{**row, "scopes": tuple(row["scopes"])})
