"""`bulkhead keys policy`: what is in the file is asked for, what is wrong with it is said, and what waits is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from bulkhead.v1 import key_policies_pb2, key_use_approvals_pb2, key_uses_pb2
from control_plane import errors

NAME = "tenants/org_1/keyPolicy"
RULE = {"keys": ["services"], "operations": ["DECRYPT"], "principals": ["service"], "reason_codes": ["BACKUP"]}
KEY_USE = key_uses_pb2.KeyUse
POLICY = key_policies_pb2.KeyPolicy(
    name=NAME,
    enforced=True,
    locked=True,
    rules=[
        key_policies_pb2.KeyPolicy.Rule(
            keys=["services"],
            operations=[KEY_USE.DECRYPT],
            principals=["service"],
            reason_codes=[KEY_USE.BACKUP],
        )
    ],
    proposal=key_policies_pb2.KeyPolicy.Proposal(id="17", proposer="tenant-admin:ann", loosenings=["unlocks it"]),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"enforced": False, "rules": [RULE]}))
    return path


def test_what_the_file_names_is_changed_and_nothing_else(api: Any, cli: Any, file: Path) -> None:
    api.answer("UpdateKeyPolicy", POLICY)
    done = cli("keys", "policy", "set", "org_1", "--file", str(file), "--etag", "e")
    asked = api.received[0].request

    assert (done.code, list(asked.update_mask.paths)) == (0, ["enforced", "rules"])
    assert (asked.key_policy.name, asked.key_policy.enforced, asked.key_policy.etag) == (NAME, False, "e")
    assert asked.key_policy.rules[0] == POLICY.rules[0]


def test_a_policy_and_what_waits_are_shown(api: Any, cli: Any) -> None:
    api.answer("GetKeyPolicy", POLICY)
    shown = cli("keys", "policy", "show", "org_1").out

    assert 'rules[0]  {"keys": ["services"], "operations": ["DECRYPT"]' in shown
    assert "tenant-admin:ann proposes 17: unlocks it" in shown
    assert cli("keys", "policy", "show", "org_1", "--json").json["proposal"]["id"] == "17"


def test_a_policy_is_locked_and_a_change_proposed(api: Any, cli: Any, file: Path) -> None:
    api.answer("UpdateKeyPolicy", POLICY)
    api.answer("ProposeKeyPolicyChange", POLICY)
    cli("keys", "policy", "lock", "org_1")
    done = cli("keys", "policy", "propose", "org_1", "--file", str(file))
    locked, proposed = (received.request for received in api.received)

    assert (list(locked.update_mask.paths), locked.key_policy.locked) == (["locked"], True)
    assert list(proposed.update_mask.paths) == ["enforced", "rules"]
    assert "keys policy approve tenants/org_1 17" in done.err


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "7",
        "{}",
        '{"name": "tenants/org_2/keyPolicy"}',
        '{"rules": 7}',
        '{"rules": [{"operations": ["FLY"]}]}',
        '{"rule": []}',
        None,
    ],
)
def test_what_is_no_policy_is_said_and_nothing_is_called(
    api: Any, cli: Any, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "policy.json"
    if content is not None:
        path.write_text(content)
    done = cli("keys", "policy", "set", "org_1", "--file", str(path))

    assert (done.code, api.received) == (2, [])
    assert str(path) in done.err


def test_all_that_is_wrong_is_listed(api: Any, cli: Any, file: Path) -> None:
    wrong = [errors.FieldViolation(field=f"key_policy.rules[{n}].keys", description="must be 1 to 32") for n in (0, 1)]
    api.answer("UpdateKeyPolicy", errors.InvalidArgumentError(*wrong))
    done = cli("keys", "policy", "set", "org_1", "--file", str(file), "--json")

    assert done.code == 2
    assert [violation["field"] for violation in done.error["violations"]] == [each.field for each in wrong]


def test_a_use_is_consented_to(api: Any, cli: Any) -> None:
    name = "tenants/org_1/keyUseApprovals/1"
    api.answer("ApproveKeyUse", key_use_approvals_pb2.KeyUseApproval(name=name))
    done = cli("keys", "policy", "approve-use", name, "--uses", "3", "--ttl", "30m")
    (asked,) = (received.request for received in api.received)

    assert (done.code, asked.uses, asked.ttl.seconds) == (0, 3, 1800)


def test_who_needs_consent_is_told_what_waits_for_it(api: Any, cli: Any, tmp_path: Path) -> None:
    name = "tenants/org_1/keyUseApprovals/1"
    refusal = errors.PolicyDeniedError(
        "tenants/org_1/keys/services", f"{name} waits for it", reason="KEY_USE_NEEDS_APPROVAL", approval=name
    )
    api.answer("Encrypt", refusal)
    (tmp_path / "plain").write_text("x")
    done = cli("encryption", "encrypt", "org_1", "--file", str(tmp_path / "plain"), "--reason-code", "legal-demand")

    assert done.code == 3
    assert name in done.err
    assert "keys policy approve-use" in done.err
    assert api.received[0].request.reason_code == KEY_USE.LEGAL_DEMAND


def test_a_reason_code_that_there_is_not_is_refused(api: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    done = cli("encryption", "encrypt", "org_1", "--file", str(tmp_path / "plain"), "--reason-code", "fun")

    assert (done.code, api.received) == (2, [])
    assert "legal-demand" in done.err
