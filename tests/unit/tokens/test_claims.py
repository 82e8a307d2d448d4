"""How strictly a token is read, and why each that is not one is refused."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.tokens.claims import (
    PLATFORM_AUDIENCE,
    TENANT_AUDIENCE,
    Claims,
    RefusedTokenError,
    read_claims,
    read_kid,
    tenant_claims,
    write_claims,
)
from control_plane.tokens.model import SCOPES, Grant, Token, new_token, subject_violation

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KID = UUID("01890000-0000-7000-8000-000000000001")
CLAIMS = Claims(
    audience=TENANT_AUDIENCE,
    subject="alice",
    role="tenant-member",
    scopes=("certificates.read",),
    token_id=UUID("01890000-0000-7000-8000-000000000002"),
    issue_time=NOW,
    not_before=NOW,
    expire_time=NOW + timedelta(hours=1),
    tenant_id="org_1",
)
SUBJECTS = st.text(min_size=1, max_size=200).filter(lambda text: subject_violation(text) is None)


def b64(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def cause_of_header(token: str) -> str:
    with pytest.raises(RefusedTokenError) as refused:
        read_kid(token)
    return refused.value.cause


def cause_of_claims(payload: bytes, *, audience: str = TENANT_AUDIENCE, now: datetime = NOW) -> str:
    with pytest.raises(RefusedTokenError) as refused:
        read_claims(payload, audience=audience, now=now)
    return refused.value.cause


@given(
    subject=SUBJECTS,
    role=st.sampled_from(["tenant-admin", "tenant-member", "auditor"]),
    scopes=st.permutations(sorted(SCOPES)),
    seconds=st.integers(60, 24 * 3600),
)
def test_what_is_written_is_read(subject: str, role: str, scopes: list[str], seconds: int) -> None:
    written = replace(
        CLAIMS, subject=subject, role=role, scopes=tuple(scopes), expire_time=NOW + timedelta(seconds=seconds)
    )

    assert read_claims(write_claims(written), audience=TENANT_AUDIENCE, now=NOW) == written


def test_the_claims_of_a_token_are_the_same_each_time() -> None:
    grant = Grant(subject="alice", role="auditor", scopes=("audit.read",), lifetime=timedelta(minutes=5, seconds=0.7))
    token = new_token(grant, token_id=CLAIMS.token_id, kid=KID, now=NOW + timedelta(seconds=0.999))
    restored = Token(**{name: getattr(token, name) for name in Token.__slots__})

    assert write_claims(tenant_claims(token, "org_1")) == write_claims(tenant_claims(restored, "org_1"))
    assert (token.create_time, token.expire_time) == (NOW, NOW + timedelta(minutes=5))


def test_the_kid_is_read_from_the_only_header_that_there_is() -> None:
    token = f"{b64({'alg': 'EdDSA', 'kid': str(KID), 'typ': 'JWT'})}.{b64({})}.{b64(bytes(64))}"

    assert read_kid(token) == KID


@pytest.mark.behaviour("T-E9")
@pytest.mark.parametrize(
    ("header", "cause"),
    [
        ({"alg": "none", "typ": "JWT"}, "TOKEN_ALGORITHM"),
        ({"alg": "HS256", "kid": str(KID), "typ": "JWT"}, "TOKEN_ALGORITHM"),
        ({"alg": "ES384", "kid": str(KID), "typ": "JWT"}, "TOKEN_ALGORITHM"),
        ({"alg": {"ES256": 1}, "kid": str(KID), "typ": "JWT"}, "TOKEN_ALGORITHM"),
        ({"alg": ["EdDSA"], "kid": str(KID), "typ": "JWT"}, "TOKEN_ALGORITHM"),
        ({"alg": "EdDSA", "kid": str(KID), "typ": "JWT", "crit": ["exp"]}, "TOKEN_HEADER"),
        ({"alg": "EdDSA", "kid": str(KID), "typ": "JWT", "jku": "https://a.example"}, "TOKEN_HEADER"),
        ({"alg": "EdDSA", "kid": str(KID), "typ": "JWT", "zip": "DEF"}, "TOKEN_HEADER"),
        ({"alg": "EdDSA", "kid": str(KID)}, "TOKEN_HEADER"),
        ({"alg": "EdDSA", "kid": str(KID), "typ": "jose"}, "TOKEN_HEADER"),
        ({"alg": "EdDSA", "kid": "../../dev/null", "typ": "JWT"}, "TOKEN_KEY_ID"),
        ({"alg": "EdDSA", "kid": "' OR 1=1 --", "typ": "JWT"}, "TOKEN_KEY_ID"),
        ({"alg": "EdDSA", "kid": KID.hex, "typ": "JWT"}, "TOKEN_KEY_ID"),
        ({"alg": "EdDSA", "kid": 1, "typ": "JWT"}, "TOKEN_KEY_ID"),
        (b'{"alg":"none","alg":"EdDSA","kid":"x","typ":"JWT"}', "TOKEN_MALFORMED"),
        (b"[]", "TOKEN_MALFORMED"),
        (b"\xff", "TOKEN_MALFORMED"),
        (b"[" * 2000, "TOKEN_MALFORMED"),
        (b" " * 6144, "TOKEN_TOO_LONG"),
    ],
)
def test_a_header_that_is_not_ours_is_refused(header: object, cause: str) -> None:
    assert cause_of_header(f"{b64(header)}.{b64({})}.{b64(bytes(64))}") == cause


@pytest.mark.behaviour("T-E9")
@pytest.mark.parametrize("part", [0, 1, 2])
def test_another_spelling_of_a_token_is_not_that_token(part: int) -> None:
    """Whatever a library that opens it would make of it."""
    segments = [b64({"alg": "EdDSA", "kid": str(KID), "typ": "JWT"}), b64({"a": 1}), b64(bytes(64))]
    assert read_kid(".".join(segments)) == KID
    spelt = segments[part]
    # The last character of each has bits that mean nothing.
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = f"{spelt[:-1]}{last[last.index(spelt[-1]) ^ 1]}"
    for text in (other, f"{spelt}=", f"{spelt}\n", f" {spelt}"):
        assert base64.urlsafe_b64decode(f"{text.strip()}==") == base64.urlsafe_b64decode(f"{spelt}==")
        assert cause_of_header(".".join([*segments[:part], text, *segments[part + 1 :]])) == "TOKEN_MALFORMED"


@pytest.mark.behaviour("T-E9")
def test_a_token_has_three_parts() -> None:
    header, claims, signature = b64({"alg": "EdDSA", "kid": str(KID), "typ": "JWT"}), b64({}), b64(bytes(64))

    for text in (header, f"{header}.{claims}", f"{header}.{claims}.{signature}.{signature}"):
        assert cause_of_header(text) == "TOKEN_MALFORMED"


@pytest.mark.behaviour("T-E9")
@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    assert cause_of_header(text).startswith("TOKEN_")


@pytest.mark.behaviour("T-E9")
@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"iss": "another"}, "TOKEN_AUDIENCE"),
        ({"aud": "bulkhead-admin"}, "TOKEN_AUDIENCE"),
        ({"aud": ["csm"]}, "TOKEN_AUDIENCE"),
        ({"sub": None}, "TOKEN_CLAIMS"),
        ({"sub": ""}, "TOKEN_CLAIMS"),
        ({"sub": "a\r\nb"}, "TOKEN_CLAIMS"),
        ({"sub": "\ud800"}, "TOKEN_CLAIMS"),
        ({"role": "platform-admin"}, "TOKEN_CLAIMS"),
        ({"role": "service"}, "TOKEN_CLAIMS"),
        ({"scopes": "certificates.read"}, "TOKEN_CLAIMS"),
        ({"scopes": [1]}, "TOKEN_CLAIMS"),
        ({"tid": None}, "TOKEN_CLAIMS"),
        ({"tid": ""}, "TOKEN_CLAIMS"),
        ({"jti": "1"}, "TOKEN_CLAIMS"),
        ({"exp": True}, "TOKEN_CLAIMS"),
        ({"exp": 1e300}, "TOKEN_CLAIMS"),
        ({"exp": 2**53}, "TOKEN_CLAIMS"),
        ({"exp": 2**53 - 1}, "TOKEN_CLAIMS"),
        ({"exp": -1}, "TOKEN_CLAIMS"),
        ({"exp": int(NOW.timestamp())}, "TOKEN_EXPIRED"),
        ({"nbf": int(NOW.timestamp()) + 31}, "TOKEN_NOT_YET_VALID"),
        ({"iat": int(NOW.timestamp()) + 31}, "TOKEN_NOT_YET_VALID"),
        ({"exp": int(NOW.timestamp()) + 24 * 3600 + 1}, "TOKEN_LIVES_TOO_LONG"),
        ({"iat": int(NOW.timestamp()) - 24 * 3600}, "TOKEN_LIVES_TOO_LONG"),
    ],
)
def test_claims_that_are_not_of_this_kind_or_time_are_refused(changes: dict[str, Any], cause: str) -> None:
    payload = json.loads(write_claims(CLAIMS)) | changes

    assert cause_of_claims(json.dumps(payload).encode()) == cause


@pytest.mark.behaviour("T-E9")
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "9" * 5000, "1e400", "0x7fffffff"])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    payload = json.loads(write_claims(CLAIMS)) | {"exp": "HERE"}

    assert cause_of_claims(json.dumps(payload).replace('"HERE"', text).encode()) in {"TOKEN_MALFORMED", "TOKEN_CLAIMS"}


@pytest.mark.behaviour("T-E9")
def test_a_claim_that_is_there_twice_is_refused_at_any_depth() -> None:
    text = write_claims(CLAIMS).decode()

    assert cause_of_claims(text.replace("{", '{"sub":"root",').encode()) == "TOKEN_MALFORMED"
    assert cause_of_claims(text.replace("{", '{"x":[{"a":1,"a":2}],').encode()) == "TOKEN_MALFORMED"


def test_a_claim_that_is_new_to_the_reader_is_passed_over() -> None:
    payload = json.loads(write_claims(CLAIMS)) | {"epoch": 7}

    assert read_claims(json.dumps(payload).encode(), audience=TENANT_AUDIENCE, now=NOW) == CLAIMS


@pytest.mark.parametrize(("seconds", "accepted"), [(0, True), (3599, True), (3600, False), (-30, True), (-31, False)])
def test_a_token_is_accepted_from_its_issue_to_its_expiry(seconds: int, *, accepted: bool) -> None:
    now = NOW + timedelta(seconds=seconds)
    try:
        read_claims(write_claims(CLAIMS), audience=TENANT_AUDIENCE, now=now)
        outcome = True
    except RefusedTokenError:
        outcome = False

    assert outcome is accepted


def test_a_platform_token_has_a_platform_role_and_no_tenant() -> None:
    platform = replace(CLAIMS, audience=PLATFORM_AUDIENCE, role="platform-admin", tenant_id=None)
    with_tenant = json.loads(write_claims(platform)) | {"tid": "org_1"}
    as_tenant = replace(platform, role="tenant-admin")

    assert read_claims(write_claims(platform), audience=PLATFORM_AUDIENCE, now=NOW) == platform
    assert cause_of_claims(json.dumps(with_tenant).encode(), audience=PLATFORM_AUDIENCE) == "TOKEN_CLAIMS"
    assert cause_of_claims(write_claims(as_tenant), audience=PLATFORM_AUDIENCE) == "TOKEN_CLAIMS"
    assert cause_of_claims(write_claims(platform)) == "TOKEN_AUDIENCE"
