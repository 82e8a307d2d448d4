"""Where a tenant's rows live. Pure."""

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from control_plane.ids import TenantId

TENANTS_PER_LOGIN: Final = 200
"""A login role that may become any of 10,000 roles takes 28 ms for its first SET ROLE, and again after every GRANT."""

# PostgreSQL cuts longer names off without an error, and two tenants would meet in one schema.
_SCHEMA: Final = re.compile(r"tenant_[a-z0-9_]{1,56}", re.ASCII)
_ROLE: Final = re.compile(r"csm_t_[1-9][0-9]{0,18}", re.ASCII)
_LOGIN: Final = re.compile(r"csm_pool_(?:0|[1-9][0-9]{0,18})", re.ASCII)


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
    """Cannot log in; has rights on the schema."""
    login: str
    """Can log in; has no rights, and may become the role. Shared by `TENANTS_PER_LOGIN` tenants."""

    def __post_init__(self) -> None:
        """Refuse names that no tenant can have."""
        for pattern, name in ((_SCHEMA, self.schema), (_ROLE, self.role), (_LOGIN, self.login)):
            if not pattern.fullmatch(name):
                message = f"{name!r} is not the name of a tenant's schema or role"
                raise ValueError(message)
