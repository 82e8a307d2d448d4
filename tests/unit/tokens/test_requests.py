"""What may be asked for in a token."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from bulkhead.v1 import rules_pb2, tokens_pb2
from control_plane.errors import InvalidArgumentError
from control_plane.ids import uuid_of
from control_plane.tokens.model import Grant, scope_violations, subject_violation
from control_plane.tokens.servicer import _wanted

GRANT = Grant(subject="alice", role="auditor", scopes=("audit.read", "certificates.read"), lifetime=timedelta(hours=1))


def violated(request: tokens_pb2.IssueTokenRequest) -> set[str]:
    try:
        _wanted(request, actor="tenant-admin:admin")
    except InvalidArgumentError as error:
        return {violation.field for violation in error.violations}
    return set()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", ""),
        ("subject", " alice"),
        ("subject", "a" * 201),
        ("subject", "\u202egpj"),
        ("subject", "a\u0301"),
        ("subject", "a\0b"),
        ("subject", "a\r\nb"),
        ("subject", "\x1b[31m"),
        ("role", rules_pb2.ROLE_PLATFORM_ADMIN),
        ("role", rules_pb2.ROLE_PROVIDER_OPERATOR),
        ("role", rules_pb2.ROLE_SERVICE),
        ("role", rules_pb2.ROLE_EDGE),
        ("role", 99),
        ("role", -1),
        ("scopes[0]", ["*"]),
        ("scopes[0]", [""]),
        ("scopes[1]", ["audit.read", "audit.read"]),
        ("scopes", ["audit.read"] * 33),
        ("ttl", Duration(seconds=59)),
        ("ttl", Duration()),
        ("ttl", Duration(seconds=-3600)),
        ("ttl", Duration(seconds=24 * 3600, nanos=1000)),
        ("ttl", Duration(seconds=2**63 - 1)),
        ("ttl", Duration(seconds=-(2**63))),
        ("request_id", "00000000-0000-0000-0000-00000000000"),
        ("request_id", "{00000000-0000-7000-8000-00000000000}"),
        ("request_id", "urn:uuid:00000000-0000-7000-8000-000000000000"),
        ("request_id", "\0"),
    ],
)
def test_a_bad_value_is_a_violation_of_its_field(field: str, value: object) -> None:
    fields = {"parent": "tenants/org_1", "subject": "bob", field.partition("[")[0]: value}

    assert field in violated(tokens_pb2.IssueTokenRequest(**fields))  # type: ignore[arg-type]  # one field of several types


@pytest.mark.parametrize(
    "request_",
    [
        tokens_pb2.IssueTokenRequest(subject="b"),
        tokens_pb2.IssueTokenRequest(subject="山" * 200, role=rules_pb2.ROLE_TENANT_ADMIN),
        tokens_pb2.IssueTokenRequest(subject="Ann Ó'Neil <ann@example.com>", ttl=Duration(seconds=60)),
        tokens_pb2.IssueTokenRequest(subject="b", ttl=Duration(seconds=24 * 3600)),
        tokens_pb2.IssueTokenRequest(subject="b", request_id="01890000-0000-7000-8000-00000000000A"),
        tokens_pb2.IssueTokenRequest(subject="b", scopes=["audit.read", "certificates.read", "certificates.write"]),
    ],
)
def test_a_good_request_has_no_violations(request_: tokens_pb2.IssueTokenRequest) -> None:
    assert violated(request_) == set()


@given(st.binary(max_size=200))
def test_whatever_arrives_is_a_request_or_a_list_of_violations(data: bytes) -> None:
    try:
        request = tokens_pb2.IssueTokenRequest.FromString(data)
    except Exception:  # noqa: BLE001 not a message at all: gRPC refuses it
        return

    assert violated(request) <= {"subject", "role", "scopes", "ttl", "request_id"} | {f"scopes[{n}]" for n in range(32)}


def test_requests_differ_by_who_asks_and_what_for() -> None:
    reordered = Grant(subject="alice", role="auditor", scopes=GRANT.scopes[::-1], lifetime=GRANT.lifetime)
    others = [
        Grant(subject="bob", role="auditor", scopes=GRANT.scopes, lifetime=GRANT.lifetime),
        Grant(subject="alice", role="tenant-member", scopes=GRANT.scopes, lifetime=GRANT.lifetime),
        Grant(subject="alice", role="auditor", scopes=GRANT.scopes[:1], lifetime=GRANT.lifetime),
        Grant(subject="alice", role="auditor", scopes=GRANT.scopes, lifetime=timedelta(seconds=3601)),
    ]

    assert GRANT.digest("a:x") == reordered.digest("a:x")
    assert len({GRANT.digest("a:x"), GRANT.digest("a:y"), *(other.digest("a:x") for other in others)}) == 6


@given(st.text())
def test_a_subject_that_is_allowed_is_shown_as_it_is(subject: str) -> None:
    if subject_violation(subject) is None:
        assert subject.isprintable()
        assert subject == subject.strip()


def test_each_scope_at_fault_is_named_by_its_index() -> None:
    assert scope_violations(["audit.read", "x", "audit.read"]) == {1: "is no scope", 2: "is there twice"}


def test_a_uuid_is_read_in_one_form_only() -> None:
    text = "01890000-0000-7000-8000-00000000000a"

    assert str(uuid_of(text)) == text
    assert [uuid_of(other) for other in ("", text.upper(), text.replace("-", ""), f"{{{text}}}", text + "\n")] == [
        None
    ] * 5
