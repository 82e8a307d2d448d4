"""Operations in csm_system."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from control_plane.ids import TenantId
from control_plane.operations.model import Failure, Operation, OperationState, StepRecord, StepState
from control_plane.postgres.database import SystemTransaction
from control_plane.postgres.effects import JsonValue


async def insert(tx: SystemTransaction, operation: Operation) -> bool:
    """Insert the operation with its steps; False when its caller's request id has one already."""
    row = await tx.fetch_one(
        """
        INSERT INTO csm_system.operations
            (id, kind, tenant_id, tenant_uid, actor, call_request_id, request_id, request_hash, state,
             create_time, update_time)
        VALUES (%(id)s, %(kind)s, %(tenant_id)s, %(tenant_uid)s, %(actor)s, %(call_request_id)s, %(request_id)s,
                %(request_hash)s, 'RUNNING', %(create_time)s, %(create_time)s)
        ON CONFLICT ON CONSTRAINT operations_request_id_key DO NOTHING
        RETURNING id
        """,
        {
            "id": operation.id,
            "kind": operation.kind,
            "tenant_id": operation.tenant_id,
            "tenant_uid": operation.tenant_uid,
            "actor": operation.actor,
            "call_request_id": operation.call_request_id,
            "request_id": operation.request_id,
            "request_hash": operation.request_hash,
            "create_time": operation.create_time,
        },
    )
    if row is None:
        return False
    for position, step in enumerate(operation.steps):
        await tx.execute(
            """
            INSERT INTO csm_system.operation_steps (operation_id, position, name, state, attempts, start_time, end_time)
            VALUES (%(id)s, %(position)s, %(name)s, %(state)s, %(attempts)s, %(start_time)s, %(end_time)s)
            """,
            {
                "id": operation.id,
                "position": position,
                "name": step.name,
                "state": step.state,
                "attempts": step.attempts,
                "start_time": step.start_time,
                "end_time": step.end_time,
            },
        )
    return True


async def find(tx: SystemTransaction, operation_id: UUID) -> Operation | None:
    """Return the operation, or None."""
    row = await tx.fetch_one("SELECT * FROM csm_system.operations WHERE id = %(id)s", {"id": operation_id})
    return await _with_steps(tx, row)


async def find_by_request(tx: SystemTransaction, kind: str, actor: str, request_id: UUID) -> Operation | None:
    """Return the operation that the caller began under its request id, or None."""
    row = await tx.fetch_one(
        """
        SELECT * FROM csm_system.operations
        WHERE kind = %(kind)s AND actor = %(actor)s AND request_id = %(request_id)s
        """,
        {"kind": kind, "actor": actor, "request_id": request_id},
    )
    return await _with_steps(tx, row)


async def list_page(tx: SystemTransaction, *, before: UUID, limit: int) -> list[Operation]:
    """Return operations, newest first, from after `before` on."""
    rows = await tx.fetch_all(
        """
        SELECT * FROM csm_system.operations
        WHERE id < %(before)s
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"before": before, "limit": limit},
    )
    steps = await tx.fetch_all(
        "SELECT * FROM csm_system.operation_steps WHERE operation_id = ANY(%(ids)s) ORDER BY operation_id, position",
        {"ids": [row["id"] for row in rows]},
    )
    return [_operation(row, [step for step in steps if step["operation_id"] == row["id"]]) for row in rows]


async def begin_step(tx: SystemTransaction, operation_id: UUID, step: str, now: datetime) -> None:
    """Note that the step is being tried."""
    await tx.execute(
        """
        UPDATE csm_system.operation_steps
        SET state = 'RUNNING', attempts = attempts + 1, start_time = coalesce(start_time, %(now)s)
        WHERE operation_id = %(id)s AND name = %(step)s
        """,
        {"id": operation_id, "step": step, "now": now},
    )
    await _touch(tx, operation_id, now)


async def end_step(tx: SystemTransaction, operation_id: UUID, step: str, *, state: StepState, now: datetime) -> None:
    """Note that the step is done, or given up."""
    await tx.execute(
        """
        UPDATE csm_system.operation_steps SET state = %(state)s, end_time = %(now)s
        WHERE operation_id = %(id)s AND name = %(step)s
        """,
        {"id": operation_id, "step": step, "state": state, "now": now},
    )
    await _touch(tx, operation_id, now)


async def pause_step(tx: SystemTransaction, operation_id: UUID, step: str, now: datetime) -> None:
    """Note that the step goes on later, and that this was no attempt that failed."""
    await tx.execute(
        """
        UPDATE csm_system.operation_steps SET attempts = greatest(attempts - 1, 0)
        WHERE operation_id = %(id)s AND name = %(step)s
        """,
        {"id": operation_id, "step": step},
    )
    await _touch(tx, operation_id, now)


async def note_progress(tx: SystemTransaction, operation_id: UUID, progress: Mapping[str, JsonValue]) -> None:
    """Keep how far an operation is."""
    await tx.execute(
        "UPDATE csm_system.operations SET progress = %(progress)s::jsonb WHERE id = %(id)s",
        {"id": operation_id, "progress": json.dumps(dict(progress))},
    )


async def progress(tx: SystemTransaction, operation_id: UUID) -> Mapping[str, JsonValue]:
    """Return how far an operation is, as it was kept."""
    row = await tx.fetch_one("SELECT progress FROM csm_system.operations WHERE id = %(id)s", {"id": operation_id})
    return {} if row is None else dict(row["progress"])


async def note_failure(tx: SystemTransaction, operation_id: UUID, failure: Failure) -> None:
    """Keep why the operation is being given up; it stays RUNNING until everything is taken back."""
    await tx.execute(
        """
        UPDATE csm_system.operations
        SET error_code = %(code)s, error_reason = %(reason)s, error_message = %(message)s
        WHERE id = %(id)s
        """,
        {"id": operation_id, "code": failure.code, "reason": failure.reason, "message": failure.message},
    )


async def finish(tx: SystemTransaction, operation_id: UUID, state: OperationState, now: datetime) -> None:
    """Note that nothing more will happen."""
    await tx.execute(
        """
        UPDATE csm_system.operations SET state = %(state)s, end_time = %(now)s, update_time = %(now)s
        WHERE id = %(id)s AND state = 'RUNNING'
        """,
        {"id": operation_id, "state": state, "now": now},
    )


async def abandoned(tx: SystemTransaction, *, idle_since: datetime) -> list[UUID]:
    """Return running operations that nothing has touched since, and that no job is waiting for or working on."""
    rows = await tx.fetch_all(
        """
        SELECT id FROM csm_system.operations AS operation
        WHERE state = 'RUNNING' AND update_time < %(idle_since)s AND NOT EXISTS (
            SELECT 1 FROM csm_jobs.procrastinate_jobs
            WHERE lock = operation.id::text AND status IN ('todo', 'doing'))
        """,
        {"idle_since": idle_since},
    )
    return [row["id"] for row in rows]


async def _touch(tx: SystemTransaction, operation_id: UUID, now: datetime) -> None:
    await tx.execute(
        "UPDATE csm_system.operations SET update_time = %(now)s WHERE id = %(id)s", {"id": operation_id, "now": now}
    )


async def _with_steps(tx: SystemTransaction, row: Mapping[str, Any] | None) -> Operation | None:
    if row is None:
        return None
    steps = await tx.fetch_all(
        "SELECT * FROM csm_system.operation_steps WHERE operation_id = %(id)s ORDER BY position", {"id": row["id"]}
    )
    return _operation(row, steps)


def _operation(row: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Operation:
    failure = None
    if row["error_code"] is not None:
        failure = Failure(code=row["error_code"], reason=row["error_reason"], message=row["error_message"])
    return Operation(
        id=row["id"],
        kind=row["kind"],
        tenant_id=TenantId(row["tenant_id"]),
        tenant_uid=row["tenant_uid"],
        actor=row["actor"],
        call_request_id=row["call_request_id"],
        request_id=row["request_id"],
        request_hash=row["request_hash"],
        state=OperationState(row["state"]),
        create_time=row["create_time"],
        failure=failure,
        progress=row["progress"],
        steps=tuple(
            StepRecord(
                name=step["name"],
                state=StepState(step["state"]),
                attempts=step["attempts"],
                start_time=step["start_time"],
                end_time=step["end_time"],
            )
            for step in steps
        ),
    )
