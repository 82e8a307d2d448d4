"""Who may do what, from the rule alone."""

from uuid import UUID

import pytest

from bulkhead.v1 import rules_pb2
from control_plane.errors import NotFoundError, PermissionDeniedError, PreconditionError
from control_plane.ids import TenantId
from control_plane.postgres.directory import Entry
from control_plane.postgres.placement import Placement
from control_plane.serving.interceptors.authorization import check_role, check_served, check_tenant
from control_plane.serving.principal import TENANT_BOUND, Principal, Role

_ORG_1, _ORG_2 = TenantId("org_1"), TenantId("org_2")
_RULE = rules_pb2.Rule(
    tenant="parent",
    roles=[rules_pb2.ROLE_TENANT_ADMIN, rules_pb2.ROLE_TENANT_MEMBER, rules_pb2.ROLE_PLATFORM_ADMIN],
    scope="certificates.read",
    isolation=rules_pb2.ISOLATION_SERIALIZABLE,
)


def _principal(role: Role, *scopes: str) -> Principal:
    tenant = _ORG_1 if role in TENANT_BOUND else None
    return Principal(subject="alice", role=role, tenant=tenant, scopes=frozenset(scopes))


def _entry(state: str) -> Entry:
    placement = Placement(tenant_id=_ORG_1, uid=UUID(int=1), schema="tenant_org_1", role="csm_t_1", login="csm_pool_0")
    return Entry(placement=placement, state=state, schema_version=1)


def test_a_role_that_the_rule_does_not_name_is_refused() -> None:
    with pytest.raises(PermissionDeniedError) as refused:
        check_role(_RULE, _principal(Role.AUDITOR, "certificates.read"))

    assert refused.value.code == "ROLE_NOT_ALLOWED"


def test_a_member_needs_the_rules_scope() -> None:
    check_role(_RULE, _principal(Role.TENANT_MEMBER, "certificates.read"))
    with pytest.raises(PermissionDeniedError) as refused:
        check_role(_RULE, _principal(Role.TENANT_MEMBER, "certificates.write"))

    assert refused.value.code == "SCOPE_MISSING"


@pytest.mark.parametrize("role", [Role.TENANT_ADMIN, Role.PLATFORM_ADMIN])
def test_an_administrator_needs_no_scope(role: Role) -> None:
    check_role(_RULE, _principal(role))


@pytest.mark.parametrize("role", sorted(TENANT_BOUND))
def test_a_tenants_caller_is_refused_at_any_other_tenant(role: Role) -> None:
    check_tenant(_principal(role), _ORG_1)
    with pytest.raises(PermissionDeniedError):
        check_tenant(_principal(role), _ORG_2)


def test_the_platforms_administrator_may_name_any_tenant() -> None:
    check_tenant(_principal(Role.PLATFORM_ADMIN), _ORG_2)


def test_a_suspended_tenant_is_served_only_where_the_rule_says_so() -> None:
    with pytest.raises(PreconditionError) as refused:
        check_served(_RULE, _entry("SUSPENDED"), "tenants/org_1")
    serving = rules_pb2.Rule(serves_suspended=True, isolation=rules_pb2.ISOLATION_SERIALIZABLE)

    assert refused.value.code == "TENANT_SUSPENDED"
    assert check_served(serving, _entry("SUSPENDED"), "tenants/org_1").state == "SUSPENDED"


@pytest.mark.behaviour("S2.3")
def test_a_sealed_tenant_is_served_only_where_the_rule_says_so() -> None:
    suspended = rules_pb2.Rule(serves_suspended=True, isolation=rules_pb2.ISOLATION_SERIALIZABLE)
    with pytest.raises(PreconditionError) as refused:
        check_served(suspended, _entry("SEALED"), "tenants/org_1")
    serving = rules_pb2.Rule(serves_sealed=True, isolation=rules_pb2.ISOLATION_SERIALIZABLE)

    assert refused.value.code == "TENANT_SEALED"
    assert check_served(serving, _entry("SEALED"), "tenants/org_1").state == "SEALED"


def test_a_read_only_tenant_is_served_but_for_what_changes_its_data() -> None:
    changing = rules_pb2.Rule(isolation=rules_pb2.ISOLATION_SERIALIZABLE, audit=rules_pb2.AUDIT_EFFECTS)
    with pytest.raises(PreconditionError) as refused:
        check_served(changing, _entry("READ_ONLY"), "tenants/org_1")
    reading = rules_pb2.Rule(isolation=rules_pb2.ISOLATION_SERIALIZABLE, audit=rules_pb2.AUDIT_DENIALS)

    assert refused.value.code == "TENANT_READ_ONLY"
    assert check_served(reading, _entry("READ_ONLY"), "tenants/org_1").state == "READ_ONLY"
    assert check_served(changing, _entry("ACTIVE"), "tenants/org_1").state == "ACTIVE"


def test_a_tenant_that_is_being_created_is_not_served() -> None:
    with pytest.raises(PreconditionError) as refused:
        check_served(_RULE, _entry("PROVISIONING"), "tenants/org_1")

    assert refused.value.code == "TENANT_NOT_READY"


def test_an_absent_tenant_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        check_served(_RULE, None, "tenants/org_1")


@pytest.mark.parametrize("role", list(Role))
def test_a_principal_has_a_tenant_exactly_when_its_role_is_a_tenants(role: Role) -> None:
    wrong = None if role in TENANT_BOUND else _ORG_1
    with pytest.raises(ValueError, match="tenant"):
        Principal(subject="alice", role=role, tenant=wrong)
