"""How much of the machine the stack may use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# Of its connections for tenants a cell keeps a fifth for the control plane's own calls: tokens, users, audit logs.
_CONTROL_PLANES_PART: Final = 5
# Of the server beside those for tenants: the platform's own roles, the job queue, who listens, and administrators.
_OTHER_CONNECTIONS: Final = 60

VALKEY_MEGABYTES: Final = 512
"""For a hundred tenants that fill what they have by default, and the edge's counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSize:
    """What `bulkhead up` may be told."""

    proxy_workers: int = 2
    """Envoy's threads."""
    check_workers: int = 2
    """The processes that decide Envoy's requests."""
    tenant_connections: int = 40
    """To the database, for tenants' transactions: all tenants and all processes together."""
    valkey_megabytes: int = VALKEY_MEGABYTES
    """Of memory, for the tenants' caches and the edge's counters; beyond it nothing more is cached."""

    restricts_unsafe: bool = True
    """Whether a tenant whose isolation does not hold becomes read-only."""

    vault: str | Mapping[str, Any] = ""
    """Which kind of vault a new state directory gets, or what its settings are to say of it; no other one changes."""

    @property
    def connections_by_process(self) -> dict[str, int]:
        """Divide the tenants' connections among the processes that serve tenants."""
        control_plane = max(1, self.tenant_connections // _CONTROL_PLANES_PART)
        return {"control_plane": control_plane, "certificates": self.tenant_connections - control_plane}

    @property
    def server_connections(self) -> int:
        """How many the server takes in all."""
        return self.tenant_connections + _OTHER_CONNECTIONS
