"""What a policy may say, and all that is wrong with one at once."""

import json
from types import SimpleNamespace
from typing import Any, Final

import pytest
from google.protobuf import json_format

from bulkhead.v1 import encryption_pb2, key_policies_pb2, key_uses_pb2
from control_plane.errors import Violations
from control_plane.key_policies.messages import read_terms, read_use, write_policy
from control_plane.key_policies.model import (
    MOST_RULES,
    UNSET,
    Day,
    Operation,
    ReasonCode,
    Terms,
    person_of,
    principal_violation,
)
from control_plane.key_policies.policy import Policy

RULE: Final[dict[str, Any]] = {
    "keys": ["*"],
    "operations": ["ENCRYPT", "DECRYPT"],
    "principals": ["tenant-member", "service:crm/alice"],
    "reason_codes": ["CUSTOMER_INITIATED"],
    "time_windows": [{"days": ["MONDAY"], "start": "08:30", "end": "18:00", "time_zone": "Europe/Berlin"}],
    "dual_control": True,
}
GOOD: Final = {"enforced": True, "rules": [RULE]}


def read(said: object, mask: tuple[str, ...] = ("enforced", "rules", "locked")) -> tuple[Terms, dict[str, str]]:
    violations = Violations()
    message = json_format.Parse(json.dumps(said), key_policies_pb2.KeyPolicy())
    terms = read_terms(message, mask, UNSET, violations=violations)
    return terms, {violation.field: violation.description for violation in violations.found}


def test_what_is_read_is_shown_again() -> None:
    terms, wrong = read(GOOD)
    shown = write_policy(Policy(terms=terms), "tenants/org_1", proposal=None)
    again, _ = read(json_format.MessageToDict(shown, preserving_proto_field_name=True))

    assert wrong == {}
    assert again == terms


def test_fields_that_the_mask_does_not_name_stay() -> None:
    terms, _ = read({**GOOD, "locked": True}, ("locked",))

    assert terms == Terms(locked=True)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    _, wrong = read({
        "rules": [
            {},
            {
                "keys": ["Services", "a_b"],
                "operations": [99],
                "principals": ["alice", "platform-admin", "tenant-member:"],
                "reason_codes": [77],
                "time_windows": [
                    {"start": "8:30"},
                    {"start": "12:00", "end": "12:00"},
                    {"time_zone": "Europe/Atlantis"},
                    {"days": [9]},
                ],
            },
            {"keys": ["*"], "operations": ["SIGN"], "principals": ["service"], "dual_control": True},
        ]
    })  # fmt: skip
    rule = "key_policy.rules[1]"

    assert list(wrong) == [
        f"{rule}.operations",
        f"{rule}.reason_codes",
        f"{rule}.time_windows[3].days",
        "key_policy.rules[0].keys",
        "key_policy.rules[0].principals",
        "key_policy.rules[0].operations",
        f"{rule}.keys",
        f"{rule}.principals",
        f"{rule}.time_windows[0]",
        f"{rule}.time_windows[1]",
        f"{rule}.time_windows[2]",
        "key_policy.rules[2].dual_control",
    ]


def test_a_policy_has_its_bounds() -> None:
    _, many = read({"rules": [RULE] * (MOST_RULES + 1)})
    _, long = read({"rules": [{**RULE, "principals": [f"tenant-member:{n}{'x' * 190}" for n in range(32)]}] * 9})
    _, wide = read({"rules": [{**RULE, "keys": [f"k{n}" for n in range(33)]}]})
    _, late = read({"rules": [{**RULE, "time_windows": [{}] * 33}]})

    assert set(many) == {"key_policy.rules"}
    assert set(long) == {"key_policy.rules"}
    assert set(wide) == {"key_policy.rules[0].keys"}
    assert set(late) == {"key_policy.rules[0].time_windows"}


@pytest.mark.parametrize(
    ("principal", "person"),
    [
        ("tenant-member:alice", "alice"),
        ("tenant-admin:alice", "alice"),
        ("service:crm/alice", "alice"),
        ("service:crm/a/b:c", "a/b:c"),
        ("tenant-member:a/b:c", "a/b:c"),
    ],
)
def test_a_person_is_the_same_whatever_the_credential(principal: str, person: str) -> None:
    assert person_of(principal) == person


@pytest.mark.parametrize("name", ["tenant-member", "service:crm/alice", "tenant-admin:a:b", "tenant-member:é"])
def test_roles_and_principals_can_be_named(name: str) -> None:
    assert principal_violation(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "*",
        "alice",
        "auditor",
        "tenant-member:",
        "edge:local",
        "tenant-member:a\n",
        "tenant-member: a",
        "tenant-member:e\u0301",
        "service:crm",
        "service:/a",
        "service:crm/",
    ],
)
def test_nobody_else_can(name: str) -> None:
    assert principal_violation(name) is not None


def test_the_words_of_the_model_and_of_the_protos_are_the_same() -> None:
    use, window = key_uses_pb2.KeyUse, key_policies_pb2.KeyPolicy.TimeWindow

    assert {f"{each}" for each in Operation} | {"OPERATION_UNSPECIFIED"} == set(use.Operation.keys())
    assert {f"{each}" for each in ReasonCode} | {"REASON_CODE_UNSPECIFIED"} == set(use.ReasonCode.keys())
    assert {f"{each}" for each in Day} | {"DAY_UNSPECIFIED"} == set(window.Day.keys())


def test_a_reason_code_that_there_is_not_is_a_violation_and_no_reason() -> None:
    request, violations = encryption_pb2.DecryptRequest(), Violations()
    # As it comes from somebody with newer protos.
    request.MergeFromString(b"\x30\x63")
    call: Any = SimpleNamespace(actor="tenant-member:alice", principal=None)
    use = read_use(request, "services", Operation.DECRYPT, call=call, violations=violations)

    assert [violation.field for violation in violations.found] == ["reason_code"]
    assert use.reason_code is None
