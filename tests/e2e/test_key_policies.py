"""A key policy on a running stack, by the command line: set, locked, kept from the platform, loosened by two."""

import json
from typing import Any, Final

import pytest

from tests.fixtures.stack import Stack

TENANT: Final = "guarded"
DENIED, PRECONDITION = 3, 4
RULE: Final = {
    "keys": ["services"],
    "operations": ["ENCRYPT", "DECRYPT"],
    "principals": ["tenant-member"],
    "reason_codes": ["CUSTOMER_INITIATED"],
}


def done(stack: Stack, *arguments: str) -> Any:
    ran = stack.bulkhead(*arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def refused(stack: Stack, *arguments: str) -> tuple[int, str]:
    ran = stack.bulkhead(*arguments, "--json")
    return ran.returncode, json.loads(ran.stderr)["error"]["reason"]


@pytest.fixture(scope="module")
def people(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """The first administrator by the invitation, another whom the platform vouches for, and a member."""
    if stack.bulkhead("tenants", "get", TENANT).returncode != 0:
        done(stack, "tenants", "create", TENANT)
    folder = tmp_path_factory.mktemp("tokens")
    invitation, first, second, member = (str(folder / name) for name in ("invitation", "first", "second", "member"))
    assert stack.bulkhead("tokens", "enrolment", TENANT, "--out", invitation).returncode == 0
    assert stack.bulkhead("tokens", "redeem", TENANT, "--file", invitation, "--out", first).returncode == 0
    done(stack, "tokens", "issue", TENANT, "--role", "tenant-admin", "--subject", "ben", "--out", second)
    done(stack, "tokens", "issue", TENANT, "--scope", "keys.use", "--subject", "mia", "--out", member)
    return {name: ("--token-file", file) for name, file in (("first", first), ("second", second), ("member", member))}


@pytest.mark.behaviour("S2.11", "S2.12", "H26")
def test_a_policy_is_set_locked_and_loosened_by_two(
    stack: Stack, people: dict[str, tuple[str, str]], tmp_path: Any
) -> None:
    first, second, member = (people[name] for name in ("first", "second", "member"))
    files = {"plain": "x", "policy": {"enforced": True, "rules": [RULE]}, "open": {"enforced": False, "locked": False}}
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    seal = ("encryption", "encrypt", TENANT, "--file", str(tmp_path / "plain"))
    policy = ("keys", "policy")
    done(stack, *seal, *member)
    done(stack, *policy, "set", TENANT, "--file", str(tmp_path / "policy"), *first)
    done(stack, *policy, "lock", TENANT, *first)
    no_code = refused(stack, *seal, *member)
    done(stack, *seal, *member, "--reason-code", "customer-initiated", "--reason", "invoice 7")
    opening = ("--file", str(tmp_path / "open"))
    refusals = {
        "platform": refused(stack, *policy, "set", TENANT, *opening),
        "one": refused(stack, *policy, "set", TENANT, *opening, *first),
    }
    change = done(stack, *policy, "propose", TENANT, *opening, *first)["proposal"]["id"]
    refusals["the same"] = refused(stack, *policy, "approve", TENANT, change, *first)
    opened = done(stack, *policy, "approve", TENANT, change, *second)
    done(stack, *seal, *member)

    assert no_code == (DENIED, "KEY_POLICY_DENIED")
    assert refusals == {
        "platform": (DENIED, "KEY_POLICY_LOCKED"),
        "one": (PRECONDITION, "KEY_POLICY_LOOSENED"),
        "the same": (DENIED, "SECOND_PERSON_NEEDED"),
    }
    assert (opened["enforced"], opened["locked"]) == (False, False)


@pytest.mark.behaviour("S2.11")
def test_a_use_under_dual_control_waits_for_another_person(
    stack: Stack, people: dict[str, tuple[str, str]], tmp_path: Any
) -> None:
    first, member = people["first"], people["member"]
    (tmp_path / "plain").write_text("x")
    dual = {"enforced": True, "rules": [{**RULE, "dual_control": True}]}
    for name, content in (("dual", dual), ("open", {"enforced": False})):
        (tmp_path / name).write_text(json.dumps(content))
    done(stack, "keys", "policy", "set", TENANT, "--file", str(tmp_path / "dual"), *first)
    seal = ("encryption", "encrypt", TENANT, "--file", str(tmp_path / "plain"), *member)
    code = ("--reason-code", "customer-initiated")
    waits = refused(stack, *seal, *code)
    (approval,) = done(stack, "keys", "policy", "approvals", TENANT, *first)["key_use_approvals"]
    done(stack, "keys", "policy", "approve-use", approval["name"], "--uses", "1", *first)
    done(stack, *seal, *code)
    again = refused(stack, *seal, *code)
    done(stack, "keys", "policy", "set", TENANT, "--file", str(tmp_path / "open"), *first)

    assert waits == again == (DENIED, "KEY_USE_NEEDS_APPROVAL")
    assert approval["use"]["principal"] == "tenant-member:mia"
