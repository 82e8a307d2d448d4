"""`bulkhead encryption`: what is secret is in files and on pipes, and what is sealed is text."""

import base64
import stat
from pathlib import Path
from typing import Any

import pytest

from bulkhead.v1 import encryption_pb2

SEALED = b"\x00sealed"
VERSION = "tenants/org_1/keys/services/versions/1"


def test_a_file_is_sealed_with_its_context(api: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"\xff\x00secret\n")
    api.answer("Encrypt", encryption_pb2.EncryptResponse(ciphertext=SEALED, key_version=VERSION))
    done = cli("encryption", "encrypt", "org_1", "--file", str(tmp_path / "plain"), "--context", "a=1", "--reason", "r")
    (call,) = api.received

    assert (done.code, done.out.strip()) == (0, base64.b64encode(SEALED).decode())
    assert VERSION in done.err
    assert call.request == encryption_pb2.EncryptRequest(
        parent="tenants/org_1", plaintext=b"\xff\x00secret\n", encryption_context={"a": "1"}, reason="r"
    )


def test_what_is_opened_goes_byte_for_byte_into_a_file_that_only_its_owner_reads(
    api: Any, cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "sealed").write_text(base64.encodebytes(SEALED).decode())
    api.answer("Decrypt", encryption_pb2.DecryptResponse(plaintext=b"\xff\x00secret", key_version=VERSION))
    out = tmp_path / "plain"
    done = cli("encryption", "decrypt", "org_1", "--file", str(tmp_path / "sealed"), "--out", str(out))
    (call,) = api.received

    assert (done.code, done.out) == (0, "")
    assert out.read_bytes() == b"\xff\x00secret"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert call.request.ciphertext == SEALED


def test_a_key_for_data_is_in_its_file_and_its_ciphertext_is_shown(api: Any, cli: Any, tmp_path: Path) -> None:
    answer = encryption_pb2.GenerateDataKeyResponse(plaintext=b"k" * 32, ciphertext=SEALED, key_version=VERSION)
    api.answer("GenerateDataKey", answer)
    out = tmp_path / "key"
    done = cli("encryption", "generate-data-key", "org_1", "--out", str(out))

    assert base64.b64decode(out.read_text()) == b"k" * 32
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_text().strip() not in done.out + done.err
    assert base64.b64encode(SEALED).decode() in done.err


def test_what_is_sealed_anew_is_printed(api: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "sealed").write_text(base64.b64encode(b"old").decode())
    api.answer("Rewrap", encryption_pb2.RewrapResponse(ciphertext=SEALED, key_version=VERSION))
    done = cli("encryption", "rewrap", "org_1", "--file", str(tmp_path / "sealed"))

    assert done.out.strip() == base64.b64encode(SEALED).decode()
    assert api.received[0].request.ciphertext == b"old"


@pytest.mark.parametrize("verb", ["decrypt", "rewrap", "encrypt"])
def test_what_cannot_be_read_is_said_and_nothing_is_called(api: Any, cli: Any, tmp_path: Path, *, verb: str) -> None:
    (tmp_path / "sealed").write_bytes(b"\xff not base64")
    file = tmp_path / ("none" if verb == "encrypt" else "sealed")
    done = cli("encryption", verb, "org_1", "--file", str(file))

    assert done.code == 2
    assert str(file) in done.err
    assert api.received == []


def test_what_is_to_be_sealed_is_in_no_argument_of_grpcurl(api: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("s3cret")
    done = cli("encryption", "encrypt", "org_1", "--file", str(tmp_path / "plain"), "--print-grpcurl")

    assert "s3cret" not in done.out
    assert base64.b64encode(b"s3cret").decode() not in done.out
    assert "base64 <" in done.out
