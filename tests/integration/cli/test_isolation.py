"""The isolation of tenants at the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bulkhead.v1 import isolation_pb2
from control_plane.isolation.model import PAYLOAD_TYPE
from control_plane.proofs.envelope import signed_bytes

KEY = Ed25519PrivateKey.generate()
FAILED = isolation_pb2.IsolationProbe.FAILED
PASSED = isolation_pb2.IsolationProbe.PASSED


def attestation(*, passed: bool = True) -> isolation_pb2.Attestation:
    outcome = "PASSED" if passed else "FAILED"
    probe = {"name": "database.history", "promise": "", "outcome": outcome, "detail": "held", "duration_ms": 3}
    payload = json.dumps({"passed": passed, "tenant": "org_1", "probes": [probe]}).encode()
    return isolation_pb2.Attestation(
        name="tenants/org_1/attestations/1",
        passed=passed,
        probes=[
            isolation_pb2.IsolationProbe(name="database.history", outcome=PASSED if passed else FAILED, detail="held")
        ],
        payload_type=PAYLOAD_TYPE,
        payload=payload,
        signature=KEY.sign(signed_bytes(PAYLOAD_TYPE, payload)),
        key_id="k",
    )


def keys() -> isolation_pb2.ListAttestationKeysResponse:
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return isolation_pb2.ListAttestationKeysResponse(
        attestation_keys=[isolation_pb2.AttestationKey(key_id="k", public_key_pem=pem)]
    )


@pytest.mark.parametrize(
    ("rpc", "command"),
    [("VerifyIsolation", ["isolation", "verify", "org_1"]), ("VerifyCell", ["isolation", "verify-cell"])],
)
def test_what_a_verification_found_is_shown_probe_by_probe(rpc: str, command: list[str], api: Any, cli: Any) -> None:
    api.answer(rpc, attestation())
    done = cli(*command)

    assert done.code == 0
    assert "database.history" in done.out
    assert "PASSED" in done.out


def test_a_verification_that_does_not_pass_fails_the_command_and_says_what_it_was(api: Any, cli: Any) -> None:
    api.answer("VerifyIsolation", attestation(passed=False))
    done = cli("isolation", "verify", "org_1", "--json")
    failure = json.loads(done.err)["error"]

    assert done.code == 4
    assert json.loads(done.out)["passed"] is False
    assert failure["reason"] == "ISOLATION_NOT_PROVEN"
    assert "database.history" in failure["message"]


@pytest.mark.behaviour("S1.18")
def test_an_attestation_is_written_and_checked_without_the_platform(api: Any, cli: Any, tmp_path: Path) -> None:
    proof, public = tmp_path / "proof.json", tmp_path / "keys.pem"
    api.answer("GetAttestation", attestation())
    api.answer("ListAttestationKeys", keys())
    cli("isolation", "get", "tenants/org_1/attestations/1", "--out", str(proof))
    cli("isolation", "keys", "--out", str(public))
    asked = len(api.received)
    done = cli("isolation", "check", str(proof), "--keys", str(public), "--json")

    assert done.code == 0
    assert json.loads(done.out)["tenant"] == "org_1"
    assert len(api.received) == asked


def test_a_forged_attestation_is_told_from_one_that_says_a_wall_is_down(api: Any, cli: Any, tmp_path: Path) -> None:
    proof, public = tmp_path / "proof.json", tmp_path / "keys.pem"
    api.answer("GetAttestation", attestation(passed=False))
    api.answer("ListAttestationKeys", keys())
    cli("isolation", "get", "tenants/org_1/attestations/1", "--out", str(proof))
    cli("isolation", "keys", "--out", str(public))
    down = cli("isolation", "check", str(proof), "--keys", str(public), "--json")
    proof.write_text(proof.read_text().replace('"sig": "', '"sig": "AAAA'))
    forged = cli("isolation", "check", str(proof), "--keys", str(public), "--json")

    assert (down.code, json.loads(down.err)["error"]["reason"]) == (4, "ISOLATION_NOT_PROVEN")
    assert (forged.code, json.loads(forged.err)["error"]["reason"]) == (4, "ATTESTATION_FORGED")
    assert forged.out == ""


def test_a_file_that_is_not_there_is_named(cli: Any, tmp_path: Path) -> None:
    done = cli("isolation", "check", str(tmp_path / "none"), "--keys", str(tmp_path / "none"))

    assert done.code == 2
    assert "none cannot be read" in done.err
