"""The platform's own tokens, and the key that they are signed with."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.private_file import ExposedKeyError
from control_plane.tokens.claims import PLATFORM_AUDIENCE, RefusedTokenError, read_claims, read_kid
from control_plane.tokens.platform import PlatformIssuer, load_public_key, platform_kid
from control_plane.tokens.signature import verified_payload

NOW = datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_token_says_who_runs_the_platform_and_for_how_long(tmp_path: Path) -> None:
    issuer = PlatformIssuer.load_or_create(tmp_path / "key")
    token = issuer.issue("root", "platform-admin", ttl=HOUR, now=NOW)
    claims = read_claims(verified_payload(token, issuer.public_key), audience=PLATFORM_AUDIENCE, now=NOW)

    assert read_kid(token) == platform_kid(issuer.public_key)
    assert (claims.subject, claims.role, claims.tenant_id) == ("root", "platform-admin", None)
    assert claims.expire_time - claims.issue_time == HOUR


def test_another_platforms_token_is_refused(tmp_path: Path) -> None:
    ours, theirs = (PlatformIssuer.load_or_create(tmp_path / name) for name in ("ours", "theirs"))
    token = theirs.issue("root", "platform-admin", ttl=HOUR, now=NOW)
    with pytest.raises(RefusedTokenError) as refused:
        verified_payload(token, ours.public_key)

    assert refused.value.cause == "TOKEN_SIGNATURE"


def test_the_key_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = PlatformIssuer.load_or_create(path)
    again = PlatformIssuer.load_or_create(path)

    assert platform_kid(first.public_key) == platform_kid(again.public_key)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ExposedKeyError):
        PlatformIssuer.load_or_create(path)


def test_of_many_that_make_the_key_at_once_all_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        issuers = list(threads.map(PlatformIssuer.load_or_create, [tmp_path / "key"] * 16))

    assert len({platform_kid(issuer.public_key) for issuer in issuers}) == 1
    assert load_public_key(tmp_path / "key") == issuers[0].public_key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.pub"]


def test_who_only_verifies_waits_for_an_issuer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_public_key(tmp_path / "key")


def test_a_key_of_another_kind_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(ValueError, match="not an Ed25519 key"):
        PlatformIssuer.load_or_create(path)


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    assert "private" not in repr(PlatformIssuer.load_or_create(tmp_path / "key"))


@pytest.mark.parametrize(
    ("subject", "role", "ttl"),
    [
        ("root", "tenant-admin", HOUR),
        ("", "platform-admin", HOUR),
        ("root", "platform-admin", timedelta(hours=25)),
        ("root", "platform-admin", timedelta(seconds=1)),
    ],
)
def test_no_token_is_issued_that_would_be_refused(tmp_path: Path, subject: str, role: str, ttl: timedelta) -> None:
    issuer = PlatformIssuer.load_or_create(tmp_path / "key")
    with pytest.raises(ValueError, match="no platform token"):
        issuer.issue(subject, role, ttl=ttl, now=NOW)
