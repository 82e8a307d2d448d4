"""SQL of key policies and approvals. What takes a tenant's transaction sees that tenant's rows only.

A use reads the policy in the transaction that writes its entry, and locks nothing. Whoever has changed a policy waits
afterwards until the tenant's transactions from before have ended (`open_transactions`): so a use costs one query.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from control_plane.key_policies.approvals import Approval, State
from control_plane.key_policies.model import KeyUse, Operation, ReasonCode, Terms
from control_plane.key_policies.policy import Policy
from control_plane.key_policies.written import read_proposal, read_rules, write_proposal, write_rules
from control_plane.postgres.database import SystemTransaction, TenantTransaction


async def find_policy(tx: TenantTransaction) -> Policy:
    """Read the policy; the one of who has never set any where there is none."""
    return await _policy(tx, "SELECT * FROM key_policies")


async def find_policy_for_update(tx: TenantTransaction) -> Policy:
    """Read the policy, and keep others from changing it until the transaction ends, which has to be SERIALIZABLE.

    Where there is none yet, there is nothing to lock, and of two that make the first one fails and comes again.
    """
    return await _policy(tx, "SELECT * FROM key_policies FOR UPDATE")


async def put_policy(tx: TenantTransaction, policy: Policy) -> None:
    """Keep a policy that `find_policy_for_update` has read."""
    await tx.execute(
        """
        INSERT INTO key_policies (enforced, rules, locked, revision, update_time, proposal)
        VALUES (%(enforced)s, %(rules)s::jsonb, %(locked)s, %(revision)s, %(update_time)s, %(proposal)s::jsonb)
        ON CONFLICT (tenant_id) DO UPDATE
           SET enforced = excluded.enforced, rules = excluded.rules, locked = excluded.locked,
               revision = excluded.revision, update_time = excluded.update_time, proposal = excluded.proposal
        """,
        {
            "enforced": policy.terms.enforced,
            "rules": json.dumps(write_rules(policy.terms.rules)),
            "locked": policy.terms.locked,
            "revision": policy.revision,
            "update_time": policy.update_time,
            "proposal": json.dumps(write_proposal(policy.proposal)) if policy.proposal else None,
        },
    )


async def find_approval_of(tx: TenantTransaction, use: KeyUse) -> Approval | None:
    """Find what was said, or asked, of a use, and keep others from using it up until the transaction ends."""
    row = await tx.fetch_one(
        """
        SELECT * FROM key_use_approvals
         WHERE principal = %(principal)s AND key_id = %(key)s AND operation = %(operation)s
           AND reason_code = %(reason_code)s
           FOR UPDATE
        """,
        {
            "principal": use.principal,
            "key": use.key,
            "operation": use.operation.value,
            "reason_code": _code(use.reason_code),
        },
    )
    return None if row is None else _approval(row)


async def find_approval(tx: TenantTransaction, approval_id: UUID) -> Approval | None:
    """Find an approval by its id."""
    row = await tx.fetch_one("SELECT * FROM key_use_approvals WHERE id = %(id)s", {"id": approval_id})
    return None if row is None else _approval(row)


async def find_approval_for_update(tx: TenantTransaction, approval_id: UUID) -> Approval | None:
    """Find an approval by its id, and keep others from changing it until the transaction ends."""
    row = await tx.fetch_one("SELECT * FROM key_use_approvals WHERE id = %(id)s FOR UPDATE", {"id": approval_id})
    return None if row is None else _approval(row)


async def list_approvals(tx: TenantTransaction, *, before: UUID, limit: int) -> list[Approval]:
    """List the newest approvals whose ids are before `before`."""
    rows = await tx.fetch_all(
        "SELECT * FROM key_use_approvals WHERE id < %(before)s ORDER BY id DESC LIMIT %(limit)s",
        {"before": before, "limit": limit},
    )
    return [_approval(row) for row in rows]


async def count_waiting(tx: TenantTransaction, principal: str) -> tuple[int, int]:
    """Count the requests that nobody has decided, of all and of one; `drop_over` has removed those that are over."""
    row = await tx.fetch_one(
        """
        SELECT count(*) AS of_all, count(*) FILTER (WHERE principal = %(principal)s) AS of_one
          FROM key_use_approvals
         WHERE state = 'PENDING'
        """,
        {"principal": principal},
    )
    return (int(row["of_all"]), int(row["of_one"])) if row else (0, 0)


async def drop_over(tx: TenantTransaction, now: datetime) -> None:
    """Remove what says nothing any more: all of it is in the audit log."""
    await tx.execute(
        "DELETE FROM key_use_approvals WHERE expire_time <= %(now)s OR (state = 'APPROVED' AND uses_left = 0)",
        {"now": now},
    )


async def insert_approval(tx: TenantTransaction, approval: Approval) -> None:
    """Keep a new request. Where another transaction has made the same one first, `run` repeats the work."""
    await tx.execute(
        """
        INSERT INTO key_use_approvals (id, principal, key_id, operation, reason_code, reason, state, uses_left,
                                       create_time, expire_time, behind)
        VALUES (%(id)s, %(principal)s, %(key)s, %(operation)s, %(reason_code)s, %(reason)s, %(state)s, %(uses_left)s,
                %(create_time)s, %(expire_time)s, %(behind)s::text[])
        """,
        {
            "id": approval.id,
            "principal": approval.principal,
            "key": approval.key,
            "operation": approval.operation.value,
            "reason_code": _code(approval.reason_code),
            "reason": approval.reason,
            "state": approval.state.value,
            "uses_left": approval.uses_left,
            "create_time": approval.create_time,
            "expire_time": approval.expire_time,
            "behind": sorted(approval.behind),
        },
    )


async def update_approval(tx: TenantTransaction, approval: Approval) -> None:
    """Keep what was said of a request."""
    await tx.execute(
        """
        UPDATE key_use_approvals
           SET state = %(state)s, uses_left = %(uses_left)s, expire_time = %(expire_time)s, decider = %(decider)s,
               decide_time = %(decide_time)s
         WHERE id = %(id)s
        """,
        {
            "id": approval.id,
            "state": approval.state.value,
            "uses_left": approval.uses_left,
            "expire_time": approval.expire_time,
            "decider": approval.decider,
            "decide_time": approval.decide_time,
        },
    )


async def take_use(tx: TenantTransaction, approval_id: UUID) -> None:
    """Take one off the uses of an approval that `find_approval_of` has locked."""
    await tx.execute("UPDATE key_use_approvals SET uses_left = uses_left - 1 WHERE id = %(id)s", {"id": approval_id})


async def now(tx: SystemTransaction) -> datetime:
    """Say what time it is by the database's clock, for `open_transactions`."""
    row = await tx.fetch_one("SELECT clock_timestamp() AS now")
    if row is None:
        raise RuntimeError("the database does not say what time it is")
    moment: datetime = row["now"]
    return moment


async def open_transactions(tx: SystemTransaction, number: int, *, begun: datetime) -> int:
    """Count the tenant's transactions from before that moment which have not ended: what they do, they may still do."""
    row = await tx.fetch_one(
        "SELECT csm_system.open_transactions(%(number)s, %(begun)s) AS n", {"number": number, "begun": begun}
    )
    return int(row["n"]) if row else 0


async def _policy(tx: TenantTransaction, query: LiteralString) -> Policy:
    row = await tx.fetch_one(query)
    if row is None:
        return Policy()
    return Policy(
        terms=Terms(enforced=row["enforced"], rules=read_rules(row["rules"]), locked=row["locked"]),
        revision=row["revision"],
        update_time=row["update_time"],
        proposal=None if row["proposal"] is None else read_proposal(row["proposal"]),
    )


def _code(reason_code: ReasonCode | None) -> str:
    return reason_code.value if reason_code else ""


def _approval(row: Mapping[str, Any]) -> Approval:
    return Approval(
        id=row["id"],
        principal=row["principal"],
        key=row["key_id"],
        operation=Operation(row["operation"]),
        reason_code=ReasonCode(row["reason_code"]) if row["reason_code"] else None,
        reason=row["reason"],
        state=State(row["state"]),
        uses_left=row["uses_left"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        behind=frozenset(row["behind"]),
        decider=row["decider"],
        decide_time=row["decide_time"],
    )
