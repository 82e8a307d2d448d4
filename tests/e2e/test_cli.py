"""The command line against a real stack, as a person and as a script use it."""

import io
import json
import os
import pty
import subprocess
import sys
import time
import uuid
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control_plane.cli.program import run
from tests.fixtures.stack import BULKHEAD, Stack


def new_id() -> str:
    return f"cli_{uuid.uuid4().hex[:12]}"


def run_here(stack: Stack, *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process, which spares the start of one; return its exit code, data and talk."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = run(["--dir", str(stack.dir), *arguments])
    return code, out.getvalue(), err.getvalue()


def answer(stack: Stack, *arguments: str) -> Any:
    """Run a command that must do its work; return what it prints with --json."""
    code, out, err = run_here(stack, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def refusal(stack: Stack, *arguments: str) -> dict[str, Any]:
    """Run a command that must be refused; return its error object, with the exit code of the process."""
    code, _, err = run_here(stack, *arguments, "--json")
    error: dict[str, Any] = json.loads(err)["error"]
    assert error["exit_code"] == code
    return error


@pytest.fixture
def tenant(stack: Stack) -> str:
    tenant_id = new_id()
    answer(stack, "tenants", "create", tenant_id, "--admin-email", "admin@example.org")
    return tenant_id


@pytest.fixture
def alice(stack: Stack, tenant: str, tmp_path: Path) -> str:
    """The file of a token that may read and write this tenant's certificates."""
    file = tmp_path / "alice.token"
    scopes = ["--scope", "certificates.read", "--scope", "certificates.write"]
    answer(stack, "tokens", "issue", tenant, "--subject", "alice", *scopes, "--out", str(file))
    return str(file)


@pytest.fixture
def csr(tmp_path: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName("shop.example.org")])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example.org")]))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "shop.csr"
    file.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return str(file)


def test_a_new_tenant_is_active_and_can_be_got_and_listed(stack: Stack) -> None:
    tenant_id = new_id()
    made = answer(stack, "tenants", "create", tenant_id, "--display-name", "Zoë", "--label", "env=test")
    listed = answer(stack, "tenants", "list", "--all", "--page-size", "1")

    assert (made["name"], made["state"], made["display_name"]) == (f"tenants/{tenant_id}", "ACTIVE", "Zoë")
    assert (made["labels"], made["dns_label"]) == ({"env": "test"}, tenant_id.replace("_", "-"))
    assert made["hsm_backed"] is False
    assert answer(stack, "tenants", "get", tenant_id) == made
    assert made in listed["tenants"]


def test_a_person_sees_each_step_of_a_creation_and_the_way_on(stack: Stack) -> None:
    tenant_id = new_id()
    done = stack.bulkhead("tenants", "create", tenant_id)
    steps = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("  ✓")]

    assert done.returncode == 0
    assert ["state", "ACTIVE"] in [line.split() for line in done.stdout.splitlines()]
    assert {"registry", "keys", "schema", "administrator", "verification"} <= set(steps)
    assert done.stderr.splitlines()[-1].startswith(f"next: bulkhead --dir {stack.dir} tokens issue tenants/{tenant_id}")


@pytest.mark.behaviour("S4.18")
def test_a_check_alone_makes_nothing(stack: Stack) -> None:
    tenant_id = new_id()
    checked = stack.bulkhead("tenants", "create", tenant_id, "--validate-only")

    assert checked.returncode == 0
    assert refusal(stack, "tenants", "get", tenant_id)["exit_code"] == 3


@pytest.mark.behaviour("I8", "S2.17")
@pytest.mark.parametrize("more", [(), ("--validate-only",)])
def test_a_token_of_its_own_in_a_vault_of_files_is_refused_and_no_tenant_is_made(
    stack: Stack, more: tuple[str, ...]
) -> None:
    tenant_id = new_id()
    refused = stack.bulkhead("tenants", "create", tenant_id, "--hsm-tier", "dedicated", *more, "--json")

    assert (refused.returncode, json.loads(refused.stderr)["error"]["reason"]) == (4, "HSM_TIER_UNAVAILABLE")
    assert stack.bulkhead("tenants", "get", tenant_id).returncode == 3


def test_a_creation_repeated_under_its_request_id_is_the_same_tenant(stack: Stack) -> None:
    create = ("tenants", "create", new_id(), "--request-id", str(uuid.uuid4()))

    assert answer(stack, *create)["uid"] == answer(stack, *create)["uid"]


def test_a_creation_that_is_not_waited_for_can_be_watched(stack: Stack) -> None:
    operation = answer(stack, "tenants", "create", new_id(), "--no-wait")
    watched = stack.bulkhead("operations", "watch", operation["name"])
    waited = answer(stack, "operations", "wait", operation["name"])

    assert watched.returncode == 0
    assert "✓ schema" in watched.stderr
    assert (waited["done"], waited["response"]["state"]) == (True, "ACTIVE")
    assert answer(stack, "operations", "get", operation["name"]) == waited
    assert waited in answer(stack, "operations", "list")["operations"]


@pytest.mark.behaviour("S4.17")
def test_every_field_that_is_wrong_is_named_at_once(stack: Stack) -> None:
    bad = ("--display-name", "\u202eevil", "--tier", "gold", "--admin-email", "nobody")
    told = stack.bulkhead("tenants", "create", "No", *bad)
    error = refusal(stack, "tenants", "create", "No", *bad)

    assert (error["code"], error["exit_code"]) == ("INVALID_ARGUMENT", 2)
    assert {violation["field"] for violation in error["violations"]} == {
        "tenant_id", "tenant.display_name", "tenant.tier", "tenant.admin_email",
    }  # fmt: skip
    assert len(told.stderr.splitlines()) == 1 + 4 + 2
    assert "\u202e" not in told.stderr


def test_an_update_changes_what_it_names_and_a_stale_etag_is_a_conflict(stack: Stack, tenant: str) -> None:
    before = answer(stack, "tenants", "get", tenant)
    after = answer(stack, "tenants", "update", tenant, "--tier", "business", "--etag", before["etag"])
    stale = refusal(stack, "tenants", "update", tenant, "--tier", "standard", "--etag", before["etag"])

    new = {name: after[name] for name in ("etag", "update_time", "edge_revision")}
    assert after == {**before, "tier": "business", **new}
    assert int(after["edge_revision"]) > int(before["edge_revision"])
    assert (stale["code"], stale["reason"], stale["exit_code"]) == ("ABORTED", "ETAG_MISMATCH", 4)


def test_a_taken_id_is_a_conflict(stack: Stack, tenant: str) -> None:
    assert refusal(stack, "tenants", "create", tenant)["exit_code"] == 4


def test_a_certificate_is_issued_kept_and_revoked(stack: Stack, *, tenant: str, alice: str, csr: str) -> None:
    as_alice = ("--token-file", alice)
    issued = answer(stack, "certificates", "issue", f"tenants/{tenant}", "--csr", csr, "--validity", "30d", *as_alice)
    authority = answer(stack, "certificates", "authority", tenant, *as_alice)
    leaf, issuer = x509.load_pem_x509_certificates(issued["pem_chain"].encode())
    leaf.verify_directly_issued_by(issuer)
    got = answer(stack, "certificates", "get", issued["name"], *as_alice)
    revoked = answer(stack, "certificates", "revoke", issued["name"], "--reason", "lost", *as_alice)
    listed = answer(stack, "certificates", "list", tenant, *as_alice)

    assert (issued["state"], issued["dns_names"]) == ("ACTIVE", ["shop.example.org"])
    assert got == issued
    assert authority["pem"] in issued["pem_chain"]
    assert (revoked["state"], revoked["revoke_reason"]) == ("REVOKED", "lost")
    assert [certificate["name"] for certificate in listed["certificates"]] == [issued["name"]]


def test_another_tenant_and_an_absent_one_are_refused_in_the_same_words(stack: Stack, alice: str) -> None:
    other = new_id()
    answer(stack, "tenants", "create", other)
    foreign = refusal(stack, "certificates", "list", other, "--token-file", alice)
    absent = refusal(stack, "certificates", "list", new_id(), "--token-file", alice)

    assert (foreign["code"], foreign["exit_code"]) == ("PERMISSION_DENIED", 3)
    assert {**foreign, "request_id": ""} == {**absent, "request_id": ""}


def test_a_revoked_token_is_refused_within_a_second(stack: Stack, *, tenant: str, alice: str) -> None:
    (token,) = answer(stack, "tokens", "list", tenant)["tokens"]
    answer(stack, "certificates", "list", tenant, "--token-file", alice)
    revoked = answer(stack, "tokens", "revoke", token["name"])
    time.sleep(1)
    error = refusal(stack, "certificates", "list", tenant, "--token-file", alice)

    assert revoked["revoke_time"]
    assert int(revoked["edge_revision"]) > 0
    assert answer(stack, "tokens", "get", token["name"]) == {**revoked, "edge_revision": "0"}
    assert (error["code"], error["exit_code"]) == ("UNAUTHENTICATED", 3)


def test_a_suspended_tenant_is_refused_until_it_is_reactivated(stack: Stack, *, tenant: str, alice: str) -> None:
    suspended = answer(stack, "tenants", "suspend", tenant, "--reason", "unpaid")
    time.sleep(1.1)
    error = refusal(stack, "certificates", "list", tenant, "--token-file", alice)
    answer(stack, "tenants", "reactivate", tenant)
    time.sleep(1.1)

    assert (suspended["state"], suspended["suspend_reason"]) == ("SUSPENDED", "unpaid")
    assert (error["code"], error["exit_code"]) == ("FAILED_PRECONDITION", 4)
    assert answer(stack, "certificates", "list", tenant, "--token-file", alice)["certificates"] == []


def test_an_administrator_enrols_once_through_a_pipe(stack: Stack, tenant: str, *, tmp_path: Path) -> None:
    enrolment = stack.bulkhead("tokens", "enrolment", tenant)
    redeem = [BULKHEAD, "--dir", str(stack.dir), "tokens", "redeem", tenant]
    first, second = (
        subprocess.run(redeem, input=enrolment.stdout, capture_output=True, text=True, check=False) for _ in range(2)
    )
    token_file = tmp_path / "admin.token"
    token_file.write_text(first.stdout)

    assert (enrolment.returncode, first.returncode, second.returncode) == (0, 0, 3)
    assert answer(stack, "tenants", "get", tenant, "--token-file", str(token_file))["state"] == "ACTIVE"
    assert f"tokens enrolment tenants/{tenant}" in second.stderr


def test_the_audit_log_tells_who_did_what_and_holds(stack: Stack, *, tenant: str, alice: str) -> None:
    refusal(stack, "tenants", "list", "--token-file", alice)
    refusal(stack, "tokens", "issue", tenant, "--subject", "eve", "--token-file", alice)
    found = {"sealed_entries": "0"}
    deadline = time.monotonic() + 10
    while int(found["sealed_entries"]) < len(("CreateTenant", "IssueToken", "ListTenants", "IssueToken")):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
        found = answer(stack, "audit", "verify", tenant)
    told = [
        (entry["outcome"], entry["actor"], entry["method"].rpartition("/")[2])
        for entry in answer(stack, "audit", "tail", tenant)["audit_entries"]
    ]

    assert told[:2] == [
        ("EFFECT", "platform-admin:local", "CreateTenant"),
        ("EFFECT", "platform-admin:local", "IssueToken"),
    ]
    assert set(told[2:]) == {
        ("DENIED", "tenant-member:alice", "ListTenants"),
        ("DENIED", "tenant-member:alice", "IssueToken"),
    }
    assert (found["unsealed_entries"], found["first_broken_sequence"]) == ("0", "0")


def test_follow_shows_what_happens_meanwhile(stack: Stack, tenant: str) -> None:
    following = stack.spawn("audit", "tail", tenant, "--follow", "--json")
    try:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        answer(stack, "tenants", "suspend", tenant)
        second = json.loads(following.stdout.readline())
    finally:
        following.terminate()
        following.communicate()

    assert first["method"].endswith("/CreateTenant")
    assert second["method"].endswith("/SuspendTenant")


def test_a_terminal_gets_colour_and_a_pipe_gets_none(stack: Stack, tenant: str) -> None:
    piped = stack.bulkhead("tenants", "list", "--all")
    leader, follower = pty.openpty()
    subprocess.run(
        [BULKHEAD, "--dir", str(stack.dir), "tenants", "get", tenant],
        stdout=follower,
        stderr=follower,
        check=True,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": ""},
    )
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)

    assert "\x1b" not in piped.stdout + piped.stderr
    assert piped.stdout.splitlines()[0].split()[:2] == ["NAME", "STATE"]
    assert "\x1b[2mname" in shown


def test_the_module_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "control_plane", "--version"], check=True, capture_output=True)
    same = subprocess.run([BULKHEAD, "--version"], check=True, capture_output=True)

    assert done.stdout == same.stdout
