"""Who calls."""

from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import override

from control_plane.ids import TenantId


class Role(StrEnum):
    """What a caller is; see `Role` in rules.proto for what each may do."""

    PLATFORM_ADMIN = "platform-admin"
    PROVIDER_OPERATOR = "provider-operator"
    TENANT_ADMIN = "tenant-admin"
    TENANT_MEMBER = "tenant-member"
    AUDITOR = "auditor"
    SERVICE = "service"
    EDGE = "edge"


TENANT_BOUND = frozenset({Role.TENANT_ADMIN, Role.TENANT_MEMBER, Role.AUDITOR, Role.SERVICE})
"""Roles whose every right is inside one tenant."""

SCOPED = frozenset({Role.TENANT_MEMBER, Role.AUDITOR, Role.SERVICE})
"""Roles that may only do what their scopes name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller whose credential was verified."""

    subject: str
    role: Role
    tenant: TenantId | None = None
    scopes: frozenset[str] = frozenset()
    token_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse a tenant's role without a tenant, and a platform's role with one."""
        if (self.role in TENANT_BOUND) != (self.tenant is not None):
            message = f"role {self.role} {'needs' if self.role in TENANT_BOUND else 'has no'} tenant"
            raise ValueError(message)

    @override
    def __str__(self) -> str:
        """As the audit log names it: `tenant-member:alice`."""
        return f"{self.role}:{self.subject}"
