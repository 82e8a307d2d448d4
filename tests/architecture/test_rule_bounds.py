"""What no rule may say, whichever RPC it is of.

Most tests derive from the rules what they expect. So a rule that lets too many in is kept like any other: what is too
many is said here, of all of them at once.
"""

from collections.abc import Iterator
from typing import Final

import pytest
from google.protobuf.descriptor import MethodDescriptor

from bulkhead.v1 import rules_pb2
from control_plane.serving.principal import SCOPED, TENANT_BOUND, Role
from control_plane.serving.rules import PLATFORM_FILES, role_number

METHODS: Final[list[MethodDescriptor]] = [
    method for file in PLATFORM_FILES for service in file.services_by_name.values() for method in service.methods
]
BY_SCOPE: Final = {role_number(role) for role in SCOPED}
# Whoever works in or for a tenant from day to day, and has nothing to do there while it is suspended.
AT_WORK: Final = {role_number(Role.TENANT_MEMBER), role_number(Role.SERVICE)}
TENANTS: Final = "bulkhead.v1.TenantService."
SECRETS: Final = "bulkhead.v1.SecretService."
ESCROWS: Final = "bulkhead.v1.EscrowService."
# Whether a tenant's keys lie with others is the tenant's to say.
DECIDE_OVER_ESCROW: Final = {f"{ESCROWS}{rpc}" for rpc in ("EnableEscrow", "ConfirmEscrow", "DisableEscrow")}
# By its name, whatever its rule says: the one RPC that gives out a tenant's own secrets.
GIVES_OUT_VALUES: Final = {"bulkhead.v1.SecretService.AccessSecretVersion"}
# A tenant's own keys: the platform's people neither make, use nor end one.
OWN_KEYS: Final = {
    f"bulkhead.v1.{name}"
    for name in (
        "KeyService.CreateKey",
        "KeyService.ScheduleKeyDestruction",
        "KeyService.RestoreKey",
        "KeyImportService.CreateImportJob",
        "KeyImportService.ImportKey",
        "SigningService.Sign",
        "SigningService.Verify",
        "EncryptionService.GenerateDataKey",
        "EncryptionService.Encrypt",
        "EncryptionService.Decrypt",
        "EncryptionService.Rewrap",
    )
}
READS_VALUES: Final = {rules_pb2.ROLE_TENANT_MEMBER, rules_pb2.ROLE_SERVICE}
# The consent of a second person of the tenant's: the platform gives none, nor does a member or a service.
CONSENTS: Final = {
    f"bulkhead.v1.KeyPolicyService.{name}"
    for name in (
        *("ProposeKeyPolicyChange", "ApproveKeyPolicyChange", "RejectKeyPolicyChange"),
        *("ApproveKeyUse", "DenyKeyUse"),
    )
}
OF_A_TENANT: Final = {role_number(role) for role in TENANT_BOUND}
# Of a sealed tenant nothing is opened: there is its entry in the registry, its audit log, the proof of what of it is
# destroyed, and the way out, or to its end.
SERVE_SEALED: Final = {
    "bulkhead.v1.AuditService.ListAuditEntries",
    "bulkhead.v1.AuditService.ExportAuditLog",
    "bulkhead.v1.AuditService.ListAuditKeys",
    "bulkhead.v1.AuditService.VerifyAuditLog",
    "bulkhead.v1.KeyService.GetDestructionReceipt",
    "bulkhead.v1.KeyService.ListDestructionReceipts",
    "bulkhead.v1.TenantService.DeleteTenant",
    "bulkhead.v1.TenantService.GetTenant",
    "bulkhead.v1.TenantService.SealTenant",
    "bulkhead.v1.TenantService.UndeleteTenant",
    "bulkhead.v1.TenantService.UnsealTenant",
}
# A tenant's own kill switch: it asks nobody before it is shut. Nobody of it is left who could open it.
BY_ITSELF: Final = {"bulkhead.v1.TenantService.SealTenant"}
# The message itself is the credential.
OPEN_TO_ANYBODY: Final = {"bulkhead.v1.TokenService.RedeemEnrolmentToken"}


def excesses(name: str, rule: rules_pb2.Rule) -> Iterator[str]:
    """Say whom or what a rule lets in that none may."""
    roles = set(rule.roles)
    opens_tenant = rule.isolation != rules_pb2.ISOLATION_NONE
    changes = rule.audit == rules_pb2.AUDIT_EFFECTS
    if rule.unauthenticated and name not in OPEN_TO_ANYBODY:
        yield "is open to whoever shows no credential"
    if opens_tenant and roles & BY_SCOPE and not rule.scope:
        yield "lets roles that go by scopes at a tenant's data without one"
    if rule.scope and rule.scope.endswith(".read") is changes:
        yield "asks for the scope of something else"
    if opens_tenant and roles & {rules_pb2.ROLE_PROVIDER_OPERATOR}:
        yield "shows a provider a tenant's data"
    deciding = {rules_pb2.ROLE_PLATFORM_ADMIN} | ({rules_pb2.ROLE_TENANT_ADMIN} if name in BY_ITSELF else set())
    if changes and name.startswith(TENANTS) and roles != deciding:
        yield "lets others than the platform's administrators decide over tenants"
    if opens_tenant and rule.serves_suspended and roles & AT_WORK:
        yield "serves who works for a suspended tenant"
    if name.startswith(SECRETS) and not roles <= OF_A_TENANT:
        yield "shows the platform's people what a tenant keeps secret"
    yield from excesses_by_name(name, rule)
    if rule.serves_sealed:
        yield from excesses_of_the_sealed(name, rule)


def excesses_of_own_keys(name: str, rule: rules_pb2.Rule) -> Iterator[str]:
    """Say how a rule lets others than the tenant at its own keys, or at one without a trace."""
    if name not in OWN_KEYS:
        return
    if not set(rule.roles) <= OF_A_TENANT:
        yield "gives the platform's people a tenant's own keys"
    if rule.audit != rules_pb2.AUDIT_EFFECTS:
        yield "uses a tenant's own keys without an entry in the audit log"
    if rule.lease_class:
        yield "uses a tenant's own keys by a decision of a moment ago"


def excesses_by_name(name: str, rule: rules_pb2.Rule) -> Iterator[str]:
    """Say whom or what the rule of an RPC lets in that this one may not."""
    yield from excesses_of_own_keys(name, rule)
    yield from excesses_of_escrows(name, set(rule.roles))
    roles, changes = set(rule.roles), rule.audit == rules_pb2.AUDIT_EFFECTS
    if name in GIVES_OUT_VALUES:
        yield from excesses_of_values(rule)
    if name in CONSENTS and (roles != {rules_pb2.ROLE_TENANT_ADMIN} or not changes):
        yield "lets others than the tenant's administrators consent, or without an entry"


def excesses_of_escrows(name: str, roles: set[rules_pb2.Role.ValueType]) -> Iterator[str]:
    """Say whom a rule lets at an escrow whose affair it is not."""
    if not name.startswith(ESCROWS):
        return
    if name in DECIDE_OVER_ESCROW and roles != {rules_pb2.ROLE_TENANT_ADMIN}:
        yield "lets others than a tenant's administrators decide over its escrow"
    if roles & {rules_pb2.ROLE_PROVIDER_OPERATOR, rules_pb2.ROLE_SERVICE}:
        yield "lets a provider, or a process, at an escrow"


def excesses_of_values(rule: rules_pb2.Rule) -> Iterator[str]:
    """Say how a rule gives out values otherwise than to whom the tenant gave the scope, each time with an entry."""
    if not set(rule.roles) <= READS_VALUES or rule.scope != "secrets.access":
        yield "gives values to others than who has the scope for them"
    if rule.audit != rules_pb2.AUDIT_EFFECTS:
        yield "gives out values without an entry in the audit log"
    if rule.lease_class or rule.serves_suspended:
        yield "gives out values by a decision of a moment ago, or of a suspended tenant"


def excesses_of_the_sealed(name: str, rule: rules_pb2.Rule) -> Iterator[str]:
    """Say what a rule opens of a sealed tenant, of which nothing is opened."""
    if name not in SERVE_SEALED:
        yield "opens a sealed tenant"
    if not rule.serves_suspended:
        yield "serves a sealed tenant what it does not serve a suspended one"
    if rule.isolation != rules_pb2.ISOLATION_NONE and rule.audit == rules_pb2.AUDIT_EFFECTS:
        yield "writes into a sealed tenant"


@pytest.mark.behaviour("H1")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.full_name))
def test_a_rule_lets_in_nobody_whom_none_may(method: MethodDescriptor) -> None:
    assert list(excesses(method.full_name, method.GetOptions().Extensions[rules_pb2.rule])) == []


def test_no_call_that_names_a_tenant_streams_its_answers() -> None:
    """They would have left before the tenant is looked at again."""
    streaming = [
        method.full_name
        for method in METHODS
        if method.server_streaming and method.GetOptions().Extensions[rules_pb2.rule].tenant
    ]

    assert streaming == []


@pytest.mark.parametrize(
    ("rule", "excess"),
    [
        (rules_pb2.Rule(unauthenticated=True), "credential"),
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_TENANT_MEMBER], isolation=rules_pb2.ISOLATION_SERIALIZABLE), "without"),
        (rules_pb2.Rule(scope="a.read", audit=rules_pb2.AUDIT_EFFECTS), "something else"),
        (rules_pb2.Rule(scope="a.write", audit=rules_pb2.AUDIT_DENIALS), "something else"),
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_PROVIDER_OPERATOR], isolation=rules_pb2.ISOLATION_SERIALIZABLE), "data"),
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_TENANT_ADMIN], audit=rules_pb2.AUDIT_EFFECTS), "decide over tenants"),
        (rules_pb2.Rule(serves_sealed=True, serves_suspended=True), "opens a sealed"),
        (rules_pb2.Rule(serves_sealed=True), "does not serve a suspended"),
        (
            rules_pb2.Rule(
                serves_sealed=True, isolation=rules_pb2.ISOLATION_SERIALIZABLE, audit=rules_pb2.AUDIT_EFFECTS
            ),
            "writes into a sealed",
        ),
    ],
)
def test_the_build_notices_a_rule_that_lets_in_too_many(rule: rules_pb2.Rule, excess: str) -> None:
    assert excess in " ".join(excesses("bulkhead.v1.TenantService.PurgeTenant", rule))


@pytest.mark.behaviour("S9.3")
@pytest.mark.parametrize(
    ("rule", "excess"),
    [
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_PLATFORM_ADMIN]), "the platform's people"),
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_PROVIDER_OPERATOR]), "the platform's people"),
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_TENANT_ADMIN]), "others than who has the scope"),
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_TENANT_MEMBER], scope="secrets.read"), "others than who has the scope"),
        (rules_pb2.Rule(scope="secrets.access", audit=rules_pb2.AUDIT_DENIALS), "without an entry"),
        (rules_pb2.Rule(scope="secrets.access", lease_class="secrets.access"), "a moment ago"),
        (rules_pb2.Rule(scope="secrets.access", serves_suspended=True), "suspended"),
    ],
)
def test_the_build_notices_a_rule_that_gives_values_to_too_many(rule: rules_pb2.Rule, excess: str) -> None:
    assert excess in " ".join(excesses("bulkhead.v1.SecretService.AccessSecretVersion", rule))


@pytest.mark.behaviour("S2.11")
@pytest.mark.parametrize(
    ("rule", "excess"),
    [
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_PLATFORM_ADMIN]), "the platform's people"),
        (rules_pb2.Rule(roles=[rules_pb2.ROLE_PROVIDER_OPERATOR]), "the platform's people"),
        (rules_pb2.Rule(audit=rules_pb2.AUDIT_DENIALS), "without an entry"),
        (rules_pb2.Rule(lease_class="keys"), "a moment ago"),
    ],
)
@pytest.mark.parametrize("name", sorted(OWN_KEYS))
def test_the_build_notices_a_rule_that_gives_a_tenants_own_keys_to_too_many(
    name: str, rule: rules_pb2.Rule, excess: str
) -> None:
    assert excess in " ".join(excesses(name, rule))


@pytest.mark.behaviour("S2.11", "H26")
@pytest.mark.parametrize(
    "rule",
    [
        rules_pb2.Rule(roles=[rules_pb2.ROLE_TENANT_ADMIN], audit=rules_pb2.AUDIT_DENIALS),
        rules_pb2.Rule(
            roles=[rules_pb2.ROLE_TENANT_ADMIN, rules_pb2.ROLE_PLATFORM_ADMIN], audit=rules_pb2.AUDIT_EFFECTS
        ),
        rules_pb2.Rule(roles=[rules_pb2.ROLE_PROVIDER_OPERATOR], audit=rules_pb2.AUDIT_EFFECTS),
    ],
)
def test_the_build_notices_a_rule_that_lets_others_consent(rule: rules_pb2.Rule) -> None:
    assert "consent" in " ".join(excesses("bulkhead.v1.KeyPolicyService.ApproveKeyUse", rule))


@pytest.mark.behaviour("S2.13")
@pytest.mark.parametrize("role", [rules_pb2.ROLE_PLATFORM_ADMIN, rules_pb2.ROLE_TENANT_MEMBER, rules_pb2.ROLE_AUDITOR])
def test_the_build_notices_a_rule_that_lets_others_decide_over_an_escrow(role: rules_pb2.Role.ValueType) -> None:
    rule = rules_pb2.Rule(roles=[rules_pb2.ROLE_TENANT_ADMIN, role])

    for name in DECIDE_OVER_ESCROW:
        assert "decide over its escrow" in " ".join(excesses(name, rule))


@pytest.mark.parametrize("role", [rules_pb2.ROLE_PROVIDER_OPERATOR, rules_pb2.ROLE_SERVICE])
def test_the_build_notices_a_rule_that_lets_a_provider_at_an_escrow(role: rules_pb2.Role.ValueType) -> None:
    assert "a provider" in " ".join(excesses(f"{ESCROWS}BeginRecovery", rules_pb2.Rule(roles=[role])))


def test_what_a_bound_names_is_there() -> None:
    """Renamed, it would pass unseen."""
    assert {method.full_name for method in METHODS} >= GIVES_OUT_VALUES | CONSENTS | OWN_KEYS | DECIDE_OVER_ESCROW
