"""A breach that was caught. Pure."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is told as one: the same way through the same wall."""

    owner_uid: UUID
    """Whose it was."""
    finder_uid: UUID | None
    """In whose call or transaction it turned up; None where that was nobody's."""
    channel: str
    """Where: `row`, `response`, `object`, `cache` or `context`."""
    method: str
    """The call's, or what was at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """As often as it was caught."""

    id: UUID
    kind: Kind
    count: int
    request_id: str
    """The first one's."""
    first_time: datetime
    last_time: datetime
    owner: str = ""
    """The owner's resource name; `uids/{uid}` where the tenant is gone. Said by the database."""
    finder: str = ""
    """The finder's, in the same form."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"breaches/{self.id}"
