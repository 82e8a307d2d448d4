"""What a transaction did, in the words of the audit log."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from control_plane.postgres.placement import Placement

if TYPE_CHECKING:
    from control_plane.postgres.transactions import SystemTransaction, TenantTransaction

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


def _no_details() -> Mapping[str, JsonValue]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One thing that a transaction did."""

    resource: str
    """Such as `tenants/org_1/certificates/…`."""
    placement: Placement | None = None
    """Whose audit log keeps it; None is the transaction's own tenant."""
    method: str | None = None
    """None is the call's method."""
    actor: str | None = None
    """None is the call's principal."""
    refusal: str = ""
    """Why it was not done, for what was asked for and is to be told at once; empty for what was done."""
    details: Mapping[str, JsonValue] = field(default_factory=_no_details)
    """What else the log should say; no secrets."""


BeforeCommit = Callable[["TenantTransaction | SystemTransaction", Sequence[Effect]], Awaitable[None]]
"""Runs inside the transaction, last before COMMIT; when it raises, nothing of the transaction happens."""
