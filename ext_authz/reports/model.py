"""What a decision leaves behind. Pure."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A request that was refused, and others like it."""

    # In whose audit log it is told; empty where no tenant's credential stands behind it.
    tenant_id: str
    # Who asked, as far as that was verified; else `anonymous`.
    actor: str
    # The RPC's path, or empty where the request was none.
    method: str
    # What was asked for, as a resource name: the tenant at least.
    resource: str
    # In UPPER_SNAKE.
    reason: str
    # The caller's address.
    peer: str
    request_id: str
    # How many: with those that were repeated without asking.
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A request of a tenant, let through or refused for the tenant's own rate."""

    tenant_uid: UUID
    # The RPC's path.
    method: str
    # By the RPC's rule.
    cost: int
    admitted: bool
    # The token's id; None where it is not told apart.
    credential: UUID | None = None
    # Of the RPC; empty where it may not be leased.
    lease_class: str = ""
