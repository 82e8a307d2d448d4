"""Where a tenant's rows live, and how much of what all tenants use it may have. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from control_plane.ids import TenantId

TENANTS_PER_LOGIN: Final = 200
"""A login role that may become any of 10,000 roles takes 28 ms for its first SET ROLE, and again after every GRANT."""

# PostgreSQL cuts longer names off without an error, and two tenants would meet in one schema.
_SCHEMA: Final = re.compile(r"tenant_[a-z0-9_]{1,56}", re.ASCII)
_ROLE: Final = re.compile(r"csm_t_[1-9][0-9]{0,18}", re.ASCII)
_LOGIN: Final = re.compile(r"csm_pool_(?:0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionPooling:
    """A tenant's part of the connections, and how its transactions on them are kept apart from each other."""

    min_connections: int = 2
    """Each process keeps so many for it while it is active, as far as all active tenants' together go round."""
    max_connections: int = 50
    """Beyond so many in one process it waits for its own."""
    is_serializable: bool = False
    """Whether all its transactions are SERIALIZABLE, also those whose rule asks for less."""


DEFAULT_POOLING: Final = ConnectionPooling()
DEFAULT_CACHE_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a tenant's rows live, as the registry says it; never put together from the tenant's id at use.

    Raises ValueError for names that no tenant can have, such as those of the platform's own schemas and roles.
    """

    tenant_id: TenantId
    uid: UUID
    schema: str
    """`tenant_org_12345`"""
    role: str
    """Has rights on the schema."""
    login: str
    """Logs in. Of a pooled tenant, it has no rights and may become the role; `TENANTS_PER_LOGIN` tenants share it.

    Of a strict tenant it is the role itself, which can become no other.
    """
    pooling: ConnectionPooling = DEFAULT_POOLING
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """So much of the cache it may fill."""

    def __post_init__(self) -> None:
        """Refuse names that no tenant can have."""
        for pattern, name in ((_SCHEMA, self.schema), (_ROLE, self.role)):
            if not pattern.fullmatch(name):
                message = f"{name!r} is not the name of a tenant's schema or role"
                raise ValueError(message)
        if not self.is_strict and not _LOGIN.fullmatch(self.login):
            message = f"{self.login!r} is not the name of a tenant's login role"
            raise ValueError(message)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Placement":
        """Read a row of `csm_system.tenants`."""
        return cls(
            tenant_id=TenantId(row["id"]),
            uid=row["uid"],
            schema=row["schema_name"],
            role=row["role_name"],
            login=row["login_role"],
            pooling=ConnectionPooling(
                min_connections=row["min_connections"],
                max_connections=row["max_connections"],
                is_serializable=row["is_serializable"],
            ),
            cache_bytes=row["cache_bytes"],
        )

    @property
    def number(self) -> int:
        """What names the tenant's role, and is never used again."""
        return int(self.role.rpartition("_")[2])

    @property
    def is_strict(self) -> bool:
        """Whether nobody else logs in as its login role."""
        return self.login == self.role
