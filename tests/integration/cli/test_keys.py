"""A tenant's keys at the command line."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.longrunning import operations_pb2

from bulkhead.v1 import key_requests_pb2, keys_pb2, receipts_pb2, steps_pb2, tenants_pb2
from control_plane.errors import PreconditionError, UnavailableError
from control_plane.isolation.model import PAYLOAD_TYPE
from control_plane.keyring.model import RECEIPT_TYPE
from control_plane.keys.platform import AttestationSigner

RECEIPT = "tenants/org_1/destructionReceipts/1"
SIGNER = Ed25519PrivateKey.generate()
KEY = "tenants/org_1/keys/tokens"


def key(name: str = "tokens", **more: Any) -> keys_pb2.Key:
    return keys_pb2.Key(
        name=f"tenants/org_1/keys/{name}",
        purpose=keys_pb2.KeyPurpose.Value(name.upper()),
        algorithm="Ed25519",
        primary_version=2,
        version_count=2,
        root_of_trust=key_requests_pb2.RootOfTrust(label="software"),
        **more,
    )


def version(number: int, *, parent: str = KEY) -> keys_pb2.KeyVersion:
    made = keys_pb2.KeyVersion(
        name=f"{parent}/versions/{number}", state=keys_pb2.KeyVersion.ENABLED, primary=number == 2, kek_version=1
    )
    made.create_time.FromJsonString("2027-01-02T03:04:05Z")
    return made


def operation(*, done: bool) -> operations_pb2.Operation:
    made = operations_pb2.Operation(name="operations/0192", done=done)
    state = steps_pb2.OperationStep.DONE if done else steps_pb2.OperationStep.PENDING
    step = steps_pb2.OperationStep(name="publication", state=state, attempts=1)
    made.metadata.Pack(key_requests_pb2.RotateKeyMetadata(tenant="tenants/org_1", key=KEY, steps=[step]))
    if done:
        made.response.Pack(key())
    return made


def test_the_tree_asks_for_every_page_of_every_key(api: Any, cli: Any) -> None:
    def versions(request: Any) -> keys_pb2.ListKeyVersionsResponse:
        if not request.page_token:
            return keys_pb2.ListKeyVersionsResponse(
                key_versions=[version(2, parent=request.parent)], next_page_token="more"
            )
        return keys_pb2.ListKeyVersionsResponse(key_versions=[version(1, parent=request.parent)])

    api.answer("ListKeys", keys_pb2.ListKeysResponse(keys=[key("kek"), key()]))
    api.answer("ListKeyVersions", versions)
    drawn, plain = cli("keys", "tree", "org_1"), cli("keys", "tree", "org_1", "--json")

    assert (drawn.code, drawn.out.count("version 1,"), drawn.out.count("version 2,")) == (0, 2, 2)
    assert "root of trust: software, not in hardware" in drawn.out
    assert [[each["name"][-1] for each in shown["key_versions"]] for shown in plain.json["keys"]] == [["2", "1"]] * 2


def test_a_rotation_is_waited_for_step_by_step_and_ends_with_the_key(api: Any, cli: Any) -> None:
    api.answer("RotateKey", operation(done=False))
    api.answer("GetOperation", operation(done=True))
    done = cli("keys", "rotate", KEY, "--etag", "abc")

    assert done.code == 0
    assert "✓ publication" in done.err
    assert "keys tree org_1" in done.err
    (asked,) = [received.request for received in api.received if received.method == "RotateKey"]
    assert (asked.name, asked.etag, asked.validate_only) == (KEY, "abc", False)
    assert asked.request_id


def test_a_rotation_may_be_left_to_itself_or_only_checked(api: Any, cli: Any) -> None:
    api.answer("RotateKey", operation(done=False))
    left = cli("keys", "rotate", KEY, "--no-wait")
    api.answer("RotateKey", operations_pb2.Operation(done=True))
    checked = cli("keys", "rotate", KEY, "--validate-only")

    assert (left.code, checked.code, checked.out) == (0, 0, "")
    assert "operations watch operations/0192" in left.err
    assert "nothing was rotated" in checked.err
    assert api.received[-1].request.validate_only


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (PreconditionError(KEY, "busy", reason="ROTATION_IN_PROGRESS"), 4, "operations list"),
        (UnavailableError("away"), 6, "--request-id"),
    ],
)
def test_a_refusal_says_what_to_do(api: Any, cli: Any, error: Exception, *, code: int, hint: str) -> None:
    api.answer("RotateKey", error)
    done = cli("keys", "rotate", KEY)

    assert done.code == code
    assert hint in done.err


def receipt(*, payload_type: str = RECEIPT_TYPE) -> receipts_pb2.DestructionReceipt:
    payload = json.dumps({"tenant": "tenants/org_1", "destroyed": [{"key": "kek", "version": 1}]}).encode()
    signer = AttestationSigner(key_id=UUID(int=1), private_key=SIGNER)
    return receipts_pb2.DestructionReceipt(
        name=RECEIPT,
        key_version="tenants/org_1/keys/kek/versions/1",
        payload_type=payload_type,
        payload=payload,
        signature=signer.sign(payload_type, payload),
        key_id="k",
    )


def pem(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def check(cli: Any, folder: Path, *, key: Ed25519PrivateKey = SIGNER) -> Any:
    (folder / "keys.pem").write_text(pem(key))
    return cli("keys", "check", str(folder / "receipt.json"), "--keys", str(folder / "keys.pem"), "--json")


def test_a_receipt_is_checked_without_the_platform(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer("GetDestructionReceipt", receipt())
    written = cli("keys", "receipt", RECEIPT, "--out", str(tmp_path / "receipt.json"))
    api.received.clear()
    checked = check(cli, tmp_path)

    assert (written.code, checked.code, api.received) == (0, 0, [])
    assert checked.json["destroyed"] == [{"key": "kek", "version": 1}]


def test_a_receipt_that_was_forged_or_is_none_fails_the_check(api: Any, cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    api.answer("GetDestructionReceipt", receipt())
    cli("keys", "receipt", RECEIPT, "--out", str(file))
    envelope = json.loads(file.read_text())
    others = check(cli, tmp_path, key=Ed25519PrivateKey.generate())
    file.write_text(json.dumps({**envelope, "payload": "e30="}))
    changed = check(cli, tmp_path)
    # Signed by the same key, for something else.
    api.answer("GetDestructionReceipt", receipt(payload_type=PAYLOAD_TYPE))
    cli("keys", "receipt", RECEIPT, "--out", str(file))
    attestation = check(cli, tmp_path)

    for refused in (others, changed, attestation):
        assert (refused.code, refused.error["reason"]) == (4, "RECEIPT_FORGED")
    assert "no receipt of a destruction" in attestation.error["message"]


def test_receipts_are_listed(api: Any, cli: Any) -> None:
    api.answer(
        "ListDestructionReceipts", receipts_pb2.ListDestructionReceiptsResponse(destruction_receipts=[receipt()])
    )
    done = cli("keys", "receipts", "org_1")

    assert (done.code, "keys/kek/versions/1" in done.out) == (0, True)


CAMPAIGN = "0b0e5a4e-5d55-4e0e-9d4e-1f1b7f6f1a11"


def tenants(*ids: str) -> tenants_pb2.ListTenantsResponse:
    made = [tenants_pb2.Tenant(name=f"tenants/{id_}", uid=f"uid of {id_}") for id_ in ids]
    return tenants_pb2.ListTenantsResponse(tenants=made)


def test_a_campaign_gives_every_tenant_a_new_kek_and_repeats_nothing_when_it_is_run_again(api: Any, cli: Any) -> None:
    api.answer("ListTenants", tenants(*(f"org_{number}" for number in range(20))))
    api.answer("RotateKey", operation(done=False))
    api.answer("WaitOperation", operation(done=True))
    runs = []
    for _ in range(2):
        done = cli("keys", "rotate-keks", "--campaign", CAMPAIGN, "--json")
        assert done.code == 0
        assert done.json == {"campaign": CAMPAIGN, "rotated": 20, "failed": []}
        asked = [received.request for received in api.received if received.method == "RotateKey"]
        runs.append({request.name: request.request_id for request in asked})
        api.received.clear()

    assert runs[0] == runs[1]
    assert set(runs[0]) == {f"tenants/org_{number}/keys/kek" for number in range(20)}
    assert len(set(runs[0].values())) == 20


def test_two_campaigns_are_two_rotations(api: Any, cli: Any) -> None:
    api.answer("ListTenants", tenants("org_1"))
    api.answer("RotateKey", operation(done=True))
    for _ in range(2):
        cli("keys", "rotate-keks")

    assert len({each.request.request_id for each in api.received if each.method == "RotateKey"}) == 2


def test_a_tenant_that_cannot_be_rotated_holds_up_nobody_and_is_named(api: Any, cli: Any) -> None:
    def rotate(request: Any) -> operations_pb2.Operation:
        if "org_1" in request.name:
            raise PreconditionError(request.name, "busy", reason="ROTATION_IN_PROGRESS")
        return operation(done=True)

    api.answer("ListTenants", tenants("org_1", "org_2"))
    api.answer("RotateKey", rotate)
    done = cli("keys", "rotate-keks", "--json")

    assert done.code == 7
    assert done.json["rotated"] == 1
    assert done.json["failed"] == [{"tenant": "tenants/org_1", "reason": "ROTATION_IN_PROGRESS", "message": "busy"}]


def test_a_campaign_that_is_interrupted_says_how_to_go_on(api: Any, cli: Any) -> None:
    api.answer("ListTenants", tenants("org_1", "org_2"))
    api.answer("RotateKey", UnavailableError("away"))
    done = cli("keys", "rotate-keks", "--campaign", CAMPAIGN)

    assert done.code == 6
    assert f"keys rotate-keks --campaign {CAMPAIGN}" in done.err
    assert cli("keys", "rotate-keks", "--campaign", "x").code == 2
