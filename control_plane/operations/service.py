"""Begins operations, and takes their steps.

An operation's record is the truth: which steps are done, and whether it is being taken back. A job of the queue only
says "look at this operation now", so that a job run twice, or by another replica after a crash, does no harm.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import grpc
import structlog

from control_plane.errors import AlreadyExistsError, ConflictError, DomainError, UnavailableError
from control_plane.operations import store
from control_plane.operations.model import Failure, Operation, OperationState, StepRecord, StepState
from control_plane.operations.plan import Plan, Plans, Step, StepPausedError, plan_of
from control_plane.postgres.database import Database, SystemTransaction

# A fault that passes (a server restarting) is waited for as long as it takes. One that is not known to pass is a bug or
# a broken machine: after this many tries the operation is taken back.
_MOST_ATTEMPTS: Final = 5

_log: Final = structlog.get_logger("operations")


class AttemptFailedError(Exception):
    """A step has paused, or failed in a way that may pass; the operation is to be looked at again later."""


async def begin(tx: SystemTransaction, operation: Operation) -> Operation:
    """Record the operation and return it, or the one that the same request began before.

    The caller defers the job in the same transaction, unless the returned operation has another id.

    Raises:
        AlreadyExistsError: when the request id belongs to a request with another body.
    """
    if await store.insert(tx, operation):
        return operation
    if operation.request_id is None:
        message = "an operation without a request id cannot have been begun before"
        raise RuntimeError(message)
    earlier = await store.find_by_request(tx, operation.kind, operation.actor, operation.request_id)
    if earlier is None:
        raise ConflictError("the same request is being carried out at this moment")
    if earlier.request_hash != operation.request_hash:
        raise AlreadyExistsError(
            earlier.name, "the request id was used for another request", reason="REQUEST_ID_REUSED"
        )
    return earlier


class OperationRunner:
    """Takes the steps of operations, each recorded before and after."""

    def __init__(self, database: Database, plans: Plans) -> None:
        """Know every plan by its kind."""
        self._database = database
        self._plans = plans

    async def run(self, operation_id: UUID) -> None:
        """Bring the operation as far as it goes now. Safe to call at any time, any number of times.

        Raises:
            AttemptFailedError: when something must pass first.
        """
        operation = await self._load(operation_id)
        if operation is None or operation.is_done:
            return
        plan = plan_of(self._plans, operation.kind)
        steps = {step.name: step for step in plan.steps}
        for record in operation.remaining():
            if operation.is_given_up():
                break
            operation = await self._take(operation, record, steps[record.name])
        await self._end(operation, plan)

    async def _take(self, operation: Operation, record: StepRecord, step: Step) -> Operation:
        """Take one step; return the operation, given up if the step failed for good."""
        await self._database.system().run(lambda tx: store.begin_step(tx, operation.id, step.name, _now()))
        log = _log.bind(operation=operation.name, step=step.name, attempt=record.attempts + 1)
        try:
            await step.run(operation)
        except StepPausedError as pause:
            await self._database.system().run(lambda tx: store.pause_step(tx, operation.id, step.name, _now()))
            log.debug("step_paused")
            raise AttemptFailedError from pause
        except (UnavailableError, ConflictError) as error:
            log.warning("step_postponed", reason=error.code)
            raise AttemptFailedError from error
        except Exception as error:
            final = isinstance(error, DomainError) or record.attempts + 1 >= _MOST_ATTEMPTS
            log.exception("step_failed", final=final)
            if not final:
                raise AttemptFailedError from error
            return await self._give_up(operation, step.name, error)
        await self._database.system().run(
            lambda tx: store.end_step(tx, operation.id, step.name, state=StepState.DONE, now=_now())
        )
        log.info("step_done")
        return operation

    async def _give_up(self, operation: Operation, step: str, error: Exception) -> Operation:
        failure = _failure(error)

        async def work(tx: SystemTransaction) -> None:
            await store.note_failure(tx, operation.id, failure)
            await store.end_step(tx, operation.id, step, state=StepState.FAILED, now=_now())

        await self._database.system().run(work)
        return replace(
            operation, failure=failure, steps=(*operation.steps, StepRecord(name=step, state=StepState.FAILED))
        )

    async def _end(self, operation: Operation, plan: Plan) -> None:
        state = OperationState.SUCCEEDED
        if operation.is_given_up():
            state = OperationState.FAILED
            try:
                await plan.undo(operation)
            except Exception as error:
                _log.exception("undo_failed", operation=operation.name)
                raise AttemptFailedError from error
        await self._database.system().run(lambda tx: store.finish(tx, operation.id, state, _now()))
        _log.info("operation_ended", operation=operation.name, state=state)

    async def _load(self, operation_id: UUID) -> Operation | None:
        return await self._database.system().run(lambda tx: store.find(tx, operation_id))


def _failure(error: Exception) -> Failure:
    if isinstance(error, DomainError):
        return Failure(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], reason=error.code, message=error.message)
    return Failure(code=grpc.StatusCode.INTERNAL.value[0], reason="INTERNAL", message="internal error")


def _now() -> datetime:
    return datetime.now(UTC)
