"""Who may do what to whose tenant: every RPC, every kind of caller, each against tenants of its own and of others.

What is expected is derived from the rules in the protos; what comes is asked of the running stack. So no RPC can be
missing, and no rule can be there without being kept.
"""

from typing import Final
from uuid import uuid4

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from bulkhead.v1 import rules_pb2
from tests.isolation.rpc_callers import Answer, Caller, World
from tests.isolation.rpc_requests import METHODS, Target, name_resource, path, request, resource_name, rule

EACH_METHOD: Final = pytest.mark.parametrize("method", METHODS, ids=path)
# Roles of the platform's own people: they know which tenants there are.
PLATFORM: Final = {rules_pb2.ROLE_PLATFORM_ADMIN, rules_pb2.ROLE_PROVIDER_OPERATOR}
SCOPED: Final = {rules_pb2.ROLE_TENANT_MEMBER, rules_pb2.ROLE_AUDITOR, rules_pb2.ROLE_SERVICE}
COLLECTIONS: Final = (
    "tokens", "certificates", "attestations", "secrets", "destructionReceipts", "importJobs", "keyUseApprovals",
    "keyRecoveries",
)  # fmt: skip
# What is sent is valid but for an etag of yesterday, so that the tenants and their secrets stay as they are.
STALE: Final = {
    "SuspendTenant", "ReactivateTenant", "SealTenant", "UnsealTenant", "DeleteTenant", "UndeleteTenant",
    "DeleteSecret", "DisableSecretVersion", "EnableSecretVersion", "DestroySecretVersion", "RetireKeyVersion",
    "EnableKeyVersion", "ScheduleKeyDestruction", "RestoreKey", "ApproveKeyUse", "DenyKeyUse", "EnableEscrow",
    "DisableEscrow",
}  # fmt: skip
# What each tenant is past: its first administrator has enrolled, its escrow is on, and the recovery was cancelled.
TOO_LATE: Final = {
    "GetEnrolmentToken": "ENROLMENT_CLOSED",
    "ConfirmEscrow": "ESCROW_ON", "ApproveRecovery": "RECOVERY_ENDED", "CancelRecovery": "RECOVERY_ENDED",
}  # fmt: skip
# What is sent is refused by the servicer itself: taken, it would make the edge one that others wait for; or it is no
# ciphertext and no wrapped key, which each tenant would need one of its own of; or it names no change, of which there
# is none.
IMPOSSIBLE: Final = {
    "AcknowledgePolicies", "Decrypt", "Rewrap", "ImportKey", "ApproveKeyPolicyChange", "RejectKeyPolicyChange",
}  # fmt: skip


def _served(method: MethodDescriptor) -> tuple[str, str]:
    """Return what a caller reads that the rule lets through."""
    if method.name in STALE:
        return "ABORTED", "ETAG_MISMATCH"
    if method.name == "ProposeKeyPolicyChange":
        # The tenants' policies are not locked, or nothing else could be asked of their keys.
        return "FAILED_PRECONDITION", "KEY_POLICY_NOT_LOCKED"
    if method.name in TOO_LATE:
        return "FAILED_PRECONDITION", TOO_LATE[method.name]
    return ("INVALID_ARGUMENT", "INVALID_ARGUMENT") if method.name in IMPOSSIBLE else ("OK", "")


def expected(method: MethodDescriptor, caller: Caller, target: str) -> tuple[str, str]:
    """Derive from the rule alone what the caller reads: a code, and the reason of the first refusal that applies."""
    said = rule(method)
    is_stranger = caller.role not in PLATFORM and target != "own"
    refusals = {
        ("UNAUTHENTICATED", "MISSING_AUTHORIZATION"): caller.shows_nothing,
        ("UNAUTHENTICATED", "UNAUTHENTICATED"): caller.role is None,
        ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED"): caller.role not in said.roles,
        ("PERMISSION_DENIED", "SCOPE_MISSING"): caller.role in SCOPED and said.scope not in {"", *caller.scopes},
        ("PERMISSION_DENIED", "TENANT_MISMATCH"): said.tenant and is_stranger,
        ("NOT_FOUND", "NOT_FOUND"): said.tenant and target == "absent",
        ("FAILED_PRECONDITION", "TENANT_SUSPENDED"): said.tenant
        and target == "suspended"
        and not said.serves_suspended,
        ("FAILED_PRECONDITION", "TENANT_SEALED"): said.tenant and target == "sealed" and not said.serves_sealed,
    }
    return next((refusal for refusal, applies in refusals.items() if applies), _served(method))


@EACH_METHOD
@pytest.mark.behaviour("T-A1", "T-A3", "H1", "S2.3")
def test_an_rpc_serves_exactly_the_callers_and_tenants_that_its_rule_names(
    method: MethodDescriptor, world: World
) -> None:
    if rule(method).unauthenticated:
        return
    wrong = []
    for name, caller in world.callers.items():
        for kind, target in world.targets.items():
            answer = world.ask(name, path(method), request(method, target))
            if (answer.code, answer.reason) != expected(method, caller, kind):
                wrong.append((name, kind, answer.code, answer.reason, answer.text, expected(method, caller, kind)))

    assert wrong == []


@EACH_METHOD
def test_somebody_may_call_an_rpc(method: MethodDescriptor, world: World) -> None:
    """The positive twin of all refusals: what everyone is refused might merely be broken."""
    served, _ = _served(method)
    answers = {name: world.ask(name, path(method), request(method, world.own)).code for name in world.callers}

    assert rule(method).unauthenticated or served in answers.values(), answers


@EACH_METHOD
@pytest.mark.behaviour("T-A1", "T-E16", "H14")
def test_a_tenants_caller_cannot_tell_others_tenants_from_absent_ones(method: MethodDescriptor, world: World) -> None:
    """Status, text, headers, trailers and body are the same, whether a tenant is there, suspended, sealed or not."""
    strangers = [name for name, caller in world.callers.items() if caller.role not in PLATFORM]
    others = {kind: target for kind, target in world.targets.items() if kind != "own"}
    for name in strangers:
        answers = {kind: world.ask(name, path(method), request(method, target)) for kind, target in others.items()}

        assert len(set(answers.values())) == 1 or not rule(method).tenant, (name, answers)


@pytest.mark.parametrize("method", [method for method in METHODS if rule(method).unauthenticated], ids=path)
@pytest.mark.behaviour("T-E16")
def test_an_open_rpc_tells_nobody_which_tenants_there_are(method: MethodDescriptor, world: World) -> None:
    answers = {kind: world.ask("nobody", path(method), request(method, it)) for kind, it in world.targets.items()}

    assert len(set(answers.values())) == 1, answers
    assert answers["own"].code in {"PERMISSION_DENIED", "UNAUTHENTICATED"}


def _names_a_resource(method: MethodDescriptor) -> bool:
    probe = Target(tenant="probe", resources={name: uuid4() for name in COLLECTIONS})
    return bool(rule(method).tenant) and any(
        str(id_) in resource_name(method, probe) for id_ in probe.resources.values()
    )


@pytest.mark.parametrize("method", [method for method in METHODS if _names_a_resource(method)], ids=path)
@pytest.mark.parametrize("caller", ["platform-admin", "tenant-admin"])
@pytest.mark.behaviour("T-A1", "S1.4")
def test_an_id_of_another_tenant_is_as_absent_as_one_that_never_was(
    method: MethodDescriptor, caller: str, world: World
) -> None:
    borrowed = Target(tenant=world.own.tenant, resources=world.foreign.resources)
    invented = Target(tenant=world.own.tenant, resources=world.absent.resources)

    who = caller if world.lets_in(caller, method) else world.permitted(method)
    answers = [_blotted(world, who, method, target) for target in (borrowed, invented)]

    assert answers[0] == answers[1]
    assert answers[0].code == "NOT_FOUND"


def _blotted(world: World, caller: Caller | str, method: MethodDescriptor, target: Target) -> Answer:
    answer = world.ask(caller, path(method), request(method, target))
    for id_ in target.resources.values():
        answer = answer.without(id_)
    return answer


@pytest.mark.parametrize("method", [method for method in METHODS if rule(method).tenant], ids=path)
def test_only_the_whole_name_of_a_resource_names_it(method: MethodDescriptor, world: World) -> None:
    caller = world.permitted(method)
    whole = resource_name(method, world.own)
    tenant = f"tenants/{world.own.tenant}"
    misspelt = [
        f"{whole}/",
        f"{whole}/x",
        f"{whole}\n",
        f"/{whole}",
        whole.upper(),
        f"{tenant}//{whole}",
        tenant[:7],
        "",
    ]

    codes = {name: world.ask(caller, path(method), _renamed(method, world.own, name)).code for name in misspelt}

    assert {name: code for name, code in codes.items() if code not in {"INVALID_ARGUMENT", "NOT_FOUND"}} == {}


def _renamed(method: MethodDescriptor, target: Target, name: str) -> Message:
    message = request(method, target)
    name_resource(message, rule(method).tenant, name)
    return message
