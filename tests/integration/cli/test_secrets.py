"""Secrets on the command line: values come from files and go into private ones, and are never an argument."""

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from bulkhead.v1 import secret_versions_pb2, secrets_pb2
from control_plane import errors

NAME = "tenants/org_1/secrets/crm"
VALUE = b"\x00s3cret\r\n\xff"
SECRET = secrets_pb2.Secret(name=NAME, description="the CRM's key", latest_version=2, etag="e")
VERSION = secret_versions_pb2.SecretVersion(
    name=f"{NAME}/versions/2", state=secret_versions_pb2.SecretVersion.ENABLED, create_time=Timestamp(seconds=1)
)


def opened(value: bytes = VALUE, *, digest: bytes = b"") -> secret_versions_pb2.AccessSecretVersionResponse:
    return secret_versions_pb2.AccessSecretVersionResponse(
        name=VERSION.name, payload=value, payload_sha256=digest or hashlib.sha256(value).digest()
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "it's a value"
    path.write_bytes(VALUE)
    return path


def test_a_value_is_sent_byte_for_byte_from_its_file(api: Any, cli: Any, file: Path) -> None:
    api.answer("CreateSecret", SECRET)
    api.answer("AddSecretVersion", VERSION)
    created = cli("secrets", "create", "org_1", "crm", "--label", "team=sales", "--file", str(file))
    added = cli("secrets", "add", NAME, "--file", str(file))
    create, add = (received.request for received in api.received)

    assert (created.code, added.code) == (0, 0)
    assert (create.payload, add.payload) == (VALUE, VALUE)
    assert (create.parent, create.secret_id, dict(create.secret.labels)) == ("tenants/org_1", "crm", {"team": "sales"})
    assert create.request_id != add.request_id != ""
    assert "s3cret" not in created.out + created.err + added.out + added.err
    assert f"secrets access {NAME}/versions/2 --out FILE" in added.err


def test_a_secret_may_begin_without_a_value(api: Any, cli: Any) -> None:
    api.answer("CreateSecret", SECRET)

    assert cli("secrets", "create", "org_1", "crm", "--description", "later").code == 0
    assert api.received[0].request.payload == b""


@pytest.mark.parametrize("content", [None, b"", bytes(65_537)])
def test_a_file_without_a_value_that_could_be_sent_is_named(
    api: Any, cli: Any, *, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)
    done = [cli("secrets", "add", NAME, "--file", str(path)), cli("secrets", "create", "o", "s", "--file", str(path))]

    assert [it.code for it in done] == [2, 2]
    assert all(str(path) in it.err for it in done)
    assert api.received == []


def test_the_latest_value_is_read_into_a_file_for_its_owner_alone(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer("AccessSecretVersion", opened())
    out = tmp_path / "out"
    out.write_text("an older and longer one")
    out.chmod(0o644)
    done = cli("secrets", "access", NAME, "--out", str(out))

    assert (done.code, done.out) == (0, "")
    assert out.read_bytes() == VALUE
    assert out.stat().st_mode & 0o777 == 0o600
    assert f"{NAME}/versions/2, {len(VALUE)} bytes" in done.err
    assert api.received[0].request.name == f"{NAME}/versions/latest"


def test_a_value_is_piped_as_it_is_and_json_has_it_in_base64(api: Any, cli: Any) -> None:
    api.answer("AccessSecretVersion", opened(b"no line break"))
    piped = cli("secrets", "access", f"{NAME}/versions/1")
    as_json = cli("secrets", "access", NAME, "--json")

    assert piped.out == "no line break"
    assert base64.b64decode(as_json.json["payload"]) == b"no line break"
    assert [received.request.name for received in api.received] == [f"{NAME}/versions/1", f"{NAME}/versions/latest"]


def test_a_value_cannot_act_on_a_terminal(api: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answer("AccessSecretVersion", opened(b"\x1b[2Jtwo\nlines"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    done = cli("secrets", "access", NAME)

    assert "\x1b[2J" not in done.out
    assert done.out.splitlines() == ["\\x1b[2Jtwo", "lines"]


def test_a_value_that_is_not_what_was_sent_is_not_handed_over(api: Any, cli: Any) -> None:
    api.answer("AccessSecretVersion", opened(digest=hashlib.sha256(b"another").digest()))
    done = cli("secrets", "access", NAME)

    assert (done.code, done.out) == (1, "")


def test_what_is_known_is_listed_changed_and_deleted(api: Any, cli: Any) -> None:
    api.answer("ListSecrets", secrets_pb2.ListSecretsResponse(secrets=[SECRET]))
    api.answer("ListSecretVersions", secret_versions_pb2.ListSecretVersionsResponse(secret_versions=[VERSION]))
    api.answer("UpdateSecret", SECRET)
    api.answer("DeleteSecret", Empty())
    secrets, versions = cli("secrets", "list", "org_1"), cli("secrets", "versions", NAME)
    updated = cli("secrets", "update", NAME, "--description", "", "--clear-labels", "--etag", "e")
    update = api.received[-1].request
    deleted = cli("secrets", "delete", NAME, "--etag", "e")

    assert secrets.out.splitlines()[1].split()[:2] == [NAME, "2"]
    assert versions.out.splitlines()[1].split()[:2] == [VERSION.name, "ENABLED"]
    assert (updated.code, deleted.code, deleted.out) == (0, 0, "")
    assert ([*update.update_mask.paths], update.secret.name, update.secret.etag) == (
        ["description", "labels"],
        NAME,
        "e",
    )
    assert f"{NAME} is gone" in deleted.err
    assert cli("secrets", "update", NAME).code == 2


def test_who_has_no_scope_for_it_is_told_so(api: Any, cli: Any) -> None:
    api.answer("AccessSecretVersion", errors.PermissionDeniedError("no", reason="ROLE_NOT_ALLOWED"))
    done = cli("secrets", "access", NAME)

    assert done.code == 3
    assert "ROLE_NOT_ALLOWED" in done.err


def test_a_printed_call_reads_the_value_from_the_file_too(api: Any, cli: Any, file: Path) -> None:
    done = cli("secrets", "add", NAME, "--file", str(file), "--print-grpcurl")
    script = "grpcurl() { cat; echo; printf '%s\\n' \"$@\"; }\n" + done.out
    lines = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout.splitlines()
    request = json.loads(lines[0])

    assert base64.b64decode(request["payload"]) == VALUE
    assert request["parent"] == NAME
    assert not any("s3cret" in line or request["payload"] in line for line in lines[1:])
    assert base64.b64encode(VALUE).decode() not in done.out
