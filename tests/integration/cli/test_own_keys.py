"""Keys of a tenant's own at the command line: made, wrapped before they leave, ended, and used."""

import base64
import secrets
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bulkhead.v1 import encryption_pb2, key_imports_pb2, key_requests_pb2, keys_pb2, signing_pb2
from control_plane.keys.named.imports import Method, new_pair, unwrap

NAME: Final = "tenants/org_1/keys/crm"
JOB: Final = "tenants/org_1/importJobs/1"
RAW: Final = secrets.token_bytes(32)
Lifecycle = key_requests_pb2.KeyLifecycle


def key(**lifecycle: Any) -> keys_pb2.Key:
    made = keys_pb2.Key(
        name=NAME, purpose=keys_pb2.ENCRYPTION, algorithm="AES-256-GCM", primary_version=1, version_count=1,
        root_of_trust=key_requests_pb2.RootOfTrust(label="software"), lifecycle=Lifecycle(**lifecycle),
    )  # fmt: skip
    if lifecycle.get("state") == Lifecycle.DESTROY_SCHEDULED:
        made.lifecycle.destroy_time.FromJsonString("2027-01-09T03:04:05Z")
    return made


def test_a_key_is_made_once_however_often_its_answer_is_lost(api: Any, cli: Any) -> None:
    api.answer("CreateKey", key(origin=Lifecycle.GENERATED, state=Lifecycle.ENABLED))
    done = cli("keys", "create", "org_1", "crm")
    signing = cli("keys", "create", "org_1", "crm", "--signing", "ED25519", "--validate-only")
    first, second = [call.request for call in api.received]

    assert (done.code, signing.code) == (0, 0)
    assert UUID(first.request_id).version == 4
    assert (first.parent, first.key_id, first.key.purpose) == ("tenants/org_1", "crm", keys_pb2.ENCRYPTION)
    assert (second.key.purpose, second.key.algorithm, second.validate_only) == (keys_pb2.SIGNING, "ED25519", True)


@pytest.mark.parametrize(("named", "method"), [("hpke", Method.HPKE_AES), ("hpke-chacha", Method.HPKE_CHACHA), (
    "rsa", Method.RSA_AES)])  # fmt: skip
def test_a_key_is_wrapped_before_it_leaves(named: str, method: Method, api: Any, cli: Any, tmp_path: Path) -> None:
    pair, info = new_pair(method), b"" if method is Method.RSA_AES else b"bound to this"
    (tmp_path / "key").write_bytes(RAW)
    job = key_imports_pb2.ImportJob(
        name=JOB, method=key_imports_pb2.ImportJob.Method.Value(method), public_key=pair.public or b"", hpke_info=info
    )
    api.answer("CreateImportJob", job)
    api.answer("ImportKey", key(origin=Lifecycle.IMPORTED, state=Lifecycle.ENABLED))
    done = cli("keys", "import", "org_1", "crm", "--file", str(tmp_path / "key"), "--method", named)
    asked, delivered = [call.request for call in api.received]

    assert done.code == 0, done.err
    assert (asked.import_job.key, asked.import_job.method) == (NAME, job.method)
    assert delivered.name == JOB
    assert RAW not in delivered.wrapped_key
    assert unwrap(method, pair.private, delivered.wrapped_key, info=info) == RAW


def test_a_private_key_in_pem_is_wrapped_as_pkcs8(api: Any, cli: Any, tmp_path: Path) -> None:
    pair, own = new_pair(Method.HPKE_AES), Ed25519PrivateKey.generate()
    forms = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(own.private_bytes(serialization.Encoding.PEM, *forms))
    job = key_imports_pb2.ImportJob(
        name=JOB,
        method=key_imports_pb2.ImportJob.HPKE_MLKEM768_X25519_AES_256_GCM,
        public_key=pair.public or b"",
        hpke_info=b"info",
    )
    api.answer("CreateImportJob", job)
    api.answer("ImportKey", key(origin=Lifecycle.IMPORTED, state=Lifecycle.ENABLED))
    cli("keys", "import", "org_1", "crm", "--file", str(tmp_path / "key.pem"), "--signing", "ED25519")
    opened = unwrap(Method.HPKE_AES, pair.private, api.received[1].request.wrapped_key, info=b"info")

    assert opened == own.private_bytes(serialization.Encoding.DER, *forms)


@pytest.mark.parametrize(("content", "more"), [(b"short", []), (b"x" * 32, ["--signing", "ED25519"])])
def test_what_is_no_key_does_not_leave_and_is_not_shown(
    content: bytes, more: list[str], api: Any, cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(content)
    done = cli("keys", "import", "org_1", "crm", "--file", str(tmp_path / "key"), *more)

    assert (done.code, api.received) == (2, [])
    assert content.decode() not in done.out + done.err


def test_for_a_device_the_public_key_is_written_and_what_it_wrapped_is_handed_over(
    api: Any, cli: Any, tmp_path: Path
) -> None:
    api.answer("CreateImportJob", key_imports_pb2.ImportJob(name=JOB, key=NAME, public_key=b"\x30der"))
    api.answer("ImportKey", key(origin=Lifecycle.IMPORTED, state=Lifecycle.ENABLED))
    (tmp_path / "wrapped").write_bytes(b"\x00wrapped")
    out = tmp_path / "wrapping.der"
    begun = cli("keys", "import-job", "org_1", "crm", "--method", "rsa", "--out", str(out))
    done = cli("keys", "import-wrapped", JOB, "--file", str(tmp_path / "wrapped"))

    assert (begun.code, done.code) == (0, 0)
    assert out.read_bytes() == b"\x30der"
    assert f"keys import-wrapped {JOB}" in begun.err
    assert api.received[1].request == key_imports_pb2.ImportKeyRequest(name=JOB, wrapped_key=b"\x00wrapped")


def test_a_destruction_is_announced_and_taken_back(api: Any, cli: Any) -> None:
    api.answer("ScheduleKeyDestruction", key(origin=Lifecycle.GENERATED, state=Lifecycle.DESTROY_SCHEDULED))
    api.answer("RestoreKey", key(origin=Lifecycle.GENERATED, state=Lifecycle.ENABLED))
    announced = cli("keys", "destroy", NAME, "--after", "14d")
    cli("keys", "destroy", NAME)
    restored = cli("keys", "restore", NAME, "--etag", "e")
    first, second, third = [call.request for call in api.received]

    assert (announced.code, restored.code) == (0, 0)
    assert f"keys restore {NAME}" in announced.err
    assert first.waiting_period.ToSeconds() == 14 * 86_400
    assert not second.HasField("waiting_period")
    assert third == key_requests_pb2.RestoreKeyRequest(name=NAME, etag="e")


def test_the_tree_says_where_a_key_comes_from_and_that_it_will_end(api: Any, cli: Any) -> None:
    version = keys_pb2.KeyVersion(name=f"{NAME}/versions/1", state=keys_pb2.KeyVersion.ENABLED, primary=True)
    version.create_time.FromJsonString("2027-01-02T03:04:05Z")
    waiting = key(origin=Lifecycle.IMPORTED, state=Lifecycle.DESTROY_SCHEDULED)
    gone = key(origin=Lifecycle.GENERATED, state=Lifecycle.DESTROYED)
    api.answer("ListKeys", keys_pb2.ListKeysResponse(keys=[waiting, gone]))
    api.answer("ListKeyVersions", keys_pb2.ListKeyVersionsResponse(key_versions=[version]))
    done = cli("keys", "tree", "org_1")

    assert "crm  AES-256-GCM, encryption, imported, will be destroyed 2027-01-09" in done.out
    assert "crm  AES-256-GCM, encryption, destroyed" in done.out


def test_what_a_key_signs_is_verified_and_a_wrong_signature_fails(api: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "signature").write_text(base64.b64encode(b"signed").decode())
    files = ("--file", str(tmp_path / "data"))
    api.answer("Sign", signing_pb2.SignResponse(signature=b"signed", key_version=f"{NAME}/versions/1"))
    signed = cli("signing", "sign", NAME, *files, "--context", "a=1", "--reason", "r")
    verified = []
    for good in (True, False):
        api.answer("Verify", signing_pb2.VerifyResponse(verified=good))
        verified.append(cli("signing", "verify", NAME, *files, "--signature", str(tmp_path / "signature")).code)
    first, second, _ = [call.request for call in api.received]

    assert signed.out.strip() == base64.b64encode(b"signed").decode()
    assert first == signing_pb2.SignRequest(name=NAME, data=b"data", context={"a": "1"}, reason="r")
    assert (second.data, second.signature) == (b"data", b"signed")
    assert verified == [0, 4]


def test_a_public_key_is_printed_and_a_key_is_named_for_sealing(api: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"plain")
    api.answer("GetPublicKey", signing_pb2.PublicKey(name=f"{NAME}/versions/1", pem="-----BEGIN PUBLIC KEY-----\n"))
    api.answer("Encrypt", encryption_pb2.EncryptResponse(ciphertext=b"sealed"))
    shown = cli("signing", "public-key", f"{NAME}/versions/1")
    cli("encryption", "encrypt", "org_1", "--key", NAME, "--file", str(tmp_path / "plain"))

    assert shown.out == "-----BEGIN PUBLIC KEY-----\n"
    assert api.received[1].request.key == NAME
