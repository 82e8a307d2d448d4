"""A tenant's keys at the command line."""

from typing import Any

import pytest
from google.longrunning import operations_pb2

from bulkhead.v1 import keys_pb2, steps_pb2
from control_plane.errors import PreconditionError, UnavailableError

KEY = "tenants/org_1/keys/tokens"


def key(name: str = "tokens", **more: Any) -> keys_pb2.Key:
    return keys_pb2.Key(
        name=f"tenants/org_1/keys/{name}",
        purpose=keys_pb2.KeyPurpose.Value(name.upper()),
        algorithm="Ed25519",
        primary_version=2,
        version_count=2,
        root_of_trust=keys_pb2.RootOfTrust(label="software"),
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
    made.metadata.Pack(keys_pb2.RotateKeyMetadata(tenant="tenants/org_1", key=KEY, steps=[step]))
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
