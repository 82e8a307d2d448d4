"""An operation and its steps. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from control_plane.ids import TenantId
from control_plane.postgres.effects import JsonValue


class OperationState(StrEnum):
    """Where an operation is."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class StepState(StrEnum):
    """Where a step is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """How far one step has come."""

    name: str
    state: StepState
    attempts: int = 0
    start_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an operation failed, as its caller may read it."""

    code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation, as it was at one moment."""

    id: UUID
    kind: str
    tenant_id: TenantId
    tenant_uid: UUID
    actor: str
    call_request_id: str
    state: OperationState
    steps: tuple[StepRecord, ...]
    create_time: datetime
    request_id: UUID | None = None
    request_hash: bytes = b""
    failure: Failure | None = None
    progress: Mapping[str, JsonValue] = field(default_factory=dict)
    """What its plan keeps between the parts of a long step, and shows."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"operations/{self.id}"

    @property
    def is_done(self) -> bool:
        """Whether nothing more will happen."""
        return self.state is not OperationState.RUNNING

    def remaining(self) -> tuple[StepRecord, ...]:
        """Return the steps that are not done, in order."""
        return tuple(step for step in self.steps if step.state is not StepState.DONE)

    def is_given_up(self) -> bool:
        """Whether a step failed for good, so that what was made must be taken back."""
        return any(step.state is StepState.FAILED for step in self.steps)
