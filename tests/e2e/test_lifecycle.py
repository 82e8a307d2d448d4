"""A tenant's life as its callers see it, across both processes."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tests.fixtures.stack import Stack

# A change counts everywhere within a second; twice that is for a busy machine.
_EVERYWHERE_WITHIN_S = 2.0
_DENIED, _PRECONDITION = 3, 4


def _json(stack: Stack, *arguments: str) -> Any:
    done = stack.bulkhead(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _tenant(stack: Stack, name: str) -> str:
    if stack.bulkhead("tenants", "get", name).returncode != 0:
        _json(stack, "tenants", "create", name)
    return f"tenants/{name}"


def _token(stack: Stack, tenant: str, path: Path, *scopes: str) -> tuple[str, Path]:
    """Return the token's name, and the file that it is in."""
    options = [option for scope in scopes for option in ("--scope", scope)]
    answer = _json(stack, "tokens", "issue", tenant, "--subject", "alice", *options)
    path.write_text(answer["token"])
    path.chmod(0o600)
    return answer["metadata"]["name"], path


@pytest.fixture
def csr(tmp_path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.acme.example")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("www.acme.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "request.pem"
    path.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return path


def _refused_soon(call: Callable[[], int]) -> int:
    """Return the exit code of the first refusal."""
    deadline = time.monotonic() + _EVERYWHERE_WITHIN_S
    while (code := call()) == 0:
        assert time.monotonic() < deadline, "still served"
    return code


@pytest.mark.behaviour("S4.7")
@pytest.mark.behaviour("S4.8")
def test_a_suspended_tenant_is_refused_by_both_processes_until_it_is_reactivated(stack: Stack, tmp_path: Path) -> None:
    tenant = _tenant(stack, "lifecycle_one")
    _, token = _token(stack, tenant, tmp_path / "token", "certificates.read")

    def list_certificates() -> int:
        return stack.bulkhead("certificates", "list", tenant, "--token-file", str(token)).returncode

    assert list_certificates() == 0
    _json(stack, "tenants", "suspend", tenant, "--reason", "unpaid")
    assert _refused_soon(list_certificates) == _PRECONDITION
    refused = stack.bulkhead("tokens", "issue", tenant, "--subject", "bob")
    assert refused.returncode == _PRECONDITION
    assert "TENANT_SUSPENDED" in refused.stderr
    assert _json(stack, "tenants", "get", tenant)["suspend_reason"] == "unpaid"
    _json(stack, "tenants", "reactivate", tenant)
    time.sleep(1)

    assert list_certificates() == 0


@pytest.mark.behaviour("S2.9")
def test_a_revoked_token_is_refused_by_both_processes(stack: Stack, tmp_path: Path) -> None:
    tenant = _tenant(stack, "lifecycle_one")
    name, token = _token(stack, tenant, tmp_path / "token", "certificates.read")
    calls: tuple[Callable[[], int], ...] = (
        lambda: stack.bulkhead("certificates", "list", tenant, "--token-file", str(token)).returncode,
        lambda: stack.bulkhead("tenants", "get", tenant, "--token-file", str(token)).returncode,
    )
    assert [call() for call in calls] == [0, 0]
    _json(stack, "tokens", "revoke", name)

    assert [_refused_soon(call) for call in calls] == [_DENIED, _DENIED]


@pytest.mark.behaviour("E2.2")
@pytest.mark.behaviour("S2.8")
def test_each_tenant_has_an_authority_of_its_own(stack: Stack, tmp_path: Path, csr: Path) -> None:
    one, other = _tenant(stack, "lifecycle_one"), _tenant(stack, "lifecycle_two")
    _, token = _token(stack, one, tmp_path / "token", "certificates.write", "certificates.read")
    issued = _json(stack, "certificates", "issue", one, "--csr", str(csr), "--token-file", str(token))
    leaf = x509.load_pem_x509_certificates(issued["pem_chain"].encode())[0]

    def verify(tenant: str) -> None:
        authority = _json(stack, "certificates", "authority", tenant)
        trusted = Store([x509.load_pem_x509_certificate(authority["pem"].encode())])
        PolicyBuilder().store(trusted).build_server_verifier(x509.DNSName("www.acme.example")).verify(leaf, [])

    verify(one)
    with pytest.raises(VerificationError):
        verify(other)
    foreign = stack.bulkhead("certificates", "get", issued["name"].replace(one, other), "--token-file", str(token))
    assert foreign.returncode == _DENIED


@pytest.mark.behaviour("S4.5")
def test_an_administrator_enrols_once(stack: Stack, tmp_path: Path) -> None:
    tenant = _tenant(stack, "lifecycle_enrol")
    secret = tmp_path / "enrolment"
    secret.write_text(_json(stack, "tokens", "enrolment", tenant)["enrolment_token"])
    redeem = ("tokens", "redeem", tenant, "--file", str(secret))
    first = stack.bulkhead(*redeem, "--json")
    second = stack.bulkhead(*redeem, "--json")

    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["metadata"]["role"] == "ROLE_TENANT_ADMIN"
    assert second.returncode == _DENIED
    assert secret.read_text() not in stack.logs()
