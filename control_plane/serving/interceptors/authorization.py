"""What a caller may do: its role, scopes and tenant against the method's rule. Decided before anything is looked up.

A tenant's caller that names another tenant reads the same answer whether that tenant exists or not (AIP-211). What is
found out about a tenant that was sealed meanwhile is not answered: its state is looked at again on the way out.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from google.protobuf.message import Message
from typing_extensions import override

from bulkhead.v1 import rules_pb2
from control_plane.errors import NotFoundError, PermissionDeniedError, PreconditionError, TenantSealedError
from control_plane.ids import TenantId
from control_plane.postgres.directory import SEALED, Directory, Entry
from control_plane.serving import names
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context, Interceptor
from control_plane.serving.principal import SCOPED, TENANT_BOUND, Principal
from control_plane.serving.rules import name_templates, role_number

_OPENS_NO_TENANT: Final = rules_pb2.ISOLATION_NONE


class Authorization(Interceptor):
    """Lets a call through when its rule says so, with the tenant that it names already found and open for it."""

    def __init__(self, directory: Directory) -> None:
        """Find tenants in `directory`."""
        super().__init__()
        self._directory = directory
        self._templates = name_templates()

    @override
    @asynccontextmanager
    async def around(self, method: str, request: Message | None, context: Context) -> AsyncIterator[None]:
        call = current_call()
        if call.principal is not None:
            check_role(call.rule, call.principal)
        if call.rule.tenant:
            name = _field(request, call.rule.tenant)
            names.check_form(self._templates[method], name, field=call.rule.tenant)
            tenant_id = names.tenant_of(name, field=call.rule.tenant)
            call.tenant_name = names.tenant_name(tenant_id)
            if call.principal is not None:
                check_tenant(call.principal, tenant_id)
            entry = await self._open(call.rule, tenant_id)
            call.placement, call.is_sealed = entry.placement, entry.state == SEALED
            yield
            await self._leave(call.rule, tenant_id)
        else:
            yield

    async def _open(self, rule: rules_pb2.Rule, tenant_id: TenantId) -> Entry:
        name = names.tenant_name(tenant_id)
        entry = await self._directory.find(tenant_id)
        try:
            return check_served(rule, entry, name)
        except (NotFoundError, PreconditionError) as error:
            if rule.unauthenticated:
                # Whoever needs no credential must not learn which tenants there are, nor how they are.
                raise PermissionDeniedError(error.message) from error
            raise

    async def _leave(self, rule: rules_pb2.Rule, tenant_id: TenantId) -> None:
        """Raise where the tenant has been sealed since: whatever the call found, or did, is not told."""
        entry = await self._directory.find(tenant_id)
        if entry is not None and entry.state == SEALED:
            await self._open(rule, tenant_id)


def check_role(rule: rules_pb2.Rule, principal: Principal) -> None:
    """Raise PermissionDeniedError unless the rule names the caller's role, and its scopes the rule's."""
    if role_number(principal.role) not in rule.roles:
        raise PermissionDeniedError("the role may not call this method", reason="ROLE_NOT_ALLOWED")
    if rule.scope and principal.role in SCOPED and rule.scope not in principal.scopes:
        raise PermissionDeniedError("the credential lacks the scope", reason="SCOPE_MISSING")


def check_tenant(principal: Principal, tenant_id: TenantId) -> None:
    """Raise PermissionDeniedError when the caller belongs to another tenant."""
    if principal.role in TENANT_BOUND and principal.tenant != tenant_id:
        raise PermissionDeniedError("the caller belongs to another tenant", reason="TENANT_MISMATCH")


def check_served(rule: rules_pb2.Rule, entry: Entry | None, name: str) -> Entry:
    """Return the tenant's entry; raise NotFoundError without one, PreconditionError when its state forbids the call."""
    if entry is None:
        raise NotFoundError(name)
    if entry.state == SEALED and not rule.serves_sealed:
        raise TenantSealedError(name)
    if entry.state == "SUSPENDED" and not rule.serves_suspended:
        raise PreconditionError(name, f"{name} is suspended", reason="TENANT_SUSPENDED", state=entry.state)
    if entry.state == "READ_ONLY" and changes_data(rule):
        raise PreconditionError(name, f"{name} is read-only", reason="TENANT_READ_ONLY", state=entry.state)
    if entry.state == "PROVISIONING" and not (rule.serves_suspended and rule.isolation == _OPENS_NO_TENANT):
        raise PreconditionError(name, f"{name} is still being created", reason="TENANT_NOT_READY", state=entry.state)
    return entry


def changes_data(rule: rules_pb2.Rule) -> bool:
    """Tell whether the call may change what is the tenant's: it opens the tenant, and leaves an audit entry."""
    return rule.audit == rules_pb2.AUDIT_EFFECTS and rule.isolation != _OPENS_NO_TENANT and not rule.serves_suspended


def _field(request: Any, path: str) -> str:
    for part in path.split("."):
        request = getattr(request, part)
    return str(request)
