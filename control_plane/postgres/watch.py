"""Looks out for what must never be seen: another tenant's marker among a tenant's rows."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, LiteralString
from uuid import UUID

from control_plane.canary import Canaries

# A transaction that asks whose it is takes a round trip more.
_ASKED_EVERY: Final = 16

WHOSE: Final[LiteralString] = "SELECT marker FROM canaries"
"""By the session's own path, role and context: what every other query of it is answered by."""


class Watch:
    """Watches the transactions of one process. For one event loop."""

    def __init__(self, canaries: Canaries) -> None:
        """Recognise these markers."""
        self.canaries = canaries
        self._transactions = 0

    def is_due(self) -> bool:
        """Tell whether this transaction is one of those that are asked whose they are."""
        self._transactions += 1
        return self._transactions % _ASKED_EVERY == 1

    def look_at(self, rows: Iterable[Mapping[str, Any]], *, own: UUID, channel: str) -> None:
        """Raise BreachError where a row holds a marker of another tenant than `own`."""
        for row in rows:
            for value in row.values():
                if isinstance(value, str | bytes):
                    self.canaries.check(value, own=own, channel=channel)
                elif isinstance(value, list):
                    for part in value:
                        if isinstance(part, str | bytes):
                            self.canaries.check(part, own=own, channel=channel)
