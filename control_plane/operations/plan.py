"""What a kind of operation consists of."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from google.protobuf.message import Message

from control_plane.operations.model import Operation
from control_plane.postgres.database import SystemTransaction

StepRun = Callable[[Operation], Awaitable[None]]
"""Does one step.

MUST be idempotent: after a crash it is called again, whether or not its effect was durable. MUST raise UnavailableError
or ConflictError for what may pass, and anything else for what will not. MAY run at any replica. A step that takes more
than some seconds SHOULD raise StepPausedError between its parts, and keep how far it is by `store.note_progress`."""


class StepPausedError(Exception):
    """A part of the step is done. Others have their turn, and it is called again about a second later."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan."""

    name: str
    run: StepRun


class Plan(Protocol):
    """The steps of one kind of operation, how to take them back, and what its caller sees."""

    @property
    def kind(self) -> str:
        """The name under which operations of this plan are recorded. MUST never change."""
        ...

    @property
    def steps(self) -> Sequence[Step]:
        """The steps in order. Those that the beginning transaction did itself are recorded as done."""
        ...

    async def undo(self, operation: Operation) -> None:
        """Take back whatever any step may have made. MUST be idempotent, and complete whichever step failed."""
        ...

    def metadata(self, operation: Operation) -> Message:
        """Return the message for `Operation.metadata`."""
        ...

    async def response(self, operation: Operation) -> Message:
        """Return the message for `Operation.response` of an operation that succeeded."""
        ...


Plans = Mapping[str, Plan]
"""By their kinds. One whose kind ends with a dot is for all kinds that begin with it, and have no further dot."""


def plan_of(plans: Plans, kind: str) -> Plan:
    """Return the plan of a kind. Raises KeyError where there is none."""
    return plans[kind] if kind in plans else plans[f"{kind.rpartition('.')[0]}."]


DeferJob = Callable[[UUID, SystemTransaction], Awaitable[None]]
"""Has an operation looked at once the transaction commits."""
