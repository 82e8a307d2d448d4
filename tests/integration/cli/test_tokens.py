"""Tokens: the secret on stdout or in a private file, all else beside it."""

from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from bulkhead.v1 import rules_pb2, tokens_pb2

KNOWN = tokens_pb2.Token(
    name="tenants/org_1/tokens/1",
    subject="alice",
    role=rules_pb2.ROLE_TENANT_MEMBER,
    scopes=["certificates.write"],
    create_time=Timestamp(seconds=1),
    expire_time=Timestamp(seconds=3601),
)
ISSUED = tokens_pb2.IssueTokenResponse(token="s3cret", metadata=KNOWN)
ISSUE = ("tokens", "issue", "org_1", "--subject", "alice")


def test_issue_prints_the_token_alone_and_tells_the_rest(api: Any, cli: Any) -> None:
    api.answer("IssueToken", ISSUED)
    done = cli(*ISSUE, "--scope", "certificates.write", "--scope", "audit.read", "--role", "auditor", "--ttl", "2h")
    request = api.received[0].request

    assert (done.code, done.out) == (0, "s3cret\n")
    assert "s3cret" not in done.err
    assert "tenants/org_1/tokens/1 for alice, until 1970-01-01T01:00:01Z" in done.err
    assert "tokens revoke tenants/org_1/tokens/1" in done.err
    assert (request.parent, request.subject, request.role) == ("tenants/org_1", "alice", rules_pb2.ROLE_AUDITOR)
    assert (list(request.scopes), request.ttl.seconds) == (["certificates.write", "audit.read"], 7200)


def test_with_json_issue_prints_the_token_with_what_is_known_of_it(api: Any, cli: Any) -> None:
    api.answer("IssueToken", ISSUED)
    done = cli(*ISSUE, "--json")

    assert done.json["token"] == "s3cret"
    assert done.json["metadata"]["name"] == "tenants/org_1/tokens/1"
    assert api.received[0].request.role == rules_pb2.ROLE_TENANT_MEMBER


def test_a_token_file_is_for_its_owner_alone(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer("IssueToken", ISSUED)
    file = tmp_path / "alice.token"
    file.write_text("an older and longer one")
    file.chmod(0o644)
    done = cli(*ISSUE, "--out", str(file))

    assert (done.code, done.out) == (0, "")
    assert file.read_text() == "s3cret\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_is_named(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer("IssueToken", ISSUED)
    done = cli(*ISSUE, "--out", str(tmp_path))

    assert done.code == 4
    assert "cannot be written: Is a directory" in done.err


def test_a_role_that_no_token_can_have_is_a_usage_error(api: Any, cli: Any) -> None:
    assert cli(*ISSUE, "--role", "platform-admin").code == 2
    assert api.received == []


def test_a_check_alone_issues_nothing(api: Any, cli: Any) -> None:
    api.answer("IssueToken", tokens_pb2.IssueTokenResponse(metadata=KNOWN))
    done = cli(*ISSUE, "--validate-only")

    assert done.code == 0
    assert "nothing was issued" in done.err
    assert api.received[0].request.validate_only


def test_revoke_shows_when_it_was(api: Any, cli: Any) -> None:
    revoked = tokens_pb2.Token()
    revoked.CopyFrom(KNOWN)
    revoked.revoke_time.seconds = 60
    api.answer("RevokeToken", revoked)
    done = cli("tokens", "revoke", "tenants/org_1/tokens/1")

    assert ["revoke_time", "1970-01-01T00:01:00Z"] in [line.split() for line in done.out.splitlines()]
    assert "tokens list tenants/org_1" in done.err


def test_tokens_are_listed_and_got(api: Any, cli: Any) -> None:
    api.answer("ListTokens", tokens_pb2.ListTokensResponse(tokens=[KNOWN]))
    api.answer("GetToken", KNOWN)
    listed, got = cli("tokens", "list", "org_1"), cli("tokens", "get", "tenants/org_1/tokens/1", "--json")

    assert listed.out.splitlines()[1].split()[:4] == [
        "tenants/org_1/tokens/1", "alice", "ROLE_TENANT_MEMBER", "certificates.write",
    ]  # fmt: skip
    assert got.json["subject"] == "alice"
    assert "revoke_time" not in got.json


def test_the_enrolment_token_is_traded_for_the_administrators(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer(
        "GetEnrolmentToken",
        tokens_pb2.EnrolmentToken(
            name="tenants/org_1/enrolment", enrolment_token="one-time", expire_time=Timestamp(seconds=60)
        ),
    )
    api.answer("RedeemEnrolmentToken", ISSUED)
    got = cli("tokens", "enrolment", "org_1")
    as_json = cli("tokens", "enrolment", "org_1", "--json")
    (tmp_path / "enrol").write_text(got.out)
    done = cli("tokens", "redeem", "org_1", "--file", str(tmp_path / "enrol"), "--out", str(tmp_path / "admin"))

    assert (got.out, as_json.json["enrolment_token"]) == ("one-time\n", "one-time")
    assert done.code == 0
    assert api.received[-1].request == tokens_pb2.RedeemEnrolmentTokenRequest(
        name="tenants/org_1/enrolment", enrolment_token="one-time"
    )
    assert (tmp_path / "admin").read_text() == "s3cret\n"
